"""Recipes: merged, typed and checked, with every fault in its place."""

from __future__ import annotations

import functools
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from songkit import _formats, _yaml
from songkit.errors import RecipeError
from songkit.plugin import Component, hookimpl, ref, refs
from songkit.recipe import Recipe, dump, headline, load
from songkit.registry import Registry


@dataclass(kw_only=True)
class TowerConfig:
    """A backbone."""

    dim: int = 8
    """Width."""
    act: Literal["gelu", "silu"] = "silu"
    """Activation."""


@dataclass(kw_only=True)
class PartConfig:
    """Nested options."""

    rate: float = 1.0
    """Per second."""
    bits: int = 8
    """Each."""


@dataclass(kw_only=True)
class PlannerConfig:
    """A planner."""

    size: int
    """Needed."""
    causal: bool = True
    """Whether."""
    seconds: float | None = None
    """Long."""
    name: str = "x"
    """Of it."""
    pair: tuple[float, float] = (0.0, 1.0)
    """Two."""
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    """Many."""
    shares: dict[str, float] = field(default_factory=lambda: {"a": 0.5})
    """By name."""
    part: PartConfig = field(default_factory=lambda: PartConfig(bits=9))
    """Nested."""
    file: str = field(default="", metadata={"path": True})
    """Somewhere."""
    tower: Any = ref("backbone")
    second: Any = ref("backbone", optional=True)
    rewards: Any = refs("reward")

    def validate(self) -> list[str]:
        """Tells."""
        return [] if self.size > 0 else [f"size is {self.size}; expected more than 0"]


class Plugin:
    """The plugin of these tests."""

    revision = 1

    @hookimpl
    def songkit_components(self):
        def declare(kind, name, config, example):
            return Component(
                kind=kind, name=name, config=config, factory="x:y", example=example, revision=self.revision
            )

        return [
            declare("backbone", "tower", TowerConfig, TowerConfig()),
            declare("backbone", "other", TowerConfig, TowerConfig()),
            declare("planner", "planner", PlannerConfig, PlannerConfig(size=1)),
            declare("reward", "reward", PartConfig, PartConfig()),
            declare("metric", "metric", PartConfig, PartConfig()),
        ]


REGISTRY = Registry([]).with_modules({"t": Plugin()})
PLANNER = "planner: {use: t/planner, size: 3, tower: {use: t/tower, dim: 4}}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Returns a function that writes a recipe and returns its path; the current folder is another one."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def write(text: str, name: str = "r.yaml", version: str = "format: 1\n") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(version + text)
        return path

    return write


