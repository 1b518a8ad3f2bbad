"""Recipes: load, merge, locate, structure, validate, dump.

A recipe is a YAML file that names registered components and their options; nothing in it can run code. `load` merges
the parents under `defaults` from left to right, then the file, then `key=value` overrides, gives every part the type
that its component declares, and reports all faults at once, each with file, line, column, key path and the nearest
right name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songkit._compose import Composer, find, merge, override
from songkit._formats import FORMAT
from songkit._local_plugins import with_local_plugins
from songkit._references import interpolate
from songkit._resolved import resolved_values, walk
from songkit._stages import NEEDED, Stage, read_stages
from songkit._structure import Node, Structure
from songkit._yaml import (
    MISSING,
    Item,
    Place,
    Problems,
    children,
    describe,
    leaves,
    located,
    plain,
    read_text,
)
from songkit.errors import RecipeError, did_you_mean, shortened
from songkit.preference_settings import MergeSettings, MineSettings, SemiOnlineSettings
from songkit.registry import Registry
from songkit.settings import SECTIONS, GenerateSettings, OptimizerSettings, PrepareSettings, TrainerSettings

__all__ = ["FORMAT", "ROLES", "Node", "Recipe", "choose", "dump", "find", "headline", "load", "read_text"]

ROLES: Mapping[str, str] = {
    "codec": "codec",
    "tokenizer": "tokenizer",
    "conditioner": "conditioner",
    "planner": "planner",
    "refiner": "refiner",
    "data": "source",
    "validation": "source",
    "objective": "objective",
    "reward": "reward",
    "task": "task",
}
"""Top-level keys that hold a component, with its kind. `metrics` is a mapping from names to metrics."""

_MOST_FAULTS = 20
"""Faults that are told at once; a file with more is no recipe, or has one fault that brings all others."""

_HEADLINE_LINES = 10
"""Lines that the first sentence of a recipe's comment may take."""

