"""The stages of a ladder as a recipe writes them: read, checked, put in order, and laid over the recipes they name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from songkit._compose import Composer, find, merge
from songkit._references import names_of
from songkit._structure import Structure
from songkit._yaml import Item, children, leaves, located, plain
from songkit.errors import RecipeError, did_you_mean

__all__ = ["NEEDED", "VERBS", "Stage", "StageSettings", "in_order", "read_stages"]

Verb = Literal["train", "prepare", "mine", "merge", "semi-online", "model"]
VERBS: tuple[str, ...] = get_args(Verb)
"""What a stage can do; `songkit.ladder` does it."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "train": ("task",),
    "mine": ("conditioner", "planner", "codec"),
    "semi-online": ("conditioner", "planner", "codec", "task", "objective"),
}
"""Roles of a recipe without which a verb can do nothing."""
_READ = ("stages", "vars", "paths")
"""Keys of a ladder that say something about its stages."""


@dataclass(kw_only=True)
class StageSettings:
    """One stage of a ladder."""

    recipe: str
    """Name of a recipe, or the path of its file; one beside the ladder needs no path."""
    verb: Verb = "train"
    """What is done with the recipe, as by the command of that name. `model` only writes it down with the weights it
    starts from, for `songkit generate --model`."""
    starts_from: dict[str, str | None] = field(default_factory=dict)
    """The stage whose weights a role begins with, by role: `planner: sft` sets `planner.weights`
    and `codec.semantic: tokens` the weights of one part; `planner: sft/NAME` takes weights of another name.
    A null takes back what a parent says."""
    paths: dict[str, str] = field(default_factory=dict)
    """Values of the recipe's `paths` that lie in another stage's folder: `data: codes`, or
    `tokens: tokens/weights/codec.semantic.safetensors`."""
    freeze: tuple[str, ...] = ()
    """Roles, or parts of them, that stay as they are; `trainer.freeze`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage, checked: its recipe is found, and all stages that it names are there."""

    name: str
    settings: StageSettings
    source: str
    """The recipe's name where it is shipped, else its file."""
    options: Item
    """Further changes to the recipe, merged into it."""
    written: Item

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages that have to be finished first."""
        used = [*self.settings.starts_from.values(), *self.settings.paths.values()]
        return tuple(dict.fromkeys(value.partition("/")[0] for value in used if value is not None))

    def changes(self, folders: Mapping[str, Path]) -> Item:
        """Returns what is merged into the recipe, given the folders of the stages that this one needs."""
        made: dict[str, Any] = {}
        for role, value in self.settings.starts_from.items():
            if value is None:
                continue
            name, _, part = role.partition(".")
            stage, _, other = value.partition("/")
            file = str(folders[stage] / "weights" / f"{other or role}.safetensors")
            weights = made.setdefault(name, {}).setdefault("weights", {} if part else file)
            if part:
                weights[part] = file
        if self.settings.paths:
            made["paths"] = {}
            for name, value in self.settings.paths.items():
                stage, _, inside = value.partition("/")
                made["paths"][name] = str(folders[stage] / inside)
        if self.settings.freeze:
            made["trainer"] = {"freeze": list(self.settings.freeze)}
        return merge(self.options, located(made, self.written.place))

    def values(self) -> dict[str, Any]:
        """Returns the stage as plain values with every default explicit."""
        settings = {**dataclasses.asdict(self.settings), "freeze": list(self.settings.freeze)}
        return {**settings, "recipe": self.source, "options": plain(self.options)}


def read_stages(root: Item, structure: Structure) -> dict[str, Stage]:
    """Returns the stages of a recipe in the order in which they can be run; `name: null` takes one away."""
    item = root.get("stages")
    if item is None or item.value is None:
        return {}
    if not isinstance(item.value, dict):
        structure.wrong(item, "stages", "a mapping from names to stages")
        return {}
    for path, given in leaves(root):
        if given.place.file is None and path[0] not in _READ:
            told = f"the stages do not read this. Say it for one: `stages.NAME.options.{given.place.text}`."
            structure.report(given, ".".join(path), told)
    written = {name: child for name, child in children(item).items() if child.value is not None}
    names = {path.resolve(): name for name, path in structure.registry.recipes().items()}
    read = {name: _read(name, child, root, structure, names) for name, child in written.items()}
    stages = {name: stage for name, stage in read.items() if stage is not None}
    for stage in stages.values():
        for name in stage.needs:
            if name not in written or name == stage.name:
                known = [other for other in written if other != stage.name]
                hint = did_you_mean(name, known) or f" There are: {', '.join(known) or 'no others'}."
                structure.report(stage.written, f"stages.{stage.name}", f"it starts from '{name}', no stage.{hint}")
    if len(stages) < len(written) or structure.problems:
        return {}
    try:
        return in_order(stages)
    except RecipeError as error:
        structure.report(item, "stages", str(error))
        return {}


def in_order(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Returns stages so that each comes after those it needs, else as written.

    Raises:
        RecipeError: If stages need each other in a circle.
    """
    done: dict[str, Stage] = {}

    def put(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise RecipeError(f"{' -> '.join((*above, name))}: stages need each other in a circle. Break it.")
        for needed in stages[name].needs:
            put(needed, (*above, name))
        done.setdefault(name, stages[name])

    for name in stages:
        put(name, ())
    return done


def _read(name: str, item: Item, root: Item, structure: Structure, names: Mapping[Path, str]) -> Stage | None:
    where = f"stages.{name}"
    if not re.fullmatch(r"\w[\w-]*", name):
        structure.report_key(item, where, "names of stages, which name folders, are made of letters, digits, - and _.")
        return None
    if not isinstance(item.value, dict):
        structure.wrong(item, where, "a mapping with `recipe`")
        return None
    stages = children(root.get("stages") or located({}, root.place))
    if item.get("recipe") is None:
        hint = did_you_mean(name, [other for other, child in stages.items() if child.get("recipe") is not None])
        structure.report_key(item, where, f"there is no stage '{name}', and a new one needs `recipe`.{hint}")
        return None
    own = {key: child for key, child in children(item).items() if key != "options"}
    settings = structure.settings(StageSettings, dataclasses.replace(item, value=own), where)
    options = item.get("options") or located({}, item.place)
    if not isinstance(options.value, dict):
        structure.wrong(options, f"{where}.options", "a mapping that is merged into the stage's recipe")
        return None
    if settings is None:
        return None
    recipe = own["recipe"]
    try:
        path = find(settings.recipe, structure.registry, recipe.place.folder).resolve()
        known = names_of(Composer(structure.registry).compose(path))["paths"]
    except RecipeError as error:
        structure.report(recipe, f"{where}.recipe", str(error))
        return None
    for key in settings.paths.keys() - known:
        hint = did_you_mean(key, known) or f" It has: {', '.join(sorted(known)) or 'none'}."
        structure.report_key(own["paths"], f"{where}.paths.{key}", f"{settings.recipe} has no path '{key}'.{hint}")
    sizes = root.get("vars")
    if sizes is not None and sizes.value:
        options = merge(dataclasses.replace(item, value={"vars": sizes}), options)
    source = names.get(path, str(path))
    return Stage(name=name, settings=settings, source=source, options=options, written=item)
