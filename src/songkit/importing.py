"""What importers of other people's weights share: reading files that nobody vouches for, and writing large ones.

Nothing is held in memory whole: a checkpoint is mapped, and each tensor is converted and written by itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import safetensors
import torch
from torch import Tensor

from songkit.atomic import write_atomically
from songkit.errors import CheckpointError, did_you_mean, shortened

__all__ = ["DTYPES", "Converted", "ImportReport", "check_names", "read_checkpoint", "write_converted"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""In which importers may write."""

_SAFE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
_SHOWN = 8


@dataclass
class ImportReport:
    """What became of every tensor of a checkpoint."""

    model: str
    """What it was recognised as."""
    used: dict[str, str] = field(default_factory=dict)
    """Released name to the file and name that it went to."""
    unused: dict[str, str] = field(default_factory=dict)
    """Released name to the reason why it is left out."""
    missing: dict[str, str] = field(default_factory=dict)
    """Own name to what stands for it."""
    files: list[str] = field(default_factory=list)
    """What was written, in the output folder."""

    def record(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Converted:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    """Reads and converts it."""
    dtype: torch.dtype | None = None
    """Its own type, for counters; `None` is that of the file."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Maps a checkpoint: safetensors, or a `torch.save` of tensors by name, in a `state_dict` or not.

    Raises:
        CheckpointError: If it is missing, damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {shortened(str(path))} is no file. Name the file as it was published.")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a file made to do harm makes torch raise whatever it likes
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} cannot be read as tensors ({shortened(reason)}). It is damaged, a pointer to a large "
            "file that was not fetched, or holds objects that could run code, which songkit does not load. Fetch it "
            "again, or save its tensors alone with torch.save(model.state_dict(), PATH)."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"checkpoint {path} holds a {type(content).__name__}; expected tensors by name, as "
            "torch.save(model.state_dict(), PATH) writes them."
        )
    strange = [
        repr(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strange:
        raise CheckpointError(
            f"checkpoint {path} holds more than tensors by name: {shortened(', '.join(strange))}. Save its tensors "
            "alone with torch.save(model.state_dict(), PATH)."
        )
    return content


def check_names(path: Path, found: Iterable[str], allowed: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raises `CheckpointError` if a checkpoint lacks tensors, or has others than are allowed.

    Args:
        path: For the message.
        found: What the checkpoint has.
        allowed: What it must have.
        optional: What it may have.
    """
    found, allowed = set(found), set(allowed)
    unknown, missing = sorted(found - allowed - set(optional)), sorted(allowed - found)
    problems = []
    if unknown:
        problems.append(f"{len(unknown)} tensors that such a model has not: {_some(unknown)}")
        problems[-1] += did_you_mean(unknown[0], missing)
    if missing:
        problems.append(f"it lacks {len(missing)}: {_some(missing)}")
    if problems:
        raise CheckpointError(
            f"checkpoint {path} is not what it should be: {'; '.join(problems)}. Nothing was written. Fetch the file "
            "again, or choose what it is with --as."
        )


def write_converted(path: Path, tensors: Sequence[Converted], metadata: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Writes tensors one by one as a weights file that `songkit.checkpoint.load_weights` reads.

    The file says that it is `mapped`: what is built from it has its type and is read from the disk as it is needed.

    Args:
        path: Where to write.
        tensors: Of distinct names.
        metadata: See `songkit.checkpoint.save_weights`.
        dtype: One of `DTYPES`.

    Raises:
        OutputError: If the file cannot be written.
    """
    described = {**metadata, "mapped": True}
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    header: dict[str, Any] = {"__metadata__": {"sha256": "0" * 64, "songkit": json.dumps(described, sort_keys=True)}}
    end = 0
    for tensor in ordered:
        kind = tensor.dtype or dtype
        start, end = end, end + kind.itemsize * torch.Size(tensor.shape).numel()
        header[tensor.name] = {"dtype": _SAFE_NAMES[kind], "shape": list(tensor.shape), "data_offsets": [start, end]}

    def write(file: IO[bytes]) -> None:
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors stay aligned
        file.write(struct.pack("<Q", len(text)) + text)
        total = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for tensor in ordered:
            made = tensor.make().to(tensor.dtype or dtype).contiguous()
            assert tuple(made.shape) == tuple(tensor.shape), tensor.name
            content = made.reshape(-1).view(torch.uint8).numpy().data
            total.update(f"\n{tensor.name} {made.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(content)
            file.write(content)
        file.seek(8 + text.index(b"0" * 64))
        file.write(total.hexdigest().encode())

    write_atomically(path, write)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return shortened(", ".join(names[:_SHOWN])) + more
