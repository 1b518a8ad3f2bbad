"""Structured recipe to live objects: the first import of torch.

Parts are built from the leaves up. Fresh parameters depend on the seed and the part's place in the recipe alone, and
the process's own random state is left as it was. Parts that do not fit together are refused with every reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from songkit._resolved import walk
from songkit.checkpoint import load_weights, read_metadata
from songkit.errors import CheckpointError, RecipeError, did_you_mean, shortened
from songkit.fit import check_fit
from songkit.published import PublishedWeights, load_published
from songkit.recipe import Node, Recipe

__all__ = ["build", "build_roles"]


def build(node: Node, *, seed: int = 0, require_weights: bool = False, extra: Mapping[str, Any] | None = None) -> Any:
    """Builds a component and everything inside it.

    Args:
        node: From a recipe.
        seed: Of the initial parameters.
        require_weights: Whether a module whose parameters come from no file is refused.
        extra: Further keyword arguments of the component's own factory.

    Returns:
        What the factory returns, on the CPU; modules with `weights` have them loaded.

    Raises:
        PluginError: If the factory cannot be imported.
        CheckpointError: If weights are missing or do not belong to the component.
        LayoutError: If the component refuses its parts.
    """
    built, fresh = _build(node, seed, extra or {})
    if require_weights and fresh:
        first, *others = fresh.values()
        raise CheckpointError(
            f"{node.origin}: {node.kind} '{node.id}' has no weights ({first} and {len(others)} more parameters would "
            "be random). Name a file by `weights`, or write `weights: random` if that is what you want."
        )
    return built


def build_roles(
    recipe: Recipe,
    roles: Iterable[str] | None = None,
    *,
    seed: int | None = None,
    require_weights: bool = False,
) -> dict[str, Any]:
    """Builds components of a recipe and checks that they fit together.

    Args:
        recipe: Where they are described.
        roles: Which ones; by default all but the task, which is built from the others.
        seed: Of the initial parameters; by default the recipe's.
        require_weights: See `build`.

    Raises:
        RecipeError: If the recipe has no such role.
        CheckpointError: If weights are missing; where several are, all of them are named.
        LayoutError: If parts do not fit together.
    """
    wanted = [role for role in recipe.roles if role != "task"] if roles is None else list(roles)
    absent = [role for role in wanted if role not in recipe.roles]
    if absent:
        raise RecipeError(
            f"{recipe.path}: the recipe '{recipe.name}' has no {', no '.join(absent)}. It has "
            f"{', '.join(recipe.roles) or 'no components'}; add what is missing or choose another recipe."
        )
    _check_files(recipe, wanted)
    parts = {}
    for role in wanted:
        own_seed = _derived(recipe.seed if seed is None else seed, role)
        parts[role] = build(recipe.roles[role], seed=own_seed, require_weights=require_weights)
    check_fit(parts)
    return parts


def _build(node: Node, seed: int, extra: Mapping[str, Any], device: str | None = None) -> tuple[Any, dict[int, str]]:
    """Builds a node; returns it with the names of its fresh parameters by their identity.

    A parameter is fresh while it neither comes from a file nor is covered by `weights: random`. What takes the mapped
    tensors of a file is built on the device "meta": random parameters of its size might not fit into memory.
    """
    mapped = _is_mapped(node)
    device = "meta" if mapped else device
    fresh: dict[int, str] = {}
    of_parts: set[int] = set()

    def part(child: Node, name: str) -> Any:
        built, fresh_inside = _build(child, _derived(seed, name), {}, device)
        fresh.update((key, f"{name}.{parameter}") for key, parameter in fresh_inside.items())
        of_parts.update(id(parameter) for _, parameter in _parameters(built))
        return built

    parts: dict[str, Any] = dict.fromkeys(_ref_fields(node))  # an optional part that the recipe leaves out is None
    for name, child in node.children.items():
        parts[name] = (
            part(child, name)
            if isinstance(child, Node)
            else {key: part(item, f"{name}.{key}") for key, item in child.items()}
        )
    factory = node.load_factory()
    with torch.random.fork_rng(devices=[]), torch.device(device) if device else contextlib.nullcontext():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        built = factory(node.config, **parts, **extra)
    fresh.update((id(parameter), name) for name, parameter in _parameters(built) if id(parameter) not in of_parts)
    for name, file in _files(node).items():
        target = _submodule(built, name, node)
        if file != "random" and file.suffix != ".safetensors" and isinstance(target, PublishedWeights):
            load_published(file, target)
        elif file != "random":
            load_weights(file, target, component=node.id, revision=node.revision)
            target.weights_loaded = True  # type: ignore[assignment]  # for tasks that start what is untrained
        for parameter in target.parameters():
            fresh.pop(id(parameter), None)
    if mapped:
        fresh.clear()  # every parameter was replaced by the file's tensor
    return built, fresh


def _files(node: Node) -> Mapping[str, Path | Literal["random"]]:
    """Returns where the weights of each submodule come from; `""` is the whole."""
    if node.weights is None:
        return {}
    return node.weights if isinstance(node.weights, Mapping) else {"": node.weights}


def _check_files(recipe: Recipe, roles: Iterable[str]) -> None:
    """Names all weights that are missing where there are several; what loads a file says more about a single one."""
    missing = [
        f"{where}.weights{f'.{part}' if part else ''}: {shortened(str(file))}"
        for where, node in walk({role: recipe.roles[role] for role in roles})
        for part, file in _files(node).items()
        if file != "random" and not os.path.exists(file)  # which says no to names that `Path.exists` raises at
    ]
    if len(missing) > 1:
        raise CheckpointError(
            f"the recipe '{recipe.name}' names weights files that do not exist:\n"
            + "\n".join(missing)
            + "\nTrain those components with 'songkit train', or name files that are there in a recipe of yours."
        )


def _is_mapped(node: Node) -> bool:
    """Whether all tensors of a node come from one file that says that they are to be mapped."""
    file = _files(node).get("")
    return isinstance(file, Path) and file.suffix == ".safetensors" and read_metadata(file).get("mapped") is True


def _submodule(built: Any, name: str, node: Node) -> nn.Module:
    if not isinstance(built, nn.Module):
        raise CheckpointError(f"{node.origin}: {node.kind} '{node.id}' takes no weights. Delete `weights` there.")
    try:
        return built.get_submodule(name)
    except AttributeError:
        names = [child for child, _ in built.named_children()]
        raise CheckpointError(
            f"{node.origin}: {node.kind} '{node.id}' has no submodule '{name}' for which `weights` names a file."
            f"{did_you_mean(name, names)} It has {', '.join(names) or 'none'}."
        ) from None


def _ref_fields(node: Node) -> list[str]:
    return [option.name for option in dataclasses.fields(node.config) if "ref" in option.metadata]


def _parameters(built: Any) -> list[tuple[str, nn.Parameter]]:
    return list(built.named_parameters()) if isinstance(built, nn.Module) else []


def _derived(seed: int, name: str) -> int:
    """Returns a seed for a part, so that equal parts at different places start from different parameters."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits
