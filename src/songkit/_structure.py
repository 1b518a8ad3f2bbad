"""From located values to nodes: which components a recipe uses, with which options, weights and parts."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from songkit._discovery import unmet_requirements
from songkit._typed import Typing
from songkit._yaml import MISSING, Item, children, describe
from songkit.errors import PluginError, shortened
from songkit.registry import Registry

__all__ = ["Node", "Structure"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One component of a recipe: what to build, with which config, weights and parts."""

    kind: str
    id: str
    config: Any
    """Instance of the component's config class. Its `ref` fields are empty: the parts are in `children`."""
    weights: Path | Mapping[str, Path | Literal["random"]] | Literal["random"] | None
    """The file to load, `"random"` for an explicit choice of fresh weights, either of them by the name of the
    submodule it is for, or `None` where nothing is said."""
    children: Mapping[str, Node | Mapping[str, Node]]
    """The nested components by field of the config."""
    revision: int
    """Of the installed component."""
    factory: str
    """`"package.module:callable"`."""
    distribution: str
    version: str
    """Of the distribution."""
    origin: str
    """Where the recipe names it."""

    def load_factory(self) -> Callable[..., Any]:
        """Imports the component's code and returns what makes it of a config and its parts.

        Raises:
            PluginError: If it cannot be imported, or its distribution needs what is not installed.
        """
        unmet = unmet_requirements(self.distribution)
        if unmet:
            raise PluginError(
                f"{self.kind} '{self.id}' cannot be built: {unmet} Install what it needs, or another version of "
                f"{self.distribution}."
            )
        module, _, attribute = self.factory.partition(":")
        try:
            factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"{self.kind} '{self.id}' cannot be built: its factory {self.factory} of {self.distribution} "
                f"{self.version} cannot be imported ({type(error).__name__}: {error}). Install what is missing, or "
                "reinstall that distribution."
            ) from error
        return factory


@dataclass
class Structure(Typing):
    """Turns items into nodes, adding to `problems` whatever is wrong with them."""

    registry: Registry

    def node(self, kind: str, item: Item, path: str) -> Node | None:
        """Returns the node of a mapping with `use` or of an id alone; `None` if it is wrong, or null."""
        use = item.get("use") or (item if isinstance(item.value, str) else None)
        if item.value is None or item.value == MISSING:
            return None
        if use is None or not isinstance(use.value, str):
            self.report(item, path, self._needed(kind))
            return None
        try:
            entry = self.registry.get(kind, shortened(use.value))
        except PluginError as error:
            self.report(use, f"{path}.use" if use is not item else path, str(error))
            return None
        component = entry.component
        written = {key: child for key, child in children(item).items() if key not in ("use", "weights")}
        parts = self._parts(component.config, written, item, path)
        options = {key: child for key, child in written.items() if key not in _part_fields(component.config)}
        config = self.settings(component.config, dataclasses.replace(item, value=options), path)
        return Node(
            kind=kind,
            id=use.value,
            config=config,
            weights=self._weights(item.get("weights"), f"{path}.weights"),
            children=parts,
            revision=component.revision,
            factory=component.factory,
            distribution=entry.plugin.distribution,
            version=entry.plugin.version,
            origin=str(use.place),
        )

    def nodes(self, kind: str, item: Item, path: str) -> dict[str, Node]:
        """Returns the nodes of a mapping from names to components of one kind."""
        if item.value is not None and not isinstance(item.value, dict):
            self.report(item, path, f"expected a mapping from names to {kind}s, found {describe(item.value)}.")
        found = {name: self.node(kind, child, f"{path}.{name}") for name, child in children(item).items()}
        return {name: node for name, node in found.items() if node is not None}

    def _parts(
        self, config: type[Any], written: Mapping[str, Item], parent: Item, path: str
    ) -> dict[str, Node | Mapping[str, Node]]:
        parts: dict[str, Node | Mapping[str, Node]] = {}
        for name, metadata in _part_fields(config).items():
            child, where = written.get(name), f"{path}.{name}"
            if "refs" in metadata:
                parts[name] = self.nodes(metadata["refs"], child, where) if child else {}
            elif child is not None and child.value is not None:
                node = self.node(metadata["ref"], child, where)
                parts.update({name: node} if node else {})
            elif not metadata["optional"]:
                self.report_key(parent, where, self._needed(metadata["ref"]))
        return parts

    def _needed(self, kind: str) -> str:
        ids = ", ".join(entry.id for entry in self.registry.list(kind)) or "none is installed"
        return f"a {kind} is needed; name one by `use`. Known: {ids}."

    def _weights(self, item: Item | None, path: str) -> Path | dict[str, Any] | Literal["random"] | None:
        if item is None or item.value in (None, MISSING):
            return None
        if item.value == "random":
            return "random"
        if isinstance(item.value, dict):
            files = {name: self._weights(child, f"{path}.{name}") for name, child in children(item).items()}
            return {name: file for name, file in files.items() if isinstance(file, Path) or file == "random"}
        if not isinstance(item.value, str):
            self.wrong(item, path, "a path, paths by submodule, or `random`")
            return None
        return item.place.path(item.value)


def _part_fields(config: type[Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the metadata of the fields that hold other components."""
    fields = dataclasses.fields(config)
    return {field.name: field.metadata for field in fields if {"ref", "refs"} & set(field.metadata)}
