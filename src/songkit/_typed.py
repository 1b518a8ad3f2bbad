"""From located values to typed ones: OmegaConf converts them, and every fault is gathered with its place.

OmegaConf knows no places and stops at its first fault. So values are merged one by one into the structured form of a
config class. It is imported where it is used: listings do without it, and it takes 0.1 s.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from songkit._yaml import MISSING, Item, Problems, absolute, children, describe, leaves, plain
from songkit.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Typing", "values_of"]


@dataclass
class Typing:
    """Turns items into typed values, adding to `problems` whatever is wrong with them."""

    problems: Problems = field(default_factory=list, kw_only=True)

    def settings(self, cls: type[Any], item: Item, path: str) -> Any:
        """Returns an instance of a dataclass, or `None` if a value for it is wrong.

        Args:
            cls: The dataclass.
            item: A mapping with values for its fields, or null for none. What is `???` is that text in the instance,
                which is then not validated.
            path: The key path of the mapping, for messages.
        """
        if item.value is not None and not isinstance(item.value, dict):
            return self.wrong(item, path, cls)
        key, before = _key(cls, item), len(self.problems)
        if key not in _KNOWN:
            config = self._typed(cls, item, path)
            if len(self.problems) > before:
                return config
            _KNOWN[key] = config
        return copy.deepcopy(_KNOWN[key])

    def _typed(self, cls: type[Any], item: Item, path: str) -> Any:
        from omegaconf import OmegaConf, SCMode

        before = len(self.problems)
        values = _structured(cls)
        self._fill(values, cls, item, path)
        missing = OmegaConf.missing_keys(values)
        for name in sorted(missing - {".".join(key) for key, _ in leaves(item)}):
            self.report_key(item, path, f"`{name}` is needed by {cls.__name__}.")
        if len(self.problems) > before:
            return None
        config: Any = None
        try:
            if missing:
                as_written: Any = OmegaConf.to_container(values, structured_config_mode=SCMode.DICT)
                return cls(**as_written)
            config = OmegaConf.to_object(values)
            faults = config.validate() if hasattr(config, "validate") else []
        except (ValueError, TypeError) as error:
            faults = [str(error)]
        for fault in faults:
            name = next((word for word in re.findall(r"\w+", fault) if word in _hints(cls)), "")
            culprit = item.get(name)
            if culprit:
                self.report(culprit, f"{path}.{name}", fault)
            else:
                self.report_key(item, path, fault)
        return config

    def report(self, item: Item, path: str, message: str) -> None:
        """Adds a fault of a value."""
        self.problems.append((item.place, path, message))

    def report_key(self, item: Item, path: str, message: str) -> None:
        """Adds a fault of a key."""
        self.problems.append((item.key_place, path, message))

    def wrong(self, item: Item, path: str, hint: Any) -> None:
        """Adds the fault that a value is not of the type `hint`, or not what that text says."""
        found, advice = describe(item.value), ""
        expected = hint if isinstance(hint, str) else _words(hint)
        choices = [str(choice) for choice in typing.get_args(hint)] if typing.get_origin(hint) is Literal else []
        if isinstance(item.value, str):
            clock = re.fullmatch(r"(?:(\d+):)?(\d+):(\d{2}(?:\.\d+)?)", item.value)
            if clock and "number" in expected:
                seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
                advice = f" Times are plain numbers: this is {seconds:g} seconds."
            elif hint is bool and item.value.lower() in ("on", "off", "yes", "no", "y", "n"):
                advice = f" Write {str(item.value.lower() in ('on', 'yes', 'y')).lower()}."
            advice = advice or did_you_mean(item.value, choices)
        elif isinstance(item.value, bool | int | float) and hint is str:
            advice = f' Quote it: "{found}".'
        self.report(item, path, f"expected {expected}, found {found}.{advice}")

    def _fill(self, values: DictConfig, hint: Any, item: Item, path: str) -> None:
        """Merges an item into the values of a dataclass or dictionary, key by key, so that every fault is found."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        options = {option.name: option for option in dataclasses.fields(hint)} if dataclasses.is_dataclass(hint) else {}
        hints = _hints(hint) if options else dict.fromkeys(children(item), _element(hint))
        for key, child in children(item).items():
            where = f"{path}.{key}"
            if type(child.value) is int and str(child.value) in typing.get_args(hints.get(key)):
                child = replace(child, value=str(child.value))  # Literal["32"]: a shell would eat the quotes
            if child.value is None and not options and _is_settings(hints[key]):
                continue  # `name: null` takes away what a parent names
            if key not in hints:
                near = did_you_mean(key, hints) or f" Its options: {', '.join(hints) or 'none'}."
                self.report_key(child, where, f"'{key}' is no option of {hint.__name__}.{near}")
            elif child.value == MISSING:
                values[key] = MISSING  # merging would leave the default
            elif isinstance(child.value, dict) and (OmegaConf.is_dict(values.get(key)) or _is_settings(hints[key])):
                if key not in values:  # the first option of a dataclass in a dictionary
                    values[key] = hints[key]
                self._fill(values[key], hints[key], child, where)
            else:
                is_path = "Path" in str(hints[key]) or (key in options and options[key].metadata.get("path"))
                try:
                    values.merge_with({key: plain(absolute(child) if is_path else child)})
                    self._check_texts(child, values[key], where, hints[key])
                except OmegaConfBaseException as error:
                    index = re.search(r"\[(\d+)\]", error.full_key or "")
                    if index and isinstance(child.value, list):
                        self.wrong(child.value[int(index[1])], f"{where}.{index[1]}", _element(hints[key]))
                    else:
                        self.wrong(child, where, hints[key])

    def _check_texts(self, item: Item, value: Any, path: str, hint: Any) -> None:
        """Refuses what OmegaConf reads as another type: 'on' for true, '3' for 3, and 1.10 for '1.1'."""
        if isinstance(item.value, list):
            for i, (child, element) in enumerate(zip(item.value, value, strict=True)):
                self._check_texts(child, element, f"{path}.{i}", _element(hint))
        elif isinstance(item.value, str) != isinstance(value, str | Path):
            self.wrong(item, path, hint)


