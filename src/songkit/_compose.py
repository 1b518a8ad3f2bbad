"""YAML with positions: reading, merging, overriding and interpolating, before anything is known of components.

A recipe is read as YAML 1.2's plain values: `on`, `yes` and `1:30` are strings, so that a wrong type is noticed
where it is used. There are no tags, anchors or aliases; nothing in a file makes the reader run code or grow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from songkit.errors import RecipeError, did_you_mean

__all__ = [
    "MISSING",
    "Item",
    "Place",
    "Problems",
    "children",
    "describe",
    "interpolate",
    "leaves",
    "merge",
    "override",
    "plain",
    "read_yaml",
    "scalar",
]

MISSING = "???"
"""Value of what a recipe leaves to whoever uses it."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 64

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
        return f"{self.file}:{self.line}:{self.column}" if self.file else f"command line `{self.text}`"

    @property
    def folder(self) -> Path:
        """The folder of the file, or the current one for the command line."""
        return self.file.parent if self.file else Path.cwd()

    def path(self, text: str) -> Path:
        """Returns a written path, absolute: `./` and `../` start from the file, all else from the current folder."""
        beside = text in (".", "..") or text.startswith(("./", "../"))
        return Path(os.path.abspath(self.folder / text if beside else Path(text).expanduser()))


@dataclass(frozen=True)
class Item:
    """A value with the place of its key (of itself in a list) and of its own."""

    value: Value
    place: Place
    key_place: Place

    def get(self, key: str) -> Item | None:
        """Returns the child of a mapping, or `None`."""
        return children(self).get(key)


def read_yaml(path: Path) -> Item:
    """Reads a recipe file, whose top must be a mapping.

    Raises:
        RecipeError: If it cannot be read, is larger than 1 MB, nests deeper than 64, holds tags, anchors or
            several documents, or names a key twice.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: the file is larger than 1 MB, which no recipe is. Is this the right file?")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    root = _parse(text, Place(path, 1, 1))
    if root.value is None:
        root = replace(root, value={})
    if not isinstance(root.value, dict):
        raise RecipeError(f"{root.place}: a recipe is a mapping of keys to values, not {describe(root.value)}.")
    return root


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
    item = _parse(value, place)
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
    return Item({**old, **merged}, child.place, child.key_place)


def interpolate(root: Item, problems: Problems) -> Item:
    """Returns `root` with every `${paths.x}`, `${vars.x}` and, inside `paths`, `${oc.env:NAME}` filled in.

    Strings under `paths` become absolute, see `Place.path`. What cannot be filled in is added to `problems` and left
    `???`.
    """
    return _Interpolation(root, problems).walk(root, ())


def plain(item: Item) -> Any:
    """Returns the values alone."""
    if isinstance(item.value, dict):
        return {key: plain(child) for key, child in item.value.items()}
    if isinstance(item.value, list):
        return [plain(child) for child in item.value]
    return item.value


def children(item: Item) -> Mapping[str, Item]:
    """Returns the children of a mapping, or nothing."""
    return item.value if isinstance(item.value, dict) else {}


def leaves(item: Item, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Item]]:
    """Yields everything that is not a mapping, with its dotted key path."""
    if isinstance(item.value, dict):
        for key, child in item.value.items():
            yield from leaves(child, (*path, key))
    else:
        yield ".".join(path), item


def describe(value: object) -> str:
    """Returns a value as a reader would name it."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def scalar(text: str) -> bool | int | float | str | None:
    """Returns what an unquoted YAML 1.2 scalar stands for."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,18})", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", ""))
    return text


# --- reading -------------------------------------------------------------------------------------------------


def _parse(text: str, start: Place) -> Item:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        events = list(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _at(start, mark) if mark else start
        line = text.split("\n")[mark.line] if mark and mark.line <= text.count("\n") else ""
        advice = ' Inside braces, quote "${...}" and "???".' if "${" in line or MISSING in line else ""
        raise RecipeError(f"{place}: not YAML: {error.problem or error.context}.{advice}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{start}: not YAML: {error}.") from error
    if sum(isinstance(event, yaml.DocumentStartEvent) for event in events) > 1:
        raise RecipeError(f"{start}: several YAML documents (`---`). A recipe is one.")
    content = iter(event for event in events if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent))
    first = next(content, None)
    if first is None:
        return Item(None, start, start)
    return _Reader(start, content).item(first, 0, None)


class _Reader:
    """Turns YAML events into items, refusing what a recipe may not hold."""

    def __init__(self, start: Place, events: Iterator[Any]) -> None:
        self.start = start
        self.events = events

    def item(self, event: Any, depth: int, key_place: Place | None) -> Item:
        place = _at(self.start, event.start_mark)
        if depth > MAX_DEPTH:
            raise RecipeError(f"{place}: nested deeper than {MAX_DEPTH} levels.")
        if event.anchor:
            raise RecipeError(f"{place}: anchors and aliases are not part of recipes. Use `${{vars.name}}`.")
        if event.tag and event.tag != "!":
            raise RecipeError(f"{place}: the tag {event.tag} is not allowed; recipes hold plain values only.")
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
            if key in value:
                raise RecipeError(f"{place}: the key '{key}' is already at {value[key].key_place}. Delete one of them.")
            value[key] = self.item(next(self.events), depth + 1, place)
        return value

    def until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event


def _at(start: Place, mark: Any) -> Place:
    return replace(start, line=mark.line + 1, column=mark.column + 1) if start.file else start


# --- interpolation -------------------------------------------------------------------------------------------

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
        return f"there is no `{name}`.{did_you_mean(key, known)}"

    def report(self, item: Item, path: tuple[str, ...], message: str) -> None:
        self.problems.append((item.place, ".".join(path), message))