_KEYS = (
    "format",
    "defaults",
    "seed",
    "plugins",
    "paths",
    "vars",
    *ROLES,
    "metrics",
    *SECTIONS,
    "stages",
    "_components",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe with everything resolved and checked."""

    name: str
    """As it was asked for: a recipe name or the file's stem."""
    path: Path
    seed: int
    roles: Mapping[str, Node]
    """The components by role; only those that the recipe names."""
    metrics: Mapping[str, Node]
    trainer: TrainerSettings
    optimizer: OptimizerSettings
    prepare: PrepareSettings
    generate: GenerateSettings
    mine: MineSettings
    merge: MergeSettings
    semi_online: SemiOnlineSettings
    resolved: Mapping[str, Any]
    """Plain values with every default explicit; `dump` writes them as a recipe."""
    origins: Mapping[str, str]
    """Where each value of `resolved` was written, by its key path; what is not here is a default."""
    stages: Mapping[str, Stage] = field(default_factory=dict)
    """The stages of a ladder, each behind those it needs; see `songkit.ladder`."""
    missing: tuple[str, ...] = ()
    """Key paths of the values that are still `???`, where `load` was told to allow that."""

    def origin(self, key: str) -> str:
        """Returns where the value at a key path of `resolved` comes from: a place, or whose default it is."""
        # `codec: levo2/music-codec` is short for `codec: {use: levo2/music-codec}`.
        written = self.origins.get(key) or self.origins.get(key.removesuffix(".use"))
        if written:
            return written
        components: Mapping[str, Any] = self.resolved["_components"]
        owner = max((path for path in components if key.startswith(f"{path}.")), key=len, default="")
        return f"default of {components[owner]['id'] if owner else key.partition('.')[0]}"


def load(
    source: str | Path,
    overrides: Iterable[str | Item] = (),
    *,
    registry: Registry,
    allow_missing: bool = False,
    allow_revision: bool = False,
    allow_stages: bool = True,
) -> Recipe:
    """Loads and checks a recipe.

    Args:
        source: Name of a shipped recipe (`levo2/mini/vae`) or path of a `.yaml` file.
        overrides: `key.path=value` texts, or values with their places, applied in order.
        registry: What is installed.
        allow_missing: Whether values may still be `???`, as in a shipped recipe that is only looked at.
        allow_revision: Whether components may have another revision than the one that wrote a resolved recipe.
        allow_stages: Whether it may be a ladder.

    Raises:
        RecipeError: With every fault that could be found.
    """
    path = find(source, registry)
    root = Composer(registry).compose(path)
    for change in overrides:
        root = override(root, change) if isinstance(change, str) else merge(root, change)
    problems: Problems = []
    written_missing = [(".".join(key), item) for key, item in leaves(root) if item.value == MISSING]
    root = interpolate(root, problems)
    registry = with_local_plugins(root, registry, problems)
    structure = Structure(registry, problems=problems)
    _check_top(root, structure)
    written = {role: item for role, item in children(root).items() if role in ROLES}
    empty = located({}, root.place)
    roles = {role: structure.node(ROLES[role], item, role) for role, item in written.items()}
    metrics = structure.nodes("metric", root.get("metrics") or empty, "metrics")
    sections = {key: structure.settings(cls, root.get(key) or empty, key) for key, cls in SECTIONS.items()}
    seed = root.get("seed") or located(0, root.place)
    if type(seed.value) is not int or seed.value < 0:
        structure.wrong(seed, "seed", "a whole number, 0 or more")
    named = {role: node for role, node in roles.items() if node is not None}
    if not allow_revision:
        _check_revisions(root, {**named, **{f"metrics.{name}": node for name, node in metrics.items()}}, structure)
    if not allow_missing:
        problems += [
            (item.place, key, f"this has to be given, for example as `{key}=...` on the command line.")
            for key, item in written_missing
        ]
    if "stages" in children(root) and not allow_stages:
        structure.report_key(children(root)["stages"], "stages", "the recipe of a stage may have no stages of its own.")
    stages = read_stages(root, structure) if allow_stages else {}
    wrong = [] if problems else _check_stages(stages, registry, allow_missing)
    if problems or wrong:
        raise RecipeError([*_located(problems), *wrong])
    resolved = resolved_values(root, plain(seed), named, metrics, sections)
    if stages:
        resolved["stages"] = {name: stage.values() for name, stage in stages.items()}
    return Recipe(
        name=path.stem if str(source).endswith(".yaml") else str(source),
        path=path,
        seed=plain(seed),
        roles=named,
        metrics=metrics,
        **sections,
        resolved=resolved,
        stages=stages,
        origins={".".join(key): str(item.place) for key, item in leaves(root)},
        missing=tuple(key for key, _ in written_missing),
    )


def choose(kind: str, ids: Mapping[str, str], options: Iterable[str] = (), *, registry: Registry) -> dict[str, Node]:
    """Returns components by name, without a recipe.

    Args:
        kind: Their kind, such as `metric`.
        ids: The id of each by its name.
        options: Texts such as `phoneme-errors.beam=5`.
        registry: What is installed.

    Raises:
        RecipeError: With every id and option that is wrong.
    """
    place = Place(None, text=" ".join(ids.values()))
    root = located({name: {"use": id_} for name, id_ in ids.items()}, place)
    for text in options:
        root = override(root, text)
    structure = Structure(registry)
    nodes = structure.nodes(kind, interpolate(root, structure.problems), kind)
    if structure.problems:
        raise RecipeError(_located(structure.problems))
    return nodes


def dump(recipe: Recipe) -> str:
    """Returns the resolved recipe as YAML that `load` accepts and resolves to the same values.

    Its key `_components` records the revision, distribution and version of every component.
    """
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(dict(recipe.resolved))


def headline(path: Path) -> str:
    """Returns the first sentence of the comment at a recipe's top, which says what it is for."""
    text = ""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for _ in range(_HEADLINE_LINES):
            line = file.readline(1000).strip()
            words = line.removeprefix("#").strip() if line.startswith("#") else ""
            text = f"{text} {words}".strip()
            sentence = re.match(r".*?\.(?=\s|$)", text)
            if sentence or not words:
                return sentence[0] if sentence else text
    return text


# --- checking ------------------------------------------------------------------------------------------------


def _check_top(root: Item, structure: Structure) -> None:
    for key, item in children(root).items():
        if key not in _KEYS:
            key = shortened(key)
            known = [name for name in _KEYS if not name.startswith("_")]
            hint = did_you_mean(key, known) or f" Keys: {', '.join(known)}."
            structure.report_key(item, key, f"unknown key '{key}'.{hint}")
    for key in ("paths", "vars"):
        item_ = root.get(key)
        if item_ is not None and item_.value is not None and not isinstance(item_.value, dict):
            structure.report(item_, key, f"expected a mapping of names to values, found {describe(item_.value)}.")
        for name, child in children(item_).items() if item_ is not None else ():
            if not re.fullmatch(r"[\w-]+", name):
                advice = "Names are made of letters, digits, - and _."
                structure.report_key(child, f"{key}.{name}", f"'{shortened(name)}' cannot be referred to. {advice}")


def _check_stages(stages: Mapping[str, Stage], registry: Registry, allow_missing: bool) -> list[str]:
    """Loads the recipe of every stage as it will be loaded, in folders that stand for those of the stages."""
    wrong: list[str] = []
    for stage in stages.values():
        folders = {name: Path(name).absolute() for name in stage.needs}
        try:
            recipe = load(
                stage.source,
                [stage.changes(folders)],
                registry=registry,
                allow_missing=allow_missing,
                allow_stages=False,
            )
        except RecipeError as error:
            wrong += [f"stage '{stage.name}': {problem}" for problem in error.problems]
            continue
        place, verb = stage.written.place, stage.settings.verb
        lacking = [role for role in NEEDED.get(verb, ()) if role not in recipe.roles]
        lacking += ["merge.models"] if verb == "merge" and not recipe.merge.models else []
        if lacking:
            told = f"{stage.source} has no {', no '.join(lacking)}, so '{verb}' can do nothing with it."
            wrong.append(f"{place} (stages.{stage.name}): {told} Is it another verb's?")
    return wrong


def _check_revisions(root: Item, nodes: Mapping[str, Node], structure: Structure) -> None:
    recorded = children(root.get("_components") or located({}, root.place))
    for path, node in walk(nodes):
        item = recorded.get(path)
        was = children(item) if item is not None else {}
        values = {key: was[key].value if key in was else None for key in ("id", "revision", "distribution", "version")}
        if item is None or values["id"] != node.id or values["revision"] == node.revision:
            continue
        structure.report(
            item,
            f"_components.{path}",
            f"{node.kind} '{node.id}' was at revision {values['revision']} and is now at {node.revision}, which gives "
            f"other numbers. Install {values['distribution']} {values['version']}, or pass --allow-revision to go on "
            "all the same.",
        )


def _located(problems: Problems) -> list[str]:
    def order(problem: tuple[Place, str, str]) -> tuple[bool, str, int, int]:
        place = problem[0]
        return place.file is None, str(place.file), place.line, place.column

    lines = (f"{place} ({shortened(path)}): {message}" for place, path, message in sorted(problems, key=order))
    told = list(dict.fromkeys(lines))
    more = len(told) - _MOST_FAULTS
    return told if more <= 0 else [*told[:_MOST_FAULTS], f"... and {more:,} more faults. Put these right first."]