def values_of(value: Any) -> Any:
    """Returns a typed value as a recipe would write it: dataclasses as mappings, tuples as lists, paths as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: values_of(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): values_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [values_of(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# --- types ---------------------------------------------------------------------------------------------------


_KNOWN: dict[tuple[Any, ...], Any] = {}
"""What was typed before without a fault. The stages of a ladder say much the same, and a plan reads each twice."""


def _key(cls: type[Any], item: Item) -> tuple[Any, ...]:
    """Returns all that decides what becomes of an item: its values, and the folders that its paths start from."""
    return cls, repr(plain(item)), tuple(leaf.place.folder for _, leaf in leaves(item)), Path.cwd()


def _structured(cls: type[Any]) -> DictConfig:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values: DictConfig = OmegaConf.structured(cls)
    except (NameError, OmegaConfBaseException) as error:
        told = str(error).split("\n")[0]
        raise PluginError(
            f"{cls.__module__}.{cls.__qualname__} cannot be the config of a recipe: {told}. Annotate its fields with "
            "plain types, and import them outside `if TYPE_CHECKING`."
        ) from error
    return values


def _hints(cls: Any) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, without `None`."""
    hints = typing.get_type_hints(cls)
    return {option.name: _bare(hints[option.name]) for option in dataclasses.fields(cls) if option.init}


def _bare(hint: Any) -> Any:
    some = [option for option in typing.get_args(hint) if option is not type(None)]
    return some[0] if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(some) == 1 else hint


def _element(hint: Any) -> Any:
    """Returns the type of what is in a list, tuple or dictionary."""
    return next((_bare(element) for element in reversed(typing.get_args(hint)) if element is not Ellipsis), Any)


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    list: "a list",
    dict: "a mapping",
}


def _words(hint: Any) -> str:
    """Returns a type as a reader would name it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(str(choice) for choice in arguments)
    if origin is tuple:
        return "a list" if Ellipsis in arguments else f"a list of {len(arguments)} values"
    if dataclasses.is_dataclass(hint):
        return f"a mapping of {hint.__name__}'s options"  # type: ignore[union-attr] # it is a class
    known = _WORDS.get(origin or hint, "")
    return known or " or ".join(map(_words, arguments)) or str(getattr(hint, "__name__", hint))
