"""`songkit import levo2 FOLDER OUT --as codec`: the released codec's files to a recipe with weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from songkit.atomic import write_atomically
from songkit.build import build_roles
from songkit.errors import CheckpointError
from songkit.importing import Converted, ImportReport, read_checkpoint, write_converted
from songkit.recipe import load
from songkit.registry import Registry
from songkit_levo2.released_codec import DUAL_TRACK, MIXED, VAE, Part, codec_makers, recognised

__all__ = ["import_codec"]

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")


def import_codec(folder: Path, out: Path, source: str, registry: Registry) -> ImportReport:
    """Imports the codec from the folder that holds its released files, at any depth.

    It is written in float32: the released flow transformer loses its way in less (its latents
    have been reported at a cosine of 0.64 to the right ones in bfloat16).

    Args:
        folder: Files are told apart by their tensors; other files are left alone.
        out: Is given `codec.safetensors`, `codec.yaml` that names it, and `report.json`.
        source: Recipe that has the codec, with its sizes.
        registry: What is installed.

    Raises:
        CheckpointError: If a file is missing, there twice, or not what it should be; nothing has been written then.
    """
    recipe = load(source, registry=registry)
    paths, unread = _found(folder)
    with torch.device("meta"):
        wanted: Mapping[str, Tensor] = build_roles(recipe, ["codec"])["codec"].state_dict()
    needed = {DUAL_TRACK, VAE} | ({MIXED} if "semantic.quantizers.mix.codes" in wanted else set())
    missing = [part.title for part in (DUAL_TRACK, MIXED, VAE) if part in needed - paths.keys()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks the {', the '.join(missing)}. The codec's files were released apart from LeLM, in one "
            f"runtime bundle; name the folder that holds them all.{unread}"
        )
    files = {part: read_checkpoint(paths[part]) for part in (DUAL_TRACK, MIXED, VAE) if part in needed}
    made, used, unused = codec_makers(wanted, files)

    component = recipe.roles["codec"]
    metadata = {"component": component.id, "revision": component.revision, "imported": source}
    tensors = [
        Converted(name, tuple(tensor.shape), made[name], None if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in wanted.items()
    ]
    write_converted(out / "codec.safetensors", tensors, metadata, torch.float32)
    report = ImportReport(source, files=["codec.safetensors", "codec.yaml", "report.json"])
    for part in files:
        file = paths[part].relative_to(folder)
        report.used |= {f"{file}: {name}": f"codec.safetensors: {new}" for name, new in used[part].items()}
        report.unused |= {f"{file}: {name}": reason for name, reason in unused[part].items()}
    parent = f"./{os.path.relpath(source, out)}" if source.endswith((".yaml", ".yml")) else source
    lines = [
        "# The released codec, imported by `songkit import levo2`: for academic use only, by its authors' licence.",
        "format: 1",
        f"defaults: [{json.dumps(parent)}]",
        "codec: {weights: ./codec.safetensors}",
    ]
    for name, text in (("codec.yaml", "\n".join(lines)), ("report.json", json.dumps(report.record(), indent=2))):
        write_atomically(out / name, lambda file, text=text: file.write(f"{text}\n".encode()))  # type: ignore[misc]
    return report


def _found(folder: Path) -> tuple[dict[Part, Path], str]:
    """Returns the released files in a folder, and what could not be read there: others' files may lie beside them."""
    found: dict[Part, Path] = {}
    unread = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file()):
        try:
            part = recognised(read_checkpoint(path))
        except CheckpointError as error:
            unread.append(str(error))
            continue
        if part in found:
            raise CheckpointError(
                f"{folder} has the {part.title} twice: {found[part]} and {path}. Move one of them away."
            )
        if part is not None:
            found[part] = path
    return found, f" What could not be read: {' '.join(unread)}" if unread else ""
