"""From located values to typed ones, with every fault gathered.

Checking is done here and not by OmegaConf, which stops at the first fault, turns tuples into lists and alone takes
longer to import (0.12 s) than half of what `songkit recipes validate` may take in all.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from songkit._yaml import MISSING, Item, Problems, describe, plain
from songkit.errors import PluginError, did_you_mean

__all__ = ["Typing", "values_of"]


@dataclass
class Typing:
    """Turns items into typed values, adding to `problems` whatever is wrong with them."""

    problems: Problems = field(default_factory=list, kw_only=True)

    def settings(self, cls: type[Any], item: Item, path: str, defaults: Any = None) -> Any:
        """Returns an instance of a dataclass, or `None` if a value for it is wrong.

        Args:
            cls: The dataclass.
            item: A mapping with values for its fields, or null for none.
            path: The key path of the mapping, for messages.
            defaults: An instance with the values of the other fields; by default those that the class declares.
        """
        if item.value is None:
            item = dataclasses.replace(item, value={})
        if not isinstance(item.value, dict):
            self.report(item, path, f"expected a mapping of {cls.__name__}'s options, found {describe(item.value)}.")
            return None
        fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
        for key, stray in item.value.items():
            if key not in fields:
                hint = did_you_mean(key, fields) or f" Its options: {', '.join(fields) or 'none'}."
                self.report_key(stray, f"{path}.{key}", f"'{key}' is no option of {cls.__name__}.{hint}")
        before = len(self.problems)
        hints = _hints(cls)
        values = {name: getattr(defaults, name) for name in fields} if defaults is not None else {}
        for name, option in fields.items():
            default = values.get(name, _default(option))
            if name in item.value:
                is_path = bool(option.metadata.get("path"))
                found = self.value(hints[name], item.value[name], f"{path}.{name}", is_path=is_path, default=default)
                values[name] = found
            elif default is _UNSET:
                self.report_key(item, path, f"`{name}` is needed by {cls.__name__}.")
        if len(self.problems) > before:
            return None
        incomplete = any(value is _UNSET for value in values.values())
        try:
            config = cls(**{name: None if value is _UNSET else value for name, value in values.items()})
            faults = config.validate() if hasattr(config, "validate") and not incomplete else []
        except (ValueError, TypeError) as error:
            faults, config = [str(error)], None
        for fault in faults:
            named = [word for word in re.findall(r"\w+", fault) if word in fields][:1]
            culprit = item.value.get(named[0]) if named else None
            where = f"{path}.{named[0]}" if culprit and named else path
            (self.report if culprit else self.report_key)(culprit or item, where, fault)
        return config

    def value(self, hint: Any, item: Item, path: str, *, is_path: bool = False, default: Any = None) -> Any:
        """Returns the item's value as the type `hint` asks, or a marker after reporting that it cannot be.

        Args:
            hint: The type.
            item: The value.
            path: Its key path, for messages.
            is_path: Whether strings are paths, which become absolute.
            default: What a mapping's own values are put over.
        """
        if item.value == MISSING:
            return _UNSET
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any or hint is object:
            return plain(item)
        if origin in (typing.Union, types.UnionType):
            return self._union(args, item, path, is_path, default)
        if origin is Literal:
            return self._literal(args, item, path)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            config = self.settings(hint, item, path, default if isinstance(default, hint) else None)
            return _UNSET if config is None else config
        if (origin or hint) in _CONTAINERS:
            found = _CONTAINERS[origin or hint](self, args, item, path, is_path)
            return {**default, **found} if isinstance(default, dict) and isinstance(found, dict) else found
        if hint in _SCALARS:
            found = _SCALARS[hint](item)
            if found is not _UNSET:
                is_path = item.value != "" and (is_path or hint is Path)
                return type(found)(item.place.path(str(found))) if is_path else found
        name = getattr(hint, "__name__", str(hint))
        expected = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(name, f"a {name}")
        expected = {"str": "a string", "Path": "a path"}.get(name, expected)
        return self.wrong(item, path, expected)

    def report(self, item: Item, path: str, message: str) -> None:
        """Adds a fault of a value."""
        self.problems.append((item.place, path, message))

    def report_key(self, item: Item, path: str, message: str) -> None:
        """Adds a fault of a key."""
        self.problems.append((item.key_place, path, message))

    def wrong(self, item: Item, path: str, expected: str) -> Any:
        """Adds the fault that a value is of the wrong type; returns the marker for it."""
        found = describe(item.value)
        advice = ""
        if isinstance(item.value, str):
            clock = _CLOCK.fullmatch(item.value)
            if clock and "number" in expected:
                seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
                advice = f" Times are plain numbers: this is {seconds:g} seconds."
            elif expected == "true or false" and item.value.lower() in ("on", "off", "yes", "no", "y", "n"):
                advice = f" Write {str(item.value.lower() in ('on', 'yes', 'y')).lower()}."
        elif expected == "a string" and isinstance(item.value, bool | int | float):
            advice = f' Quote it: "{found}".'
        self.report(item, path, f"expected {expected}, found {found}.{advice}")
        return _UNSET

    def _union(self, options: tuple[Any, ...], item: Item, path: str, is_path: bool, default: Any) -> Any:
        if item.value is None and type(None) in options:
            return None
        known, faults = len(self.problems), []
        for option in (option for option in options if option is not type(None)):
            found = self.value(option, item, path, is_path=is_path, default=default)
            if len(self.problems) == known:
                return found
            faults.append(self.problems[known:])
            del self.problems[known:]
        if len(faults) > 1:
            names = [getattr(option, "__name__", str(option)) for option in options]
            return self.wrong(item, path, " or ".join(names).replace("NoneType", "null"))
        self.problems.extend(faults[0])
        return _UNSET

    def _literal(self, choices: tuple[Any, ...], item: Item, path: str) -> Any:
        for choice in choices:
            same_type = type(choice) is type(item.value)
            if (same_type and choice == item.value) or (type(item.value) is int and str(item.value) == choice):
                return choice
        names = [str(choice) for choice in choices]
        hint = did_you_mean(str(item.value), names)
        self.report(item, path, f"{describe(item.value)} is none of {', '.join(names)}.{hint}")
        return _UNSET

    def _list(self, args: tuple[Any, ...], item: Item, path: str, is_path: bool) -> Any:
        if not isinstance(item.value, list):
            return self.wrong(item, path, "a list")
        element = args[0] if args else Any
        values = [self.value(element, child, f"{path}.{i}", is_path=is_path) for i, child in enumerate(item.value)]
        return _UNSET if any(value is _UNSET for value in values) else values

    def _tuple(self, args: tuple[Any, ...], item: Item, path: str, is_path: bool) -> Any:
        if not args or args[-1] is Ellipsis:
            values = self._list(args, item, path, is_path)
            return values if values is _UNSET else tuple(values)
        if not isinstance(item.value, list) or len(item.value) != len(args):
            return self.wrong(item, path, f"a list of {len(args)} values")
        pairs = enumerate(zip(args, item.value, strict=True))
        fixed = [self.value(hint, child, f"{path}.{i}", is_path=is_path) for i, (hint, child) in pairs]
        return _UNSET if any(value is _UNSET for value in fixed) else tuple(fixed)

    def _dict(self, args: tuple[Any, ...], item: Item, path: str, is_path: bool) -> Any:
        if not isinstance(item.value, dict):
            return self.wrong(item, path, "a mapping")
        element = args[1] if args else Any
        values = {k: self.value(element, child, f"{path}.{k}", is_path=is_path) for k, child in item.value.items()}
        return _UNSET if any(value is _UNSET for value in values.values()) else values


class _Unset:
    """Stands for a value that is wrong, and already reported, or still missing."""


_UNSET: Any = _Unset()
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{2}(?:\.\d+)?)")


_CONTAINERS: dict[Any, Callable[..., Any]] = {
    list: Typing._list,
    tuple: Typing._tuple,
    dict: Typing._dict,
    Mapping: Typing._dict,
}


def _number(item: Item) -> Any:
    value = item.value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _UNSET


def _whole_number(item: Item) -> Any:
    value = item.value
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1e4 is a fine way to write a number of steps
    return value if type(value) is int else _UNSET


_SCALARS: dict[Any, Callable[[Item], Any]] = {
    bool: lambda item: item.value if isinstance(item.value, bool) else _UNSET,
    int: _whole_number,
    float: _number,
    str: lambda item: item.value if isinstance(item.value, str) else _UNSET,
    Path: lambda item: Path(item.value) if isinstance(item.value, str) else _UNSET,
}


def values_of(value: Any) -> Any:
    """Returns a typed value as a recipe would write it: dataclasses as mappings, tuples as lists, paths as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: values_of(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): values_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [values_of(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _default(option: dataclasses.Field[Any]) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return _UNSET if option.default is dataclasses.MISSING else option.default


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise PluginError(
            f"{cls.__module__}.{cls.__qualname__} is annotated with {error.name!r}, which that module does not import "
            "at run time. Import it outside `if TYPE_CHECKING`."
        ) from error
