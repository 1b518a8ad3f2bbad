"""Composing located values, before anything is known of components: overriding, merging, interpolating."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace

from songkit._yaml import MISSING, Item, Place, Problems, children, parse, plain
from songkit.errors import RecipeError, did_you_mean

__all__ = ["interpolate", "merge", "override"]


def override(root: Item, text: str) -> Item:
    """Returns `root` with one `key.path=value` put in; the value is read as YAML.

    Raises:
        RecipeError: If the text has no `=`, no key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    place = Place(None, text=text)
    names = key.strip().split(".")
    if not equals or not all(names):
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


def interpolate(root: Item, problems: Problems) -> Item:
    """Returns `root` with every `${paths.x}`, `${vars.x}` and, inside `paths`, `${oc.env:NAME}` filled in.

    Strings under `paths` become absolute, see `Place.path`. What cannot be filled in is added to `problems` and left
    `???`.
    """
    return _Interpolation(root, problems).walk(root, ())


_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


class _Interpolation:
    def __init__(self, root: Item, problems: Problems) -> None:
        self.root = root
        self.problems = problems
        self.done: dict[str, Item] = {}
        self.open: list[str] = []

    def walk(self, item: Item, path: tuple[str, ...]) -> Item:
        if isinstance(item.value, dict):
            return replace(item, value={key: self.walk(child, (*path, key)) for key, child in item.value.items()})
        if isinstance(item.value, list):
            return replace(item, value=[self.walk(child, (*path, str(i))) for i, child in enumerate(item.value)])
        if len(path) == 2 and path[0] in ("paths", "vars"):
            return self.named(".".join(path), item)
        return self.fill(item, path) if isinstance(item.value, str) else item

    def named(self, name: str, item: Item) -> Item:
        if name not in self.done:
            self.open.append(name)
            item = self.fill(item, tuple(name.split("."))) if isinstance(item.value, str) else item
            if name.startswith("paths.") and isinstance(item.value, str) and item.value != MISSING:
                item = replace(item, value=str(item.place.path(item.value)))
            self.open.pop()
            self.done[name] = item
        return self.done[name]

    def fill(self, item: Item, path: tuple[str, ...]) -> Item:
        text = str(item.value)
        whole = _REFERENCE.fullmatch(text)
        if whole:
            found = self.look_up(whole[1], item, path)
            return replace(item, value=found.value if found else MISSING)
        missing = False

        def insert(match: re.Match[str]) -> str:
            nonlocal missing
            found = self.look_up(match[1], item, path)
            if found is None or found.value == MISSING:
                missing = True
                return ""
            return str(plain(found))

        filled = _REFERENCE.sub(insert, text)
        if not missing and "${" in filled and "${" in text:
            self.report(item, path, f"`{text}` has an unfinished `${{`. Write `${{vars.name}}`.")
            missing = True
        return replace(item, value=MISSING if missing else filled)

    def look_up(self, name: str, item: Item, path: tuple[str, ...]) -> Item | None:
        if name.startswith("oc.env:") and path[:1] == ("paths",):
            variable, comma, default = name.removeprefix("oc.env:").partition(",")
            value = os.environ.get(variable, default if comma else None)
            if value is None:
                self.report(item, path, f"the environment has no '{variable}'. Set it, or write a default behind it.")
                return None
            return replace(item, value=value)
        section, _, key = name.partition(".")
        values = self.root.get(section) if section in ("paths", "vars") else None
        known = children(values) if values else {}
        if key in known:
            if name in self.open:
                self.report(item, path, f"`{' -> '.join([*self.open, name])}` refer to each other in a circle.")
                return None
            return self.named(name, known[key])
        self.report(item, path, self.advice(name, section, key, known))
        return None

    def advice(self, name: str, section: str, key: str, known: Iterable[str]) -> str:
        if name.startswith("oc.env:"):
            return "the environment may be read inside `paths` only. Name it there and write `${paths.name}` here."
        if section not in ("paths", "vars"):
            return f"`${{{name}}}` refers to neither `paths` nor `vars`; nothing else can be referred to."
        hint = did_you_mean(key, known) or f" Add it under `{section}`, or give it as `{name}=...`."
        return f"there is no `{name}`.{hint}"

    def report(self, item: Item, path: tuple[str, ...], message: str) -> None:
        self.problems.append((item.place, ".".join(path), message))
