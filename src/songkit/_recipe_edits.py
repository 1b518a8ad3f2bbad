"""Recipes with other weights and data, for verbs that make what the next of their steps reads."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songkit.recipe import Node, Recipe

__all__ = ["with_options", "with_settings", "with_weights"]


def with_weights(recipe: Recipe, files: Mapping[str, Path]) -> Recipe:
    """Returns a recipe whose roles begin with other weights."""
    roles: dict[str, Node] = dict(recipe.roles)
    resolved: dict[str, Any] = copy.deepcopy(dict(recipe.resolved))
    for role, file in files.items():
        roles[role] = dataclasses.replace(roles[role], weights=file.absolute())
        resolved[role]["weights"] = str(file.absolute())
    return dataclasses.replace(recipe, roles=roles, resolved=resolved)


def with_options(recipe: Recipe, role: str, **options: Any) -> Recipe:
    """Returns a recipe with other options of a role's component."""
    node = recipe.roles[role]
    roles = {**recipe.roles, role: dataclasses.replace(node, config=dataclasses.replace(node.config, **options))}
    resolved: dict[str, Any] = copy.deepcopy(dict(recipe.resolved))
    resolved[role] |= options
    return dataclasses.replace(recipe, roles=roles, resolved=resolved)


def with_settings(recipe: Recipe, section: str, **values: Any) -> Recipe:
    """Returns a recipe with other values in a section."""
    settings = dataclasses.replace(getattr(recipe, section), **values)
    resolved: dict[str, Any] = copy.deepcopy(dict(recipe.resolved))
    from songkit._typed import values_of

    resolved[section] = values_of(settings)
    changed: dict[str, Any] = {section: settings, "resolved": resolved}
    return dataclasses.replace(recipe, **changed)
