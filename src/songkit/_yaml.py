"""YAML whose every value knows where it was written.

A recipe is read as YAML 1.2's plain values: `on`, `yes` and `1:30` are strings, so that a wrong type is noticed
where it is used. There are no tags, anchors or aliases; nothing in a file makes the reader run code or grow.
It reads piece by piece and stops at the first thing that a recipe may not hold, so that a bad file costs little.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from songkit.errors import RecipeError, shortened

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MISSING",
    "Item",
    "Place",
    "Problems",
    "absolute",
    "children",
    "describe",
    "leaves",
    "located",
    "parse",
    "plain",
    "read_text",
    "read_yaml",
    "scalar",
]

MISSING = "???"
"""Value of what a recipe leaves to whoever uses it."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_VALUES = 20_000
MAX_KEY = 200

Value: TypeAlias = "bool | int | float | str | list[Item] | dict[str, Item] | None"
Problems: TypeAlias = "list[tuple[Place, str, str]]"
"""Faults found so far: where, at which key path, and what to say."""


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file with line and column, or the text of an override."""

    file: Path | None
    line: int = 0
    column: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.file else f"command line `{shortened(self.text)}`"

    @property
    def folder(self) -> Path:
        """The folder of the file, or the current one for the command line."""
        return self.file.parent if self.file else Path.cwd()

    def path(self, text: str) -> Path:
        """Returns a written path, absolute: `./` and `../` start from the file, all else from the current folder."""
        beside = text in (".", "..") or text.startswith(("./", "../"))
        return Path(os.path.abspath(self.folder / text if beside else os.path.expanduser(text)))


@dataclass(frozen=True)
class Item:
    """A value with the place of its key (of itself in a list) and of its own."""

    value: Value
    place: Place
    key_place: Place

    def get(self, key: str) -> Item | None:
        """Returns the child of a mapping, or `None`."""
        return children(self).get(key)


def read_text(path: Path) -> str:
    """Reads a recipe file as it is.

    Raises:
        RecipeError: If it cannot be read, is larger than 1 MB or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"{path}: the file is larger than 1 MB, which no recipe is. Is this the right file?")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error


def read_yaml(path: Path) -> Item:
    """Reads a recipe file, whose top must be a mapping.

    Raises:
        RecipeError: If it cannot be read, is larger than 1 MB, holds more than 20,000 values, nests deeper than 64,
            holds tags, anchors or several documents, or names a key twice.
    """
    root = parse(read_text(path), Place(path, 1, 1))
    if root.value is None:
        root = replace(root, value={})
    if not isinstance(root.value, dict):
        found = "a list" if isinstance(root.value, list) else "a single value"  # the file may be no recipe but a secret
        raise RecipeError(f"{root.place}: a recipe is a mapping of keys to values, not {found}.")
    return root


def plain(item: Item) -> Any:
    """Returns the values alone."""
    if isinstance(item.value, dict):
        return {key: plain(child) for key, child in item.value.items()}
    if isinstance(item.value, list):
        return [plain(child) for child in item.value]
    return item.value


def located(value: Any, place: Place) -> Item:
    """Returns plain values as if all were written at one place."""
    if isinstance(value, dict):
        value = {key: located(child, place) for key, child in value.items()}
    elif isinstance(value, list):
        value = [located(child, place) for child in value]
    return Item(value, place, place)


def absolute(item: Item) -> Item:
    """Returns the text, or the list of texts, as absolute paths; see `Place.path`."""
    if isinstance(item.value, list):
        return replace(item, value=[absolute(child) for child in item.value])
    is_path = isinstance(item.value, str) and item.value not in ("", MISSING)
    return replace(item, value=str(item.place.path(str(item.value)))) if is_path else item


def children(item: Item) -> Mapping[str, Item]:
    """Returns the children of a mapping, or nothing."""
    return item.value if isinstance(item.value, dict) else {}