def problems(path: Path, *overrides: str, **options: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(path, overrides, registry=REGISTRY, **options)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def read(path: Path, *overrides: str, **options: Any) -> Recipe:
    return load(path, overrides, registry=options.pop("registry", REGISTRY), **options)


# --- composing -----------------------------------------------------------------------------------------------


def test_options_reach_the_config_with_their_types(write):
    text = "planner: {use: t/planner, size: 1e1, seconds: 2, pair: [1, 2], shares: {b: 1}, part: {rate: 3}, tower: "
    text += "t/tower}\n"
    node = read(write(text + "seed: 7\n")).roles["planner"]
    config = node.config
    assert (config.size, config.seconds, config.pair) == (10, 2.0, (1.0, 2.0))
    assert (config.shares, config.part, config.tower) == ({"a": 0.5, "b": 1.0}, PartConfig(rate=3.0, bits=9), None)
    assert (node.children["tower"].id, node.children["tower"].config) == ("t/tower", TowerConfig())
    assert "second" not in node.children
    assert node.children["rewards"] == {}


def test_parents_come_first_and_overrides_last(write):
    write("seed: 1\ntrainer: {max_steps: 1, batch_size: 1, log_every: 1}\n", "base/a.yaml")
    write("seed: 2\ntrainer: {batch_size: 2}\n", "base/b.yaml")
    path = write("defaults: [base/a, ./base/b.yaml]\ntrainer: {log_every: 3}\n")
    recipe = read(path, "trainer.threads=4", "trainer.precision=32")
    assert (recipe.seed, recipe.trainer.precision) == (2, "32")
    trainer = recipe.trainer
    assert (trainer.max_steps, trainer.batch_size, trainer.log_every, trainer.threads) == (1, 2, 3, 4)


def test_lists_replace(write):
    write("planner: {use: t/planner, size: 1, sizes: [1, 2, 3], tower: t/tower}\n", "a.yaml")
    recipe = read(write("defaults: [a]\nplanner: {sizes: [9]}\n"))
    assert recipe.roles["planner"].config.sizes == [9]


def test_another_use_drops_the_options_of_the_old_one(write):
    write(PLANNER, "a.yaml")
    for change in ("{tower: {use: t/other}}", "{tower: t/other}"):
        tower = read(write(f"defaults: [a]\nplanner: {change}\n")).roles["planner"].children["tower"]
        assert (tower.id, tower.config.dim) == ("t/other", 8)


def test_the_same_use_keeps_the_options(write):
    write(PLANNER, "a.yaml")
    for change in ("{tower: {use: t/tower, act: gelu}}", "{tower: {act: gelu}}"):
        tower = read(write(f"defaults: [a]\nplanner: {change}\n")).roles["planner"].children["tower"]
        assert tower.config == TowerConfig(dim=4, act="gelu")


def test_an_id_alone_takes_options_from_an_override(write):
    path = write("planner: {use: t/planner, size: 1, tower: t/tower}\n")
    assert read(path, "planner.tower.dim=5").roles["planner"].children["tower"].config.dim == 5


def test_null_takes_a_component_away(write):
    path = write(PLANNER + "metrics: {m: t/metric}\n")
    assert list(read(path).metrics) == ["m"]
    recipe = read(path, "planner=null", "metrics.m=null")
    assert (dict(recipe.roles), dict(recipe.metrics)) == ({}, {})


def test_references_keep_types_and_fill_texts(write, monkeypatch):
    monkeypatch.setenv("ROOT", "/data")
    text = "vars: {n: 3, name: 'a-${vars.n}'}\npaths: {root: '${oc.env:ROOT}', file: '${paths.root}/f'}\n"
    text += (
        "planner: {use: t/planner, size: '${vars.n}', name: '${vars.name}!', file: '${paths.file}', tower: t/tower}\n"
    )
    config = read(write(text)).roles["planner"].config
    assert (config.size, config.name, config.file) == (3, "a-3!", "/data/f")


def test_paths_start_from_the_file_only_with_a_leading_dot(write, tmp_path):
    write("planner: {use: t/planner, size: 1, file: ./f, weights: ../w.safetensors, tower: t/tower}\n", "deep/a.yaml")
    path = write("defaults: [deep/a]\npaths: {x: data}\nplanner: {tower: {weights: '${paths.x}/t'}}\n")
    node = read(path).roles["planner"]
    assert node.config.file == str(tmp_path / "deep" / "f")
    assert node.weights == tmp_path / "w.safetensors"
    assert node.children["tower"].weights == tmp_path / "cwd" / "data" / "t"
    assert read(path, "planner.weights=random").roles["planner"].weights == "random"


def test_a_resolved_recipe_loads_to_the_same_values(write):
    text = PLANNER + "metrics: {m: {use: t/metric, rate: 1e-9}}\nvars: {a: '1e-5', b: 'on', c: '007', d: null}\n"
    recipe = read(write(text + "optimizer: {lr: 1e-7}\n"), "planner.weights=w", "planner.name='1:30'")
    again = read(write(dump(recipe), "again.yaml", version=""))
    assert again.resolved == recipe.resolved
    assert again.roles["planner"].config == recipe.roles["planner"].config
    assert again.resolved["planner"]["tower"] == {"use": "t/tower", "dim": 4, "act": "silu"}


def test_another_revision_is_refused_unless_allowed(write):
    path = write(dump(read(write(PLANNER))), "old.yaml", version="")
    plugin = Plugin()
    plugin.revision = 2
    newer = Registry([]).with_modules({"t": plugin})
    with pytest.raises(RecipeError, match="'t/planner' was at revision 1 and is now at 2"):
        read(path, registry=newer)
    assert read(path, registry=newer, allow_revision=True).roles["planner"].revision == 2


def test_origins_name_file_or_override(write):
    write("seed: 3\n", "a.yaml")
    path = write("defaults: [a]\ntrainer: {max_steps: 3}\n")
    origins = read(path, "trainer.threads=2").origins
    assert origins["seed"].endswith("a.yaml:2:7")
    assert origins["trainer.max_steps"] == f"{path}:3:22"
    assert origins["trainer.threads"] == "command line `trainer.threads=2`"


def test_a_value_comes_from_a_place_or_is_a_default_of_a_component_or_section(write):
    path = write(PLANNER + "metrics: {m: t/metric}\n")
    recipe = read(path, "trainer.threads=2")
    origins = {
        "planner.tower.dim": f"{path}:2:63",
        "planner.tower.act": "default of t/tower",
        "planner.causal": "default of t/planner",
        "metrics.m.use": f"{path}:3:14",
        "metrics.m.bits": "default of t/metric",
        "trainer.threads": "command line `trainer.threads=2`",
        "trainer.max_steps": "default of trainer",
    }
    assert {key: recipe.origin(key) for key in origins} == origins


def test_the_first_comment_is_the_headline(write):
    assert headline(write("", version="# What it does.\n# More.\nformat: 1\n")) == "What it does."
    wrapped = "# Runs 4.5 times\n# as fast. More.\n# Even more.\nformat: 1\n"
    assert headline(write("", version=wrapped)) == "Runs 4.5 times as fast."
    assert headline(write("", version="# No stop\n#\n# Another. And more.\nformat: 1\n")) == "No stop"
    assert headline(write("")) == ""


def test_a_local_plugin_is_used_from_a_recipe(write, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from songkit.plugin import Component, hookimpl\nfrom songkit.settings import PrepareSettings as C\n"
        "@hookimpl\ndef songkit_components():\n"
        "    return [Component(kind='source', name='mine', config=C, factory=f'{__name__}:C', example=C())]\n"
    )
    node = read(write("plugins: [./mine.py]\ndata: {use: local/mine, workers: 2}\n")).roles["data"]
    assert node.config.workers == 2
    assert isinstance(sys.modules[node.factory.split(":")[0]], types.ModuleType)


# --- faults --------------------------------------------------------------------------------------------------


def test_every_fault_is_told_at_once_in_order(write):
    path = write(
        "planner:\n  use: t/planner\n  sise: 3\n  causal: on\n  tower: {use: t/towr}\n"
        "trainer: {max_steps: 0, max_minutes: 1:30}\noptimiser: {}\npaths: {x: '???'}\n"
    )
    assert problems(path, "planner.tower.dmi=3", "optimizer.lr=high", "planner.file=${paths.y}") == [
        "r.yaml:2:1 (planner): `size` is needed by PlannerConfig.",
        "r.yaml:4:3 (planner.sise): 'sise' is no option of PlannerConfig. Did you mean 'size'?",
        "r.yaml:5:11 (planner.causal): expected true or false, found 'on'. Write true.",
        "r.yaml:6:16 (planner.tower.use): unknown backbone 't/towr'. Did you mean 't/tower'? Known: t/other, t/tower.",
        "r.yaml:7:38 (trainer.max_minutes): expected a number, found '1:30'. "
        "Times are plain numbers: this is 90 seconds.",
        "r.yaml:8:1 (optimiser): unknown key 'optimiser'. Did you mean 'optimizer'?",
        "r.yaml:9:12 (paths.x): this has to be given, for example as `paths.x=...` on the command line.",
        "command line `planner.file=${paths.y}` (planner.file): there is no `paths.y`. "
        "Add it under `paths`, or give it as `paths.y=...`.",
        "command line `optimizer.lr=high` (optimizer.lr): expected a number, found 'high'.",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (": :\n", "not YAML"),
        ("a: {b: ${vars.c}}\n", 'quote "${...}"'),
        ("seed: 1\nseed: 2\n", "r.yaml:3:1: the key 'seed' is already at"),
        ("1: 2\n", "r.yaml:2:1: the key 1 is not a string"),
        (
            "seed: !!python/object/apply:os.system [ls]\n",
            "the tag tag:yaml.org,2002:python/object/app",
        ),
        ("vars: {a: &x 1, b: *x}\n", "anchors and aliases are not part of recipes"),
        ("vars: " + "[" * 100 + "]" * 100 + "\n", "nested deeper than 64"),
        ("vars: {a: " + "x" * 1_000_000 + "}\n", "larger than 1 MB"),
        ("---\nseed: 1\n", "several YAML documents"),
        ("seed: 1.5\n", "r.yaml:2:7 (seed): expected a whole number, 0 or more, found 1.5"),
        ("planner: {size: 3}\n", "a planner is needed; name one by `use`. Known: t/planner."),
        ("planner: [1]\n", "a planner is needed"),
        ("planner: t/tower\n", "'t/tower' is a backbone, not a planner."),
        ("planner: {use: t/planner, size: 1}\n", "(planner.tower): a backbone is needed"),
        (
            "planner: {use: t/planner, size: 0, tower: t/tower}\n",
            "r.yaml:2:33 (planner.size): size is 0; expected",
        ),
        ("planner: {use: t/planner, size: 1, tower: {use: t/tower, act: gleu}}\n", "Did you mean 'gelu'?"),
        ("planner: {use: t/planner, size: 1, name: 3, tower: t/tower}\n", 'expected a string, found 3. Quote it: "3".'),
        (
            "planner: {use: t/planner, size: 1, pair: [1], tower: t/tower}\n",
            "expected a list of 2 values, found a",
        ),
        (
            "planner: {use: t/planner, size: 1, rewards: [t/reward], tower: t/tower}\n",
            "mapping from names to rewards",
        ),
        ("planner: {use: t/planner, size: 1, weights: 3, tower: t/tower}\n", "(planner.weights): expected a path"),
        ("trainer: 3\n", "expected a mapping of TrainerSettings's options, found 3."),
        ("trainer: {precision: 16}\n", "expected 32 or bf16, found 16."),
        ("vars: {a: '${vars.b}', b: '${vars.a}'}\n", "refer to each other in a circle"),
        ("vars: {a: '${seed}'}\n", "refers to neither `paths` nor `vars`"),
        ("vars: {a: '${oc.env:HOME}'}\n", "the environment may be read inside `paths` only"),
        ("paths: {a: '${oc.env:NO_SUCH_VARIABLE}'}\n", "Environment variable 'NO_SUCH_VARIABLE' not found"),
        ("vars: {a: 'x${vars.b'}\n", "unfinished"),
        ("defaults: [r]\n", "recipes are each other's `defaults`"),
        ("defaults: [nope]\n", "r.yaml:2:12 (defaults): unknown recipe 'nope'"),
        ("defaults: nope\n", "expected a list of recipes"),
        ("vars: {a: '${oc.create:3}'}\n", "refers to neither `paths` nor `vars`"),
        ("vars: {a: '\\${vars.b}', b: 1}\n", "which may not hold references"),
        ("paths: ['${oc.env:HOME}']\n", "expected a mapping of names to values, found a list."),
        ("planner: {use: t/planner, size: 1, sizes: [1, x], tower: t/tower}\n", "(planner.sizes.1): expected a whole"),
        ("planner: {use: t/planner, size: '1', tower: t/tower}\n", "expected a whole number, found '1'."),
        ("planner: {use: t/planner, size: 1, part: {rat: 1}, tower: t/tower}\n", "'rat' is no option of PartConfig"),
        ("plugins: [./nope.py]\n", "(plugins): "),
        ("vars: {a.b: 1}\n", "(vars.a.b): 'a.b' cannot be referred to."),
        (f"vars: {{{'k' * 300}: 1}}\n", "is longer than 200 characters"),
        (f"seed: {'9' * 5000}\n", "found '9999"),
        ("vars: {a: " + "[1, " * 20 + "1" + "]" * 20 + "}\nseed: -1\n", "a whole number, 0 or more, found -1"),
        ("vars: {a: [" + "1," * 20_000 + "]}\n", "more than 20,000 values"),
        ("defaults: [" + "r, " * 65 + "]\n", "65 parents; expected 64 at most"),
    ],
)
def test_each_fault_is_told_with_its_place(write, text, told):
    assert told in "\n".join(problems(write(text)))


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("", "(format): expected 1, it is missing. Write `format: 1`."),
        ("format: 2\n", "r.yaml:1:9 (format): expected 1, found 2. Install a newer songkit."),
        ("- 1\n", "r.yaml:1:1: a recipe is a mapping of keys to values, not a list."),
    ],
)
def test_the_format_is_checked(write, version, told):
    assert told in "\n".join(problems(write("", version=version)))


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", "trainer.max_steps=[", "--seed=3"])
def test_a_malformed_override_is_refused(write, text):
    assert problems(write(""), text)[0].startswith(f"command line `{text}`")


def test_missing_values_can_be_allowed(write):
    path = write("planner: {use: t/planner, size: '???', causal: '???', tower: '???'}\npaths: {x: '???'}\n")
    recipe = read(path, "planner.name=${paths.x}/y", allow_missing=True)
    assert recipe.missing == ("planner.size", "planner.causal", "planner.tower", "paths.x")
    assert [recipe.resolved["planner"][key] for key in ("size", "causal", "tower", "name")] == ["???"] * 4


@pytest.mark.parametrize("text", ["vars: {a.b: '???'}\n", "vars: {a: 1, a.b: '???'}\n"])
def test_a_missing_value_may_have_a_dot_in_its_name(write, text):
    assert "(vars.a.b): 'a.b' cannot be referred to." in problems(write(text), allow_missing=True)[0]


def test_the_dot_of_a_submodule_is_no_level(write):
    text = "planner: {use: t/planner, size: 1, tower: t/tower, weights: {a.b: '???', a: w}}\n"
    weights = read(write(text), allow_missing=True).resolved["planner"]["weights"]
    assert weights["a.b"] == "???"


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="there is no recipe file"):
        load(tmp_path / "none.yaml", registry=REGISTRY)


