"""Every kind and hook has its page, and what the pages say works: code, recipes and commands."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from songkit import cli, plugin
from songkit.build import build
from songkit.lineage import inputs_of
from songkit.plugin import KINDS
from songkit.recipe import load
from songkit.registry import Registry
from songkit.scaffold import FACTORIES, write_plugin

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md")), *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
REGISTRY = Registry.discover()

STAND_INS = {
    "lively.yaml": "defaults: [mini/song]\n",
    "ours.yaml": "defaults: [mini/song]\n",
    "my-recipe.yaml": "defaults: [levo2/mini/vae]\n",
    "my-vae.yaml": "defaults: [levo2/mini/vae]\n",
    "my-dpo.yaml": "defaults: [levo2/mini/planner]\n",
    "my-songs.yaml": "defaults: [levo2/mini/songs]\n",
    "our-tiers.yaml": "defaults: [levo2/mini/songs]\n",
    "our-songs.yaml": "defaults: [levo2/mini/songs]\n",
    "our-merge.yaml": "defaults: [levo2/mini/merge]\n",
    "pairs.yaml": "defaults: [levo2/mini/mine]\n",
    "our-tokens.yaml": "defaults: [levo2/mini/tokenize]\n",
}
"""Recipes that a page asks its reader to write; where it says what is in them, other tests read that."""

ONLY_PARSED = {
    "generate": "sings, which takes seconds; tests/cli runs it on a tiny model",
    "import": "reads released weights, which are not here; tests/cli/test_import.py runs it on small ones",
    "prepare": "makes fifteen hours of songs; tests/recipes runs it on three",
    "evaluate": "needs songs; tests/unit/test_evaluate.py runs it",
    **dict.fromkeys(("runs ls", "runs show", "runs tree"), "needs runs; tests/unit/test_ladder.py runs it"),
    "mine": "needs the weights of a miniature; tests/unit/test_mine.py runs it on small ones",
    "merge": "needs trainings; tests/unit/test_merge.py runs it",
    "semi-online": "needs the weights of a miniature; tests/unit/test_semi_online.py runs it on small ones",
    "plugins check": "tries every law; tests/conformance does",
    "plugins new": "is run for every kind by tests/unit/test_scaffold.py",
}
"""Documented commands that are not run here: their arguments are parsed, and their recipe is loaded."""

OF_A_TUTORIAL = ("loud/loudness", "whistle/codec", "whistle.yaml", "my-model.yaml")
"""What exists only once a page has been followed; tests/docs runs the tutorial as a whole, tests/cli the import."""


def commands() -> list[tuple[str, str]]:
    """Returns every documented songkit command with its page."""
    found = []
    for page in PAGES:
        for language, _, block in FENCE.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines() if language == "sh" else []
            found += [
                (page.relative_to(ROOT).as_posix(), line.strip()) for line in lines if line.startswith("songkit ")
            ]
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the recipes that pages ask their readers to write, which is also the current one."""
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"format: 1\n{text}")
    for name in ("MUSIC", "VALID"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_are_found() -> None:
    assert len(commands()) > 50
    assert {line.split()[1] for _, line in commands()} == set(cli.COMMANDS)


@pytest.mark.parametrize(("page", "line"), list(dict.fromkeys(commands())), ids=lambda text: text)
def test_a_documented_command_runs(page: str, line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line.partition(" | ")[0], comments=True)[1:]  # what follows is another program
    parser, _ = cli._parser(words)
    args = parser.parse_args(words)
    if set(words) & set(OF_A_TUTORIAL):
        return
    name = f"{args.command} {args.action}" if hasattr(args, "action") else args.command
    if name in ONLY_PARSED:
        check_what_it_names(args)
        return
    if args.command == "train":
        words += ["--dry-run"]
        if args.resume:
            words.remove("--resume")  # there is nothing to go on with

    status, told = cli.main(words), capsys.readouterr()
    lacks = args.command == "train" and "NOT THERE" in told.out  # data and weights that the reader has made before
    assert status == (2 if lacks else 0), told.err


def check_what_it_names(args: argparse.Namespace) -> None:
    """Loads the recipe and looks for the files that a command names."""
    recipe = getattr(args, "recipe", None) or getattr(args, "model", None)
    if recipe is not None and "=" not in recipe:  # `songkit merge` can do without one
        load(recipe, getattr(args, "overrides", ()), registry=REGISTRY, allow_missing=True)
    for word in vars(args).values():
        for text in word if isinstance(word, list) else [word]:
            assert not str(text).startswith("examples/") or (ROOT / str(text)).is_file()


def test_the_recipe_for_mining_needs_nothing_that_its_reader_has_not_got(place: Path) -> None:
    page = (DOCS / "how-to" / "mine-preferences.md").read_text(encoding="utf-8")
    [block] = [block for language, _, block in FENCE.findall(page) if language == "yaml"]
    (place / "pairs.yaml").write_text(block)

    weights = [read.key for read in inputs_of(load("pairs.yaml", registry=REGISTRY)) if read.key.endswith(".weights")]

    assert sorted(weights) == [f"{role}.weights" for role in ("codec", "conditioner", "planner", "refiner")]


def test_the_ladder_to_write_is_one_once_the_files_that_the_page_names_are_beside_it(place: Path) -> None:
    page = (DOCS / "how-to" / "climb-a-ladder.md").read_text(encoding="utf-8")
    text = page.partition("## Write one")[2].partition("\n## ")[0]
    [block] = [block for _, _, block in FENCE.findall(text)]
    (place / "ladder.yaml").write_text(block)
    for name, parent in (("my-codes.yaml", "levo2/mini/tokenize"), ("my-planner.yaml", "levo2/mini/planner")):
        assert f"`{name}`" in text
        (place / name).write_text(f"format: 1\ndefaults: [{parent}]\n")

    assert list(load("ladder.yaml", registry=REGISTRY).stages) == ["codes", "pretrain", "sft"]


def test_every_kind_has_a_page_in_the_navigation_and_in_the_reference() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    reference = (DOCS / "reference" / "kinds.md").read_text(encoding="utf-8")

    assert [kind for kind in KINDS if not (DOCS / "how-to" / f"{kind}.md").is_file()] == []
    assert [kind for kind in KINDS if f"how-to/{kind}.md" not in navigation] == []
    assert [kind for kind in KINDS if f"\n## {kind}\n" not in reference] == []


def test_every_hook_is_in_the_reference() -> None:
    hooks = [name for name in vars(plugin) if name.startswith("songkit_")]
    reference = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")

    assert len(hooks) >= 2
    assert [hook for hook in hooks if f"\n## `{hook}`\n" not in reference] == []


@pytest.mark.parametrize("kind", FACTORIES)
def test_a_how_to_leads_to_a_component_that_its_recipe_uses(kind: str, tmp_path: Path, monkeypatch) -> None:
    text = (DOCS / "how-to" / f"{kind}.md").read_text(encoding="utf-8")
    [name] = set(re.findall(rf"^songkit plugins new --kind {kind} (\S+)$", text, re.MULTILINE))
    [recipe] = [block for language, title, block in FENCE.findall(text) if title == f"{name}.yaml"]
    write_plugin(kind, name, tmp_path / "package")
    monkeypatch.syspath_prepend(tmp_path / "package" / "src")
    package = f"songkit_{name.replace('-', '_')}"
    module = importlib.import_module(f"{package}.plugin")
    (tmp_path / "recipe.yaml").write_text(recipe)

    loaded = load(tmp_path / "recipe.yaml", registry=REGISTRY.with_modules({name: module}))

    used = [node for node in [*loaded.roles.values(), *loaded.metrics.values()] if uses(node, f"{name}/{kind}")]
    assert len(used) == 1
    if kind != "task":  # it is built of what it trains
        assert build(used[0]) is not None


def uses(node, id_: str) -> bool:
    """Returns whether a node or a part of it is the component."""
    return node.id == id_ or any(uses(part, id_) for part in node.children.values() if not isinstance(part, dict))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_on_a_page_imports_what_exists(page: Path) -> None:
    for language, _, block in FENCE.findall(page.read_text(encoding="utf-8")):
        for statement in ast.walk(ast.parse(block)) if language == "python" else ():
            if not isinstance(statement, ast.ImportFrom) or str(statement.module).partition(".")[0] != "songkit":
                continue
            module = importlib.import_module(str(statement.module))
            assert [alias.name for alias in statement.names if not hasattr(module, alias.name)] == []
