"""Recipes with other parts, for verbs that make what the next of their steps reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from songkit._resolved import components_of, node_values
from songkit._typed import values_of
from songkit.recipe import Node, Recipe, choose

__all__ = ["with_settings", "with_source", "with_weights", "without_roles"]


def with_weights(recipe: Recipe, files: Mapping[str, Path]) -> Recipe:
    """Returns a recipe whose roles begin with other weights."""
    own = {role: dataclasses.replace(recipe.roles[role], weights=file.absolute()) for role, file in files.items()}
    return _with_roles(recipe, {**recipe.roles, **own})


def with_source(recipe: Recipe, role: str, component: str, *, root: Path) -> Recipe:
    """Returns a recipe that reads a folder in a role, by a source whose only needed option is its root."""
    from songkit.registry import Registry

    options = [f"{role}.root='{root.absolute()}'"]
    nodes = choose("source", {role: component}, options, registry=Registry.discover())
    return _with_roles(recipe, {**recipe.roles, **nodes})


def without_roles(recipe: Recipe, roles: Iterable[str]) -> Recipe:
    """Returns a recipe that lacks some roles, and all metrics."""
    left_out = set(roles)
    kept = {role: node for role, node in recipe.roles.items() if role not in left_out}
    return _with_roles(dataclasses.replace(recipe, metrics={}), kept)


def with_settings(recipe: Recipe, section: str, **values: Any) -> Recipe:
    """Returns a recipe with other values in a section."""
    settings = dataclasses.replace(getattr(recipe, section), **values)
    changed: dict[str, Any] = {section: settings, "resolved": {**recipe.resolved, section: values_of(settings)}}
    return dataclasses.replace(recipe, **changed)


def _with_roles(recipe: Recipe, roles: Mapping[str, Node]) -> Recipe:
    """Returns a recipe of other roles, with its resolved values to match."""
    kept = {
        key: value for key, value in recipe.resolved.items() if key not in (*recipe.roles, "metrics", "_components")
    }
    metrics = {"metrics": {name: node_values(node) for name, node in recipe.metrics.items()}} if recipe.metrics else {}
    named = {**roles, **{f"metrics.{name}": node for name, node in recipe.metrics.items()}}
    own = {role: node_values(node) for role, node in roles.items()}
    return dataclasses.replace(
        recipe, roles=dict(roles), resolved={**kept, **own, **metrics, "_components": components_of(named)}
    )