# --- growth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("step", ['"${vars.a%d}${vars.a%d}"', '["${vars.a%d}", "${vars.a%d}"]'])
def test_references_cannot_make_a_recipe_grow_without_limit(write, step, backwards):
    lines = [f"  a{i + 1}: {step % (i, i)}\n" for i in range(60)]
    text = "vars:\n  a0: xxxxxxxxxx\n" + "".join(reversed(lines) if backwards else lines)
    [told] = problems(write(text))
    assert "the references of this recipe fill in more than 1 MB" in told


def test_a_chain_of_references_has_a_length(write):
    links = [f"  a{i}: '${{vars.a{i + 1}}}'\n" for i in range(2000)]
    told = problems(write("vars:\n" + "".join(links) + "  a2000: 1\n"))
    assert any("a chain of more than 64 references" in line for line in told)


def test_parents_that_share_parents_are_read_once(write):
    write("seed: 3\n", "p0.yaml")
    for i in range(40):
        write(f"defaults: [p{i}, p{i}]\n", f"p{i + 1}.yaml")
    assert read(write("defaults: [p40, p40]\n")).seed == 3


def test_a_line_of_parents_has_a_length(write):
    for i in range(70):
        write(f"defaults: [p{i + 1}]\n", f"p{i}.yaml")
    assert "more than 64 recipes are each the parent of the next" in problems(write("defaults: [p0]\n"))[0]


