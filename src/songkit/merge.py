"""`songkit merge`: models with a common ancestor to one, by linear interpolation of their parameters.

LeVo trains one model for each strategy of preference and interpolates the three (deep network interpolation):
θ = Σ cᵢ θᵢ with Σ cᵢ = 1. Its coefficients are not known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from songkit.atomic import write_atomically
from songkit.checkpoint import read_weights, save_weights
from songkit.errors import CheckpointError, OutputError, RecipeError, did_you_mean
from songkit.lineage import ancestry
from songkit.recipe import Recipe
from songkit.run_folder import record_run
from songkit.weights_header import description

__all__ = ["merge", "merge_point", "merge_weights"]

_log = logging.getLogger(__name__)
_SAME = ("component", "part", "revision", "config")
"""What the metadata of models have to agree in."""


def merge(recipe: Recipe, out: Path) -> Path:
    """Merges the models of a recipe.

    Args:
        recipe: With `merge.models`.
        out: Gets `weights`. What is there of the same models and coefficients is kept.

    Returns:
        The folder with the merged weights.

    Raises:
        RecipeError: The recipe names no models.
        CheckpointError: The models do not fit together, or have no common ancestor.
        OutputError: The folder holds another merge, or cannot be written.
    """
    if not recipe.merge.models:
        raise RecipeError(
            f"{recipe.path}: the recipe '{recipe.name}' names no models to merge. Give it `merge.models`, such as "
            "`{lyrics: {run: runs/lyrics}, prompt: {run: runs/prompt}}`."
        )
    before = sorted(out.glob("weights/*"))
    merge_point(recipe, recipe.merge.coefficients(), out)
    if sorted(out.glob("weights/*")) != before or not (out / "resolved.yaml").is_file():
        record_run(recipe, out)
    return out / "weights"


def merge_point(recipe: Recipe, coefficients: Mapping[str, float], out: Path) -> dict[str, Path]:
    """Merges the models of a recipe with coefficients of one's own into `out/weights`; returns the files by role."""
    settings = recipe.merge
    models = [_Model(name, Path(model.run), coefficients[name]) for name, model in settings.models.items()]
    return _merge_into(models, settings.roles, out, recipe.name, getattr(torch, settings.weights_dtype))


def merge_weights(
    files: Sequence[tuple[Path, float]], target: Path, *, recipe: str = "", dtype: torch.dtype = torch.float32
) -> None:
    """Writes Σ cᵢ θᵢ of weights files; the order of the files changes no byte.

    Args:
        files: Weights files with their coefficients, which add up to 1.
        target: What is written.
        recipe: Name that goes into the metadata.
        dtype: Storage type. Stored int8 is interpolated as it is read: each row in its own scale.

    Raises:
        CheckpointError: The files are damaged, are of different components, revisions, options or shapes, or have no
            common ancestor.
        OutputError: The file cannot be written.
    """
    # In the order of their digests, so that sums are rounded alike whatever they were called.
    digests = {path: description(path)[1] for path, _ in files}
    ordered = sorted(files, key=lambda item: (digests[item[0]], item[1]))
    shared = _common_ancestors([path for path, _ in ordered])
    total: dict[str, Tensor] = {}
    first: dict[str, Any] = {}
    for path, coefficient in ordered:
        tensors, metadata = read_weights(path)
        if not total:
            first, total = metadata, _weighted(tensors, coefficient)
            continue
        _check_alike(ordered[0][0], first, total, path, metadata, tensors)
        for name, tensor in _weighted(tensors, coefficient).items():
            if tensor.is_floating_point():
                total[name] += tensor
            elif not torch.equal(tensor, total[name]):
                raise CheckpointError(
                    f"weights files {ordered[0][0]} and {path} differ in '{name}', which holds whole numbers: there is "
                    "nothing between them. Merge models of one training."
                )
    merged = [{"sha256": digests[path], "coefficient": coefficient} for path, coefficient in ordered]
    ancestors = dict.fromkeys([*(digests[path] for path, _ in ordered), *shared])
    metadata = {**{key: first.get(key) for key in _SAME}, "recipe": recipe, "merged": merged, "ancestors": [*ancestors]}
    metadata["weights_dtype"] = _named(dtype)
    single = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in total.items()}
    save_weights(target, single, metadata, dtype=dtype)


@dataclass(frozen=True)
class _Model:
    name: str
    run: Path
    coefficient: float

    def files(self) -> dict[str, Path]:
        """The weights files by role."""
        if not self.run.is_dir():
            raise CheckpointError(
                f"merge.models.{self.name}: there is no folder {self.run}. Name the folder of a finished training."
            )
        found = {file.stem: file for file in sorted((self.run / "weights").glob("*.safetensors"))}
        if not found:
            raise CheckpointError(
                f"merge.models.{self.name}: {self.run} holds no weights/*.safetensors. Name the folder of a finished "
                "training."
            )
        return found


