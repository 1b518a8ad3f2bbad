"""A checked recipe as plain values, from which the same recipe can be loaded again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from songkit._formats import FORMAT
from songkit._structure import Node
from songkit._typed import values_of
from songkit._yaml import MISSING, Item, leaves, plain

__all__ = ["components_of", "leaves_of", "node_values", "resolved_values", "walk"]


def resolved_values(
    root: Item, seed: int, roles: Mapping[str, Node], metrics: Mapping[str, Node], sections: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a recipe as plain values with every default explicit; `???` stays what it is."""
    out: dict[str, Any] = {"format": FORMAT, "seed": seed}
    local = root.get("plugins")
    if local is not None and isinstance(local.value, list):
        out["plugins"] = [str((file.place.folder / str(file.value)).resolve()) for file in local.value]
    out.update({key: plain(item) for key in ("paths", "vars") if (item := root.get(key)) is not None})
    out.update({role: node_values(node) for role, node in roles.items()})
    if metrics:
        out["metrics"] = {name: node_values(node) for name, node in metrics.items()}
    out.update({key: values_of(settings) for key, settings in sections.items()})
    named = {**roles, **{f"metrics.{name}": node for name, node in metrics.items()}}
    for path, item in leaves(root):
        if item.value == MISSING:
            _put(out, path, MISSING)
    out["_components"] = components_of(named)
    return out


def components_of(nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Returns the id, revision, distribution and version of every node by its key path."""
    return {
        key: {"id": node.id, "revision": node.revision, "distribution": node.distribution, "version": node.version}
        for key, node in walk(nodes)
    }


def walk(nodes: Mapping[str, Node | Mapping[str, Node]], prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Yields every node, those inside others included, with its key path."""
    for name, node in nodes.items():
        path = f"{prefix}{name}"
        if isinstance(node, Node):
            yield path, node
            yield from walk(node.children, f"{path}.")
        else:
            yield from walk(node, f"{path}.")


def node_values(node: Node) -> dict[str, Any]:
    """Returns a node as plain values with every default explicit."""
    out: dict[str, Any] = {"use": node.id}
    if node.weights is not None:
        out["weights"] = values_of(node.weights)
    parts = {"ref", "refs"}
    for option in dataclasses.fields(node.config):
        child = node.children.get(option.name)
        if isinstance(child, Node):
            out[option.name] = node_values(child)
        elif child is not None:
            out[option.name] = {name: node_values(part) for name, part in child.items()}
        elif option.init and not parts & set(option.metadata):
            out[option.name] = values_of(getattr(node.config, option.name))
    return out


def leaves_of(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields the values inside mappings with their key paths, tuples as lists."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from leaves_of(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value
