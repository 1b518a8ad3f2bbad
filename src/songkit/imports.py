"""Importing packages that import more than is used of them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from songkit.errors import PluginError

__all__ = ["import_without"]


def import_without(name: str, spared: Sequence[str]) -> ModuleType:
    """Imports a package even where others that it imports, but that are not used here, cannot be.

    A stand-in takes the place of each one that cannot be imported, only while the package is: another import of it
    later meets the same error as before. What is called on a stand-in raises.

    Args:
        name: Of the package.
        spared: Modules that it imports and that are needed for nothing that is used of it.

    Raises:
        PluginError: If the package cannot be imported.
    """
    if name in sys.modules:
        return sys.modules[name]
    with _stand_ins(spared):
        try:
            return importlib.import_module(name)
        except Exception as error:  # whatever a foreign package raises as it is imported
            raise PluginError(
                f"the package '{name}' cannot be imported: {type(error).__name__}: {_first_line(error)}. Install it as "
                "the plugin's page says."
            ) from error


@contextlib.contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    placed: dict[str, _StandIn] = {}
    try:
        for name in names:
            reason = _why_not(name)
            if reason is not None:
                sys.modules[name] = placed[name] = _StandIn(name, reason)
        yield
    finally:
        for name, stand_in in placed.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _why_not(name: str) -> Exception | None:
    """Returns why a module cannot be imported, and removes what the attempt left behind."""
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except Exception as error:  # a compiled library that does not load raises OSError, others raise what they like
        for left in set(sys.modules) - before:
            if left == name or left.startswith(f"{name}."):
                del sys.modules[left]
        return error
    return None


class _StandIn(ModuleType):
    """Has every attribute, and none that works."""

    def __init__(self, name: str, reason: Exception) -> None:
        super().__init__(name)
        self._reason = reason

    def __getattr__(self, name: str) -> _Unusable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable(f"{self.__name__}.{name}", self._reason)


class _Unusable:
    def __init__(self, name: str, reason: Exception) -> None:
        self._name, self._reason = name, reason

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise PluginError(f"{self._name} cannot be used here: {_first_line(self._reason)}") from self._reason

    def __getattr__(self, name: str) -> _Unusable:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable(f"{self._name}.{name}", self._reason)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