def _merge_into(
    models: Sequence[_Model], roles: Sequence[str], out: Path, recipe: str, dtype: torch.dtype
) -> dict[str, Path]:
    """Merges all roles of models into `out/weights`, apart from those that are there already."""
    files = {model.name: model.files() for model in models}
    everywhere = {role for role in next(iter(files.values())) if all(role in found for found in files.values())}
    somewhere = {role for found in files.values() for role in found}
    wanted = list(roles) or sorted(somewhere)
    lacking = [role for role in wanted if role not in everywhere]
    if lacking:
        having = "; ".join(f"{name} has {', '.join(found)}" for name, found in files.items())
        if not everywhere:
            raise CheckpointError(f"the models have no weights in common: {having}. Merge trainings of one recipe.")
        for role in lacking:
            if role not in somewhere:
                hint = did_you_mean(role, everywhere) or f" All models have: {', '.join(sorted(everywhere))}."
                raise CheckpointError(f"merge.roles names '{role}', of which no model has weights.{hint}")
        raise CheckpointError(
            f"not all models have weights of {', '.join(lacking)}: {having}. Choose with merge.roles what to merge."
        )
    targets = {role: out / "weights" / f"{role}.safetensors" for role in wanted}
    for role, target in targets.items():
        parts = [(files[model.name][role], model.coefficient) for model in models]
        if target.is_file():
            _refuse_other(target, parts, dtype)
            continue
        # What is frozen in all of them is not to be rounded; one model alone is merged for its type.
        if len(parts) > 1 and len({description(path)[1] for path, _ in parts}) == 1:
            content = parts[0][0].read_bytes()
            write_atomically(target, lambda file, content=content: file.write(content))  # type: ignore[misc]
        else:
            merge_weights(parts, target, recipe=recipe, dtype=dtype)
        _log.info("%s: %s", target, ", ".join(f"{model.coefficient:g} x {model.name}" for model in models))
    return targets


def _refuse_other(target: Path, parts: Sequence[tuple[Path, float]], dtype: torch.dtype) -> None:
    """Refuses a target that was merged of something else, or is stored in another type."""
    metadata, own = description(target)
    wanted = sorted((description(path)[1], coefficient) for path, coefficient in parts)
    found = [(model["sha256"], model["coefficient"]) for model in metadata.get("merged", ())]
    if found != wanted and {digest for digest, _ in wanted} != {own}:
        raise OutputError(f"{target} was merged of other models or with other coefficients. Choose another --out.")
    stored = metadata.get("weights_dtype")
    if found == wanted and stored != _named(dtype):
        raise OutputError(f"{target} is stored as {stored}; {_named(dtype)} was asked for. Choose another --out.")


def _named(dtype: torch.dtype) -> str:
    """The type as recipes name it."""
    return str(dtype).removeprefix("torch.")


def _weighted(tensors: Mapping[str, Tensor], coefficient: float) -> dict[str, Tensor]:
    """Returns floating-point tensors times a coefficient, in double precision; others as they are."""
    return {n: t.double() * coefficient if t.is_floating_point() else t for n, t in tensors.items()}


def _common_ancestors(paths: Sequence[Path]) -> list[str]:
    """Returns the digests of what all weights files were made of, or are; refuses files that have none in common."""
    lines = [ancestry(path) for path in paths]
    shared = [digest for digest in lines[0] if all(digest in line for line in lines)]
    if not shared:
        told = "; ".join(f"{path} comes from {_shown(line[1:])}" for path, line in zip(paths, lines, strict=True))
        raise CheckpointError(
            f"these models have no common ancestor, and what lies between them is no model: {told}. Merge models that "
            "were trained from the same weights (those that `weights` names in their recipes)."
        )
    return shared


def _shown(digests: Sequence[str]) -> str:
    return ", ".join(digest[:12] for digest in digests) or "no other weights"


def _check_alike(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    other: Path,
    its_metadata: Mapping[str, Any],
    its_tensors: Mapping[str, Tensor],
) -> None:
    problems = [
        f"{key} is {metadata.get(key)!r} and {its_metadata.get(key)!r}"
        for key in _SAME
        if metadata.get(key) != its_metadata.get(key)
    ]
    if not problems:
        missing = sorted(tensors.keys() ^ its_tensors.keys())
        problems += [f"only one of them has {', '.join(missing[:5])}"] if missing else []
        problems += [
            f"{name} is {list(tensors[name].shape)} and {list(its_tensors[name].shape)}"
            for name in sorted(tensors.keys() & its_tensors.keys())
            if tensors[name].shape != its_tensors[name].shape
        ]
    if problems:
        raise CheckpointError(
            f"weights files {path} and {other} are not of one model: {'; '.join(problems[:5])}. Merge models of one "
            "recipe."
        )