def leaves(item: Item, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Item]]:
    """Yields everything that is not a mapping, with the keys that lead to it."""
    if isinstance(item.value, dict):
        for key, child in item.value.items():
            yield from leaves(child, (*path, key))
    else:
        yield path, item


def describe(value: object) -> str:
    """Returns a value as a reader would name it."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"'{shortened(value)}'"
    return str(value).lower() if isinstance(value, bool) else str(value)


def scalar(text: str) -> bool | int | float | str | None:
    """Returns what an unquoted YAML 1.2 scalar stands for."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,18})", text):
        return int(text)
    if re.fullmatch(r"[-+]?[1-9][0-9]{19,}", text):
        return text  # no number of a recipe is that large, and as a float it would be another one
    if re.fullmatch(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        number = float(text)
        is_steps = "." not in text and number.is_integer() and abs(number) < 2**53  # 1e4 is a fine way to write them
        return int(number) if is_steps else number
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", ""))
    return text


# --- reading -------------------------------------------------------------------------------------------------


def parse(text: str, start: Place) -> Item:
    """Returns what a YAML text says, with places counted from `start`."""
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return _Reader(start, events).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _at(start, mark) if mark else start
        line = text.split("\n")[mark.line] if mark and mark.line <= text.count("\n") else ""
        advice = ' Inside braces, quote "${...}" and "???".' if "${" in line or MISSING in line else ""
        raise RecipeError(f"{place}: not YAML: {error.problem or error.context}.{advice}") from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise RecipeError(f"{start}: not YAML: {str(error).splitlines()[0]}.") from error


class _Reader:
    """Turns YAML events into items, refusing what a recipe may not hold."""

    def __init__(self, start: Place, events: Iterator[Any]) -> None:
        self.start = start
        self.events = events
        self.room = MAX_VALUES

    def document(self) -> Item:
        """Returns the only document's content; null where there is none."""
        found: Item | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and found is not None:
                raise RecipeError(f"{self.start}: several YAML documents (`---`). A recipe is one.")
            if isinstance(event, yaml.NodeEvent):
                found = self.item(event, 0, None)
        return found or Item(None, self.start, self.start)

    def item(self, event: Any, depth: int, key_place: Place | None) -> Item:
        place = _at(self.start, event.start_mark)
        self.room -= 1
        if self.room < 0:
            raise RecipeError(f"{place}: more than {MAX_VALUES:,} values, which no recipe needs. Move data elsewhere.")
        if depth > MAX_DEPTH:
            raise RecipeError(f"{place}: nested deeper than {MAX_DEPTH} levels.")
        if event.anchor:
            raise RecipeError(f"{place}: anchors and aliases are not part of recipes. Use `${{vars.name}}`.")
        if event.tag and event.tag != "!":
            raise RecipeError(
                f"{place}: the tag {shortened(event.tag)} is not allowed; recipes hold plain values only."
            )
        value: Value
        if isinstance(event, yaml.ScalarEvent):
            value = scalar(event.value) if not event.style and event.tag is None else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self.item(child, depth + 1, None) for child in self.until(yaml.SequenceEndEvent)]
        else:
            value = self.mapping(depth)
        return Item(value, place, key_place or place)

    def mapping(self, depth: int) -> dict[str, Item]:
        value: dict[str, Item] = {}
        for event in self.until(yaml.MappingEndEvent):
            place = _at(self.start, event.start_mark)
            key = self.item(event, depth + 1, None).value
            if not isinstance(key, str) or key == "":
                raise RecipeError(f"{place}: the key {describe(key)} is not a string. Quote it.")
            if len(key) > MAX_KEY:
                raise RecipeError(f"{place}: the key {describe(key)} is longer than {MAX_KEY} characters.")
            if key in value:
                raise RecipeError(f"{place}: the key '{key}' is already at {value[key].key_place}. Delete one of them.")
            value[key] = self.item(next(self.events), depth + 1, place)
        return value

    def until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event


def _at(start: Place, mark: Any) -> Place:
    return replace(start, line=mark.line + 1, column=mark.column + 1) if start.file else start