# --- formats -------------------------------------------------------------------------------------------------


def rename_planner(values):
    """From 1 to 2 of made-up formats: `composer` was called `planner` later, and `width` moved into its tower."""
    if "composer" in values:
        planner = dict(values.pop("composer"))
        planner["tower"] = {**planner["tower"], **({"dim": planner.pop("width")} if "width" in planner else {})}
        values["planner"] = planner
    return values


def halve_seed(values):
    """From 2 to 3."""
    return {**values, "seed": values["seed"] // 2} if "seed" in values else values


@pytest.fixture
def format_3(monkeypatch):
    """Two migrations, so that the newest format is 3."""
    migrate = functools.partial(_formats.migrated, migrations=(rename_planner, halve_seed))
    monkeypatch.setattr("songkit._compose.migrated", migrate)


@pytest.mark.usefixtures("format_3")
def test_an_older_format_is_migrated_file_by_file_and_keeps_its_places(write):
    old = "composer: {use: t/planner, size: 3, width: 5, tower: {use: t/tower}}\nseed: 8\n"
    write(old, "old.yaml")
    path = write("defaults: [old]\nplanner: {tower: {act: gelu}}\n", version="format: 3\n")
    recipe = read(path)
    tower = recipe.roles["planner"].children["tower"]
    assert (recipe.seed, tower.config) == (4, TowerConfig(dim=5, act="gelu"))
    places = {key: origin.rpartition("/")[2] for key, origin in recipe.origins.items()}
    assert places["planner.size"] == "old.yaml:2:34"
    assert places["planner.tower.dim"] == "old.yaml:2:44"
    assert places["planner.tower.use"] == "old.yaml:2:60"
    assert places["planner.tower.act"] == "r.yaml:3:24"
    assert places["seed"] == "old.yaml:3:7"


@pytest.mark.usefixtures("format_3")
def test_a_fault_in_an_older_format_is_told_where_it_was_written(write):
    text = "composer: {use: t/planner, size: none, width: 5, tower: {use: t/tower}}\nseed: 8\n"
    assert problems(write(text)) == ["r.yaml:2:34 (planner.size): expected a whole number, found 'none'."]


@pytest.mark.usefixtures("format_3")
@pytest.mark.parametrize(
    ("version", "told"),
    [("4", "expected 3, found 4. Install a newer songkit."), ("0", "expected 3, found 0. Write `format: 3`.")],
)
def test_a_format_that_is_too_new_or_never_was_is_refused(write, version, told):
    assert told in problems(write("", version=f"format: {version}\n"))[0]


# --- laws ----------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None)
@given(value=st.text() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_every_value_that_is_dumped_is_read_back(value):
    assume("${" not in str(value))
    text = OmegaConf.to_yaml({"k": value})
    read_back = _yaml.plain(_yaml.parse(text, _yaml.Place(None)))["k"]
    assert (type(read_back), read_back) == (type(value), value)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(text=st.text() | st.text("formatusedplnr: {}[]'\"&*!?#,.-\n$123", max_size=80))
def test_any_text_is_a_recipe_or_a_recipe_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text("format: 1\n" + text, "utf-8", errors="replace")
    try:
        load(path, registry=REGISTRY)
    except RecipeError as error:
        told = list(error.problems)
    else:
        told = ["it is a recipe"]
    assert all(told)


def test_what_was_typed_before_is_typed_anew_where_it_means_something_else(write, tmp_path, monkeypatch):
    text = "planner: {use: t/planner, size: 3, file: FILE, tower: t/tower}\n"
    files = [write(text.replace("FILE", "./a.bin"), f"{folder}/r.yaml") for folder in ("one", "other")]
    configs = [load(file, registry=REGISTRY).roles["planner"].config for file in files]
    assert [Path(config.file).parent for config in configs] == [file.parent for file in files]
    again = load(files[0], registry=REGISTRY).roles["planner"].config
    again.sizes.append(99)  # nobody shares values
    assert load(files[0], registry=REGISTRY).roles["planner"].config.sizes == [1, 2]
    here = write(text.replace("FILE", "a.bin"))
    for folder in ("one", "other"):
        monkeypatch.chdir(tmp_path / folder)
        assert Path(load(here, registry=REGISTRY).roles["planner"].config.file).parent == tmp_path / folder
