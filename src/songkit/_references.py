"""References: `${paths.x}` and `${vars.x}` in a recipe, filled in by us and bounded; nothing else is ever resolved."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from songkit._yaml import (
    MAX_BYTES,
    MAX_DEPTH,
    MISSING,
    Item,
    Place,
    Problems,
    absolute,
    children,
    located,
    plain,
)
from songkit.errors import RecipeError, did_you_mean, shortened

__all__ = ["interpolate", "names_of"]


def interpolate(root: Item, problems: Problems) -> Item:
    """Returns `root` with every `${paths.x}`, `${vars.x}` and, inside `paths`, `${oc.env:NAME}` filled in.

    A text that is one reference takes the type of what it names. Strings under `paths` become absolute, see
    `Place.path`. What cannot be filled in is added to `problems` and left `???`, and so is what names a `???`.

    Raises:
        RecipeError: If the recipe would grow beyond the size that a recipe file may have.
    """
    return _References(root, problems).filled(root, ())


def names_of(root: Item, overrides: Iterable[str] = ()) -> dict[str, set[str]]:
    """Returns the names under `paths` and `vars` that a recipe declares, or that it or overrides refer to."""
    found = {section: set(_named(root, section)) for section in _SECTIONS}
    text = "\n".join([json.dumps(plain(root), ensure_ascii=False), *overrides])
    for reference in _REFERENCE.findall(text):
        section, _, name = reference.partition(".")
        if section in found:
            found[section].add(name)
    return found


_SECTIONS = ("paths", "vars")
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


class _References:
    """Fills in references: each named value once, and together no more text than a file may hold.

    Without these bounds, thirty lines of `b: "${vars.a}${vars.a}"` would fill any memory.
    """

    def __init__(self, root: Item, problems: Problems) -> None:
        self.named = {(section, key): item for section in _SECTIONS for key, item in _named(root, section).items()}
        self.known: dict[tuple[str, ...], Item] = {}
        self.being_filled: list[tuple[str, ...]] = []
        self.room = MAX_BYTES
        self.problems = problems

    def filled(self, item: Item, path: tuple[str, ...]) -> Item:
        """Returns an item with its references filled in; `path` is where it stands."""
        if path not in self.named:
            return self.inside(item, path)
        if path not in self.known:
            self.being_filled.append(path)
            self.known[path] = self.inside(item, path)
            self.being_filled.pop()
        return self.known[path]

    def inside(self, item: Item, path: tuple[str, ...]) -> Item:
        if isinstance(item.value, dict):
            return replace(item, value={key: self.filled(child, (*path, key)) for key, child in item.value.items()})
        if isinstance(item.value, list):
            return replace(item, value=[self.filled(child, (*path, str(i))) for i, child in enumerate(item.value)])
        if isinstance(item.value, str) and "${" in item.value:
            value, faults = self.value_of(item.value, item.place, path)
            self.problems.extend((item.place, ".".join(path), fault) for fault in faults)
            item = replace(located(value, item.place), key_place=item.key_place)
        return absolute(item) if path[0] == "paths" else item

    def value_of(self, text: str, place: Place, path: tuple[str, ...]) -> tuple[Any, list[str]]:
        """Returns a text with its references filled in, or `???` and what is wrong with them."""
        parts = _REFERENCE.split(text)  # text, name, text, name, ..., text
        shown = f"`{shortened(text)}`"
        if "${" in "".join(parts[::2]):
            return MISSING, [f"{shown} has an unfinished `${{`. Write `${{vars.name}}`."]
        if "\\${" in text:
            return MISSING, [f"{shown} gives `${{`, which may not hold references. Delete the backslash."]
        values, faults = [], []
        for name in parts[1::2]:
            value, fault = self.referred(name, path)
            values.append(value)
            faults += [fault] if fault else []
            self.room -= len(str(value))
            if self.room < 0:
                raise RecipeError(
                    f"{place} ({'.'.join(path)}): the references of this recipe fill in more than "
                    f"{MAX_BYTES // 1_000_000} MB, which no recipe needs. Look for values that are made of several "
                    "others, which are made of others in turn."
                )
        if faults or any(value == MISSING for value in values):  # what is missing is told where it is
            return MISSING, faults
        if text == f"${{{parts[1]}}}":
            return values[0], []
        parts[1::2] = [str(value) for value in values]
        return "".join(parts), []

    def referred(self, name: str, path: tuple[str, ...]) -> tuple[Any, str]:
        """Returns the value that a reference names, or `???` and what is wrong with it."""
        section, _, key = name.partition(".")
        shown = f"`${{{shortened(name)}}}`"
        if name.startswith("oc.env:"):
            if path[0] != "paths":
                advice = "Name it there and write `${paths.name}`."
                return MISSING, f"the environment may be read inside `paths` only. {advice}"
            variable, comma, default = (part.strip() for part in name.removeprefix("oc.env:").partition(","))
            value = os.environ.get(variable, default.strip("'\"") if comma else None)
            if value is None:
                advice = f"Set it, or write `${{oc.env:{variable},value}}` for where it is not set."
                return MISSING, f"Environment variable '{shortened(variable)}' not found. {advice}"
            if "${" in value:
                return MISSING, f"{shown} gives `{shortened(value)}`, which may not hold references."
            return value, ""
        if section not in _SECTIONS:
            return MISSING, f"{shown} refers to neither `paths` nor `vars`; nothing else can be referred to."
        item = self.named.get((section, key))
        if item is None:
            known = [known for where, known in self.named if where == section]
            hint = did_you_mean(key, known) or f" Add it under `{section}`, or give it as `{shortened(name)}=...`."
            return MISSING, f"there is no `{shortened(name)}`.{hint}"
        if (section, key) in self.being_filled:
            return MISSING, f"{shown} and what it names refer to each other in a circle."
        if len(self.being_filled) > MAX_DEPTH:
            return MISSING, f"{shown} is the end of a chain of more than {MAX_DEPTH} references. Shorten the chain."
        return plain(self.filled(item, (section, key))), ""


def _named(root: Item, section: str) -> dict[str, Item]:
    item = root.get(section)
    return dict(children(item)) if item is not None else {}
