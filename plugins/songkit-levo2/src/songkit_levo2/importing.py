"""`songkit import levo2`: a released LeLM checkpoint to a recipe with weights.

The tensors say which of the released models it is; a folder's name says nothing. Where two differ in numbers that are
in no tensor, the released `config.yaml` beside the checkpoint or `--as` decides.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from songkit.atomic import write_atomically
from songkit.build import build_roles
from songkit.errors import CheckpointError, RequestError, did_you_mean
from songkit.importing import DTYPES, Converted, ImportReport, check_names, read_checkpoint, write_converted
from songkit.recipe import load
from songkit.registry import Registry
from songkit_levo2.import_codec import import_codec
from songkit_levo2.qwen import STYLE_ROWS
from songkit_levo2.released import DEAD, NAMES, PARTS, Entry, entries, released_shapes

__all__ = ["recognised", "run"]

_PREFIX = "audiolm."
_RECIPES = "levo2/released"
_CODEC = "codec"
_END_ROWS = {
    f"layer2_emb.{track}.weight[16384]": "the end of a track is never read: a song ends with it" for track in (1, 2)
}


def run(checkpoint: Path, out: Path, *, name: str | None, dtype: str | None, registry: Registry) -> ImportReport:
    """Imports `model.pt` of a released LeLM, or the codec (`import_codec`).

    Args:
        checkpoint: The file, or the folder that holds it.
        out: Is given a weights file for each part, `model.yaml` that names them, and `report.json`.
        name: One of `songkit_levo2.released.NAMES`, `codec`, or a recipe file with other sizes; `None` leaves it to the
            tensors.
        dtype: One of `songkit.importing.DTYPES`; `None` is bfloat16 for LeLM and float32 for the codec.
        registry: What is installed.

    Raises:
        CheckpointError: If the file is no such checkpoint, or not certainly a particular one.
        RequestError: If the codec is asked for in another type than float32.
    """
    if name is not None and "codec" in load(_source(name), registry=registry).roles:
        if dtype not in (None, "float32"):
            raise RequestError(
                f"the codec was asked for in {dtype}; expected float32, because the released flow transformer loses "
                "its way in less. Leave --dtype out."
            )
        return import_codec(checkpoint, out, _source(name), registry)
    path = checkpoint / "model.pt" if checkpoint.is_dir() else checkpoint
    state = {key.removeprefix(_PREFIX): tensor for key, tensor in read_checkpoint(path).items()}
    source = _source(name) if name is not None else f"{_RECIPES}/{recognised(path, state, registry)}"
    recipe = load(source, registry=registry)
    with torch.device("meta"):
        parts: dict[str, nn.Module] = build_roles(recipe, PARTS)
    found = list(entries({part: recipe.resolved[part]["tower"]["layers"] for part in ("planner", "refiner")}))
    check_names(path, state, [source for entry in found for source in entry.sources], DEAD)
    shapes = {part: {key: tuple(value.shape) for key, value in parts[part].state_dict().items()} for part in PARTS}
    _check_shapes(path, state, found, shapes, source)

    report = ImportReport(source, unused={name: why for name, why in DEAD.items() if name in state} | _END_ROWS)
    for part in PARTS:
        own = [entry for entry in found if entry.part == part]
        component = recipe.roles[part]
        described = {"component": component.id, "revision": component.revision, "imported": source}
        tensors = [Converted(e.name, shapes[part][e.name], functools.partial(e.of, state)) for e in own]
        file = f"{part}.safetensors"
        write_converted(out / file, tensors, described, DTYPES[dtype or "bfloat16"])
        report.used |= {released: f"{file}: {entry.name}" for entry in own for released in entry.sources}
        report.files.append(file)
    report.files += ["model.yaml", "report.json"]
    _write_text(out / "model.yaml", _recipe(source, out))
    _write_text(out / "report.json", json.dumps(report.record(), indent=2) + "\n")
    return report


def recognised(path: Path, state: Mapping[str, Tensor], registry: Registry) -> str:
    """Returns which of the released models a checkpoint is.

    Raises:
        CheckpointError: If it is none of them, or could be more than one.
    """
    sizes = _sizes(state)
    recipes = {name: load(f"{_RECIPES}/{name}", registry=registry).resolved for name in NAMES}
    fitting = {name: values for name, values in recipes.items() if _recipe_sizes(values) == sizes}
    if not fitting:
        told = ", ".join(f"{key} {value}" for key, value in sizes.items())
        raise CheckpointError(
            f"checkpoint {path} is none of {', '.join(NAMES)}: its sizes are {told}. Is it LeLM's model.pt? If it is "
            "another model of this kind, name a recipe file of these sizes with --as."
        )
    alike = ", ".join(fitting)
    base = _rope_base(path.with_name("config.yaml"))
    if base is not None:
        fitting = {name: values for name, values in fitting.items() if values["planner"]["tower"]["rope_base"] == base}
    different = {json.dumps([values[part] for part in PARTS], default=str) for values in fitting.values()}
    if len(different) != 1:
        raise CheckpointError(
            f"checkpoint {path} has the sizes of {alike}, which differ in numbers that are in no tensor. Put the "
            "published config.yaml beside it, or say which it is with --as."
        )
    return next(iter(fitting))


def _source(name: str) -> str:
    if name in (*NAMES, _CODEC):
        return f"{_RECIPES}/{name}"
    if not name.endswith((".yaml", ".yml")):
        raise CheckpointError(
            f"--as {name}: no such model.{did_you_mean(name, NAMES)} Known: {', '.join((*NAMES, _CODEC))}; or name a "
            "recipe file."
        )
    return name


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes that tensors tell, zero or absent where a tensor is not there."""
    style = state.get("condition_provider.conditioners.type_info.output_proj.weight")
    gate = state.get("transformer.model.layers.0.mlp.gate_proj.weight")
    layers = {
        tower: len({key.split(".")[3] for key in state if key.startswith(f"{tower}.model.layers.")})
        for tower in ("transformer", "transformer2")
    }
    return {
        "width": 0 if style is None else style.shape[-1],
        "style rows": 0 if style is None else style.shape[0],
        "feed forward": 0 if gate is None else gate.shape[0],
        "layers": layers["transformer"],
        "refiner layers": layers["transformer2"],
    }


