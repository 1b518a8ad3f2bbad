"""The documentation speaks of what is there: every command, component and file that it names."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from songkit import preference_settings
from songkit.cli import COMMANDS
from songkit.registry import Registry
from songkit.request import STRUCTURE_TAGS, read_requests
from songkit.settings import SECTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md")), *sorted(DOCS.rglob("*.md"))]
REGISTRY = Registry.discover()
FENCE = re.compile(r"^```(\w+)(?: title=\"[^\"]*\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_generated_pages_are_up_to_date() -> None:
    found = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stdout + found.stderr


def test_every_component_and_command_has_a_heading() -> None:
    components = (DOCS / "reference" / "components.md").read_text(encoding="utf-8")
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    ours = {"songkit", "levo2", "mini", "synth", "judges", "planners"}
    ids = [entry.id for entry in REGISTRY.list() if entry.plugin.name in ours]

    assert len(ids) > 10
    assert [name for name in ids if f"### `{name}`" not in components] == []
    assert [name for name in COMMANDS if f"## songkit {name}\n" not in commands] == []


def test_every_section_of_a_recipe_is_on_the_page_of_recipes() -> None:
    page = (DOCS / "reference" / "recipes.md").read_text(encoding="utf-8")
    shown = {name for members in re.findall(r"members: \[([^\]]+)\]", page) for name in members.split(", ")}

    settings = {section.__name__ for section in SECTIONS.values()} | set(preference_settings.__all__)

    assert settings - shown == set()
    assert [key for key in SECTIONS if f"`{key}`" not in page] == []


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_lists_of_a_module_is_public_there(page: Path) -> None:
    listed = re.findall(
        r"^::: ([\w.]+)\n    options:\n      members: \[([^\]]+)\]", page.read_text("utf-8"), re.MULTILINE
    )

    missing = [
        f"{module}.{name}"
        for module, names in listed
        for name in re.split(r",\s+", names)
        if name not in importlib.import_module(module).__all__
    ]

    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    listed = re.findall(r"[\w/-]+\.md", str(config["nav"]))

    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    ids = {entry.id for entry in REGISTRY.list()} | set(REGISTRY.recipes())
    code = "\n".join(block for _, block in FENCE.findall(text))

    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    used = re.findall(r"\buse: ((?:songkit|levo2|mini|synth|judges|planners)/[\w-]+)", code)
    named = re.findall(r"`((?:songkit|levo2|mini|synth|judges|planners)/[\w/-]+)`", text)
    run = re.findall(r"^songkit ([\w-]+)", code, re.MULTILINE)
    files = re.findall(r"\b(?:examples|requirements|benchmarks)/[\w.-]+", text)

    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [name for name in [*used, *named] if name not in ids] == []
    assert [command for command in run if command not in COMMANDS] == []
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_requests_on_a_page_can_be_read(page: Path, tmp_path: Path) -> None:
    for number, (_, block) in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
        if not re.search(r"^\[verse\]$|\"gt_lyric\"|^\[\d\d:", block, re.MULTILINE):
            continue
        file = tmp_path / f"{number}.{'jsonl' if 'gt_lyric' in block else 'lrc' if '[00:' in block else 'txt'}"
        file.write_text(re.sub(r"^prompt: .*\n", "", block, flags=re.MULTILINE), encoding="utf-8")

        assert read_requests(file)


def test_the_tags_on_the_page_are_the_tags_of_the_program() -> None:
    text = (DOCS / "reference" / "request-formats.md").read_text(encoding="utf-8")

    assert set(re.findall(r"^\| (`\[.*\]`) \|", text, re.MULTILINE)) != set()
    assert [tag for tag in STRUCTURE_TAGS if f"`[{tag}]`" not in text] == []


def test_example_requests_can_be_read_and_pronounced() -> None:
    pytest.importorskip("hibari")
    from songkit.phonemes import phonemize

    requests = [*read_requests(ROOT / "examples" / "lyrics.txt"), *read_requests(ROOT / "examples" / "batch.jsonl")]

    assert len(requests) == 4
    assert all(phonemize(line) for request in requests for section in request.sections for line in section.lines)
