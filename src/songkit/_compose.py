"""Composing located values, before anything is known of components: finding, inheriting, overriding, merging."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from songkit._formats import migrated
from songkit._yaml import MAX_DEPTH, MISSING, Item, Place, children, parse, read_yaml
from songkit.errors import PluginError, RecipeError, did_you_mean, shortened
from songkit.registry import Registry

__all__ = ["Composer", "find", "merge", "override"]


class Composer:
    """Reads recipes with their parents, each file once: parents that share parents would take for ever."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.composed: dict[Path, Item] = {}

    def compose(self, path: Path, above: tuple[Path, ...] = ()) -> Item:
        """Returns a file with its parents merged in.

        Args:
            path: The file.
            above: The files of which it is a parent, from the one that was asked for on.

        Raises:
            RecipeError: If a file cannot be read, names parents that are not there, or is its own ancestor.
        """
        path = path.resolve()
        if path in above:
            circle = " -> ".join(str(file) for file in (*above, path))
            raise RecipeError(f"{circle}: recipes are each other's `defaults`. Break the circle.")
        if len(above) > MAX_DEPTH:
            raise RecipeError(f"{path}: more than {MAX_DEPTH} recipes are each the parent of the next. Merge some.")
        if path not in self.composed:
            self.composed[path] = self._with_parents(migrated(read_yaml(path)), (*above, path))
        return self.composed[path]

    def _with_parents(self, item: Item, above: tuple[Path, ...]) -> Item:
        defaults = item.get("defaults")
        if defaults is None:
            return item
        parents = defaults.value
        if not isinstance(parents, list) or not all(isinstance(parent.value, str) for parent in parents):
            raise RecipeError(f"{defaults.place} (defaults): expected a list of recipes, such as [_base/train].")
        if len(parents) > MAX_DEPTH:
            raise RecipeError(f"{defaults.place} (defaults): {len(parents)} parents; expected {MAX_DEPTH} at most.")
        merged: Item | None = None
        for parent in parents:
            try:
                file = find(str(parent.value), self.registry, above[-1].parent)
            except RecipeError as error:
                raise RecipeError(f"{parent.place} (defaults): {error}") from error
            composed = self.compose(file, above)
            merged = merge(merged, composed) if merged else composed
        own = replace(item, value={key: child for key, child in children(item).items() if key != "defaults"})
        return merge(merged, own) if merged else own


def find(source: str | Path, registry: Registry, folder: Path | None = None) -> Path:
    """Returns the file of a recipe.

    Args:
        source: A name, or a path: what ends in `.yaml` or starts with `.`, `/` or `~`.
        registry: Whose plugins' recipes can be named.
        folder: Of the recipe that names this one; its neighbours need no path, and relative paths start there.

    Raises:
        RecipeError: If there is no such recipe.
    """
    text = str(source)
    if isinstance(source, Path) or text.endswith((".yaml", ".yml")) or text.startswith((".", "/", "~")):
        path = (folder or Path.cwd()) / os.path.expanduser(text)
        if os.path.isfile(path):  # it says no to what `Path.is_file` raises at: names too long, or with zeros
            return path
        raise RecipeError(
            f"there is no recipe file {shortened(str(path))}. Check the path, or see `songkit recipes ls` for names."
        )
    if folder is not None and os.path.isfile(folder / f"{text}.yaml"):
        return folder / f"{text}.yaml"
    try:
        shipped = registry.recipe(text)
        names = () if shipped else registry.recipes()
    except PluginError as error:
        raise RecipeError(str(error)) from error
    if shipped is not None:
        return shipped
    hint = did_you_mean(text, names) or " `songkit recipes ls` lists them; a file's name ends in .yaml."
    raise RecipeError(f"unknown recipe '{shortened(text)}'.{hint}")


def override(root: Item, text: str) -> Item:
    """Returns `root` with one `key.path=value` put in; the value is read as YAML.

    Raises:
        RecipeError: If the text has no `=`, no key, a key of too many parts, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    place = Place(None, text=text)
    names = key.strip().split(".")
    if not equals or not all(names) or len(names) > MAX_DEPTH:
        raise RecipeError(f"{place}: expected key=value, such as `trainer.max_steps=100`.")
    item = parse(value, place)
    for name in reversed(names):
        item = Item({name: item}, place, place)
    return merge(root, item)


def merge(parent: Item, child: Item) -> Item:
    """Returns the parent with the child's values put in.

    Mappings merge, everything else replaces. A mapping that names another component by `use` replaces the whole
    mapping of the parent, whose options were meant for the old one. `name` is short for `{use: name}`.
    """
    old, new = parent.value, child.value
    if isinstance(old, dict) and isinstance(new, str) and "use" in old:
        new = {"use": child}
    elif isinstance(old, str) and old != MISSING and isinstance(new, dict):
        old = {"use": parent}
    if not isinstance(old, dict) or not isinstance(new, dict):
        return child
    if "use" in new and "use" in old and new["use"].value != old["use"].value:
        return replace(child, value=new)
    merged = {key: merge(old[key], item) if key in old else item for key, item in new.items()}
    placed = parent if child.place.file is None else child  # an override names a part, not the whole
    return replace(placed, value={**old, **merged})