def _recipe_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    tower = values["planner"]["tower"]
    return {
        "width": values["conditioner"]["width"],
        "style rows": STYLE_ROWS[values["conditioner"]["tiers"]],
        "feed forward": tower["feed_forward"],
        "layers": tower["layers"],
        "refiner layers": values["refiner"]["tower"]["layers"],
    }


def _rope_base(config: Path) -> float | None:
    """The rotary base of the planner in a released `config.yaml`; `None` if there is no such file.

    Raises:
        CheckpointError: If the file says something else.
    """
    if not config.is_file():
        return None
    try:
        return float(yaml.safe_load(config.read_text(encoding="utf-8"))["lm"]["rope_theta"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{config} does not say lm.rope_theta ({type(error).__name__}). Fetch it again, move it away, or use --as."
        ) from error


def _check_shapes(
    path: Path,
    state: Mapping[str, Tensor],
    found: list[Entry],
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
    source: str,
) -> None:
    problems = []
    for entry in found:
        for name, shape in released_shapes(entry, shapes[entry.part][entry.name]).items():
            if tuple(state[name].shape) != shape:
                problems.append(f"{name} is {list(state[name].shape)} instead of {list(shape)}")
    if problems:
        raise CheckpointError(
            f"checkpoint {path} does not have the shapes of {source}: {'; '.join(problems[:5])}"
            f"{f' and {len(problems) - 5} more' if len(problems) > 5 else ''}. Nothing was written."
        )


def _recipe(source: str, out: Path) -> str:
    parent = os.path.relpath(source, out) if source.endswith((".yaml", ".yml")) else source
    lines = [
        "# Released LeLM weights, imported by `songkit import levo2`. Their licence allows academic use only.",
        "format: 1",
        f"defaults: [{json.dumps(parent if '/' in parent else f'./{parent}')}]",
        *(f"{part}: {{weights: ./{part}.safetensors}}" for part in PARTS),
    ]
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
