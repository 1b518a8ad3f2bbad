"""What a config dataclass says about itself: its options with type, default and meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from dataclasses import dataclass
from typing import Any

__all__ = ["Option", "meanings", "options"]


@dataclass(frozen=True)
class Option:
    """One field of a config."""

    name: str
    """Dotted, where configs are nested."""
    type: str
    default: str
    """As it would be written in a recipe, or `required`, `component` or `optional component`."""
    meaning: str
    """The string below the field, on one line; empty where there is none."""


def options(config: type[Any], prefix: str = "") -> list[Option]:
    """Returns the options of a config, those of nested configs included."""
    told = meanings(config)
    rows = []
    for field in dataclasses.fields(config):
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        name, meaning = prefix + field.name, " ".join(told.get(field.name, "").split())
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            rows += options(type(value), f"{name}.")
        else:
            rows.append(Option(name, _type(field), _default(field, value), meaning))
    return rows


def meanings(config: type[Any]) -> dict[str, str]:
    """Returns the string below each field of a dataclass, those of its bases included."""
    told: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for statement, below in itertools.pairwise(body):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and documented:
                told[statement.target.id] = str(below.value.value)  # type: ignore[attr-defined] # checked above
    return told


def _type(field: dataclasses.Field[Any]) -> str:
    if "ref" in field.metadata:
        return str(field.metadata["ref"])
    if "refs" in field.metadata:
        return f"{field.metadata['refs']}s by name"
    return field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))


def _default(field: dataclasses.Field[Any], value: Any) -> str:
    if "ref" in field.metadata:
        return "optional component" if field.metadata["optional"] else "component"
    return "required" if value is dataclasses.MISSING else _written(value)


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    return '""' if value == "" else str(value)
