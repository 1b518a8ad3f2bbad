"""What a weights file says of itself, read from its first bytes. Imports no torch, so that plans answer at once."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from songkit.errors import CheckpointError, shortened

__all__ = ["damaged", "description", "read_metadata"]

_LARGEST_HEADER = 25_000_000


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns what a weights file says it belongs to, without reading its tensors.

    Raises:
        CheckpointError: If the file is missing, empty, not safetensors, or not written by songkit.
    """
    return description(Path(path))[0]


def description(path: Path, key: str = "weights") -> tuple[dict[str, Any], str]:
    """Returns the metadata of a weights file, and the SHA-256 over its tensors and that metadata, as it carries them.

    Args:
        path: The file.
        key: Which value of a recipe names it, for messages.

    Raises:
        CheckpointError: If the file is missing, empty, not safetensors, or not written by songkit.
    """
    if not os.path.isfile(path):  # which says no to names that `Path.is_file` raises at
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise CheckpointError(
            f"weights file {shortened(str(path))} {what}; expected a .safetensors file. Check '{key}' in the recipe, "
            "or train the component with 'songkit train'."
        )
    size = path.stat().st_size
    if size == 0:
        raise damaged(path, "it is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if _LARGEST_HEADER < length <= size - 8:
            raise damaged(path, f"its header of {length:,} bytes is larger than any that songkit writes")
        raw = file.read(min(length, size))
    if len(raw) < length:
        raise damaged(path, f"it ends after {size} bytes, inside its header, or is not a safetensors file")
    try:
        header = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "its header is not that of a safetensors file") from error
    described = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(described, dict) or "songkit" not in described or "sha256" not in described:
        raise CheckpointError(
            f"weights file {path} was not written by songkit: it does not say which component it belongs to. "
            "Convert it with the importer of its plugin, or write it again with songkit.checkpoint.save_weights."
        )
    try:
        return dict(json.loads(described["songkit"])), str(described["sha256"])
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, "its description is not a JSON object") from error


def damaged(path: Path, how: str) -> CheckpointError:
    """Returns the error that a weights file is damaged."""
    return CheckpointError(
        f"weights file {path} is damaged: {how}. Fetch or copy it again (for packaged weights: reinstall the package)."
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a JSON object; of a key that is there twice, another reader might take the other value."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)
