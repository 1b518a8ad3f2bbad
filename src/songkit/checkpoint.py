"""Weights and training states on disk: atomic, durable, and verified when they are read.

Weights are safetensors files that say what they belong to and carry a SHA-256 over their tensors and that
description. Training states are `torch.save` files with a digest beside them; the last two are kept, so that a
damaged newest one costs minutes instead of the whole training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from songkit.atomic import write_atomically
from songkit.errors import CheckpointError, shortened
from songkit.weights_header import damaged, description, read_metadata

__all__ = ["fill", "load_state", "load_weights", "read_metadata", "read_weights", "save_state", "save_weights"]

_log = logging.getLogger(__name__)
_KEPT_STATES = 2
_SHOWN = 5
_SCALE = "::scale"
"""Ends the name of the scales of a tensor that is stored as int8."""


def save_weights(
    path: Path,
    weights: nn.Module | Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes the tensors of a module, or of a mapping, as a safetensors file.

    Args:
        path: Where to write; an existing file is replaced only when the new one is complete.
        weights: A module, of which the whole state dict is written, or named tensors.
        metadata: What the weights belong to; JSON values. `component` and `revision` are checked when loading.
        dtype: Storage type of floating-point tensors (`torch.float16` halves the file); unchanged when `None`.
            `torch.int8` rounds every row of a matrix to 255 steps of its own scale, and halves all other tensors.

    Raises:
        OutputError: If the file cannot be written.
    """
    named = weights.state_dict() if isinstance(weights, nn.Module) else weights
    # A copy each, because safetensors refuses tensors that share memory (tied weights).
    tensors = _packed(named, dtype)
    described = {"songkit": json.dumps(dict(metadata), sort_keys=True), "sha256": _digest(tensors, metadata)}
    content = _in_order(safetensors.torch.save(tensors, described))
    write_atomically(path, lambda file: file.write(content))


def load_weights(
    path: Path,
    module: nn.Module,
    *,
    component: str | None = None,
    revision: int | None = None,
    strict: bool = True,
) -> dict[str, Any]:
    """Loads a weights file into a module, in the module's own floating-point types.

    A file that says that it is `mapped` (`songkit.importing`) keeps its own types, and its tensors are read from the
    disk as they are needed.

    Args:
        path: A file that `save_weights` wrote.
        module: The module to fill; untouched when an error is raised.
        component: Id that the file must belong to (`levo2/music-codec`).
        revision: Revision of the component that the file must belong to.
        strict: Whether a missing or an unexpected tensor is an error; a wrong shape always is one.

    Returns:
        The metadata given to `save_weights`.

    Raises:
        CheckpointError: If the file is missing, damaged, or belongs to something else.
    """
    path = Path(path)
    metadata = read_metadata(path)
    _check_owner(path, metadata, component, revision)
    tensors, metadata = read_weights(path)
    fill(path, tensors, module, strict=strict, assign=metadata.get("mapped") is True)
    return metadata


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors of a weights file by name, as a module is filled with them, and the metadata.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    metadata, digest = description(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if _digest(tensors, metadata) != digest:
        raise damaged(path, "its content does not match the SHA-256 it carries")
    return _unpacked(path, tensors), metadata


def fill(
    path: Path, tensors: Mapping[str, Tensor], module: nn.Module, *, strict: bool = True, assign: bool = False
) -> None:
    """Copies tensors into a module, or refuses them all.

    Args:
        path: Where they come from, for messages.
        tensors: By name.
        module: The module to fill; untouched when an error is raised.
        strict: Whether a missing or an unexpected tensor is an error; a wrong shape always is one.
        assign: Whether the module takes the tensors themselves instead of copying them.

    Raises:
        CheckpointError: If the tensors do not fit; the message lists how.
    """
    _check_fit(path, tensors, module, strict)
    module.load_state_dict(tensors, strict=strict, assign=assign)


def save_state(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes a training state as `step-<step>.pt` with its digest, and removes all but the last two.

    Args:
        folder: The checkpoints folder of a run.
        step: Number of finished steps.
        state: Tensors, numbers, strings and containers of them.

    Returns:
        The written file.

    Raises:
        OutputError: If the state cannot be written; earlier states are kept then.
    """
    path = folder / f"step-{step:09d}.pt"
    # The digest is put in place before the state appears under its name, so a state without one is never normal.
    write_atomically(
        path,
        lambda file: _write_state(dict(state), file),
        before_rename=lambda written: write_atomically(
            _digest_path(path), lambda file: file.write(_file_digest(written).encode())
        ),
    )
    for old in _states(folder)[_KEPT_STATES:]:
        old.unlink()
        _digest_path(old).unlink(missing_ok=True)
    return path


def load_state(folder: Path) -> dict[str, Any] | None:
    """Reads the newest undamaged training state of a run.

    A damaged state is reported in the log and the one before it is used.

    Returns:
        The state, on the CPU, or `None` where no state has been written yet.

    Raises:
        CheckpointError: If there are states and all of them are damaged.
    """
    problems = []
    for path in _states(folder):
        problem = _state_problem(path)
        if problem is None:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # a file made to do harm makes torch raise whatever it likes
                problem = f"cannot be read as tensors and plain values ({type(error).__name__})"
            else:
                if isinstance(state, dict):
                    return state
                problem = f"holds a {type(state).__name__} and no training state"
        problems.append(f"training state {path} {problem}")
        _log.warning("%s. It is ignored; the state before it is used.", problems[-1])
    if problems:
        raise CheckpointError(
            "no usable training state: " + "; ".join(problems) + ". Restore one from a copy, or start again with "
            "another --out."
        )
    return None


def _packed(named: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors as they are stored. Only `weight` matrices bear rounding: codebooks and statistics are other tensors."""
    packed = {}
    for name, tensor in named.items():
        matrix = name.endswith("weight") and tensor.ndim >= 2 and tensor.is_floating_point()
        if dtype is torch.int8 and matrix:
            rows = tensor.detach().float().cpu().flatten(1)
            scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
            packed[name] = (rows / scale).round().to(torch.int8).reshape(tensor.shape)
            packed[name + _SCALE] = scale[:, 0].clone()
        else:
            packed[name] = _stored(tensor, torch.float16 if dtype is torch.int8 else dtype)
    return packed


def _unpacked(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_packed`, up to its rounding."""
    out = {}
    for name, tensor in tensors.items():
        scale = tensors.get(name + _SCALE)
        if scale is not None:
            if tensor.ndim == 0 or scale.shape != tensor.shape[:1]:
                raise damaged(
                    path, f"'{shortened(name)}' has {tensor.shape[:1].numel()} rows and {scale.numel()} scales"
                )
            tensor = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))
        if not name.endswith(_SCALE) or name.removesuffix(_SCALE) not in tensors:
            out[name] = tensor
    return out


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    detached = tensor.detach().to("cpu")
    if dtype is not None and detached.is_floating_point():
        detached = detached.to(dtype)
    return detached.contiguous().clone()


def _in_order(content: bytes) -> bytes:
    """Sorts the description in a safetensors file, which the library writes in an order that changes by chance."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return struct.pack("<Q", len(text)) + text + content[start:]


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over the metadata and every tensor's name, type, shape and bytes, in order of name."""
    total = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _check_owner(path: Path, metadata: Mapping[str, Any], component: str | None, revision: int | None) -> None:
    owner = metadata.get("component")
    if component is not None and owner != component:
        raise CheckpointError(
            f"weights file {path} belongs to component '{owner}', not to '{component}'. Point 'weights' at a file of "
            f"'{component}', or set 'use: {owner}'."
        )
    if revision is not None and metadata.get("revision") != revision:
        raise CheckpointError(
            f"weights file {path} was made by revision {metadata.get('revision')} of '{owner}'; the installed revision "
            f"is {revision} and would give other numbers. Train again, or install the release that made the file."
        )


def _check_fit(path: Path, tensors: Mapping[str, Tensor], module: nn.Module, strict: bool) -> None:
    wanted = module.state_dict()
    problems = []
    if strict:
        problems += _listed("missing", [name for name in wanted if name not in tensors])
        problems += _listed("unexpected", [name for name in tensors if name not in wanted])
    pairs = [(name, tensor, wanted[name]) for name, tensor in tensors.items() if name in wanted]
    shapes = [(name, list(t.shape), list(w.shape)) for name, t, w in pairs if t.shape != w.shape]
    types = [(name, t.dtype, w.dtype) for name, t, w in pairs if t.is_floating_point() != w.is_floating_point()]
    for what, differing in (("of another shape", shapes), ("of another type", types)):
        problems += _listed(what, [f"{name} ({found} in the file, {right} wanted)" for name, found, right in differing])
    if problems:
        raise CheckpointError(
            f"weights file {path} does not fit {type(module).__name__}: " + "; ".join(problems) + ". Use the options "
            "that the weights were trained with (they are in the file's metadata), or train with these."
        )


def _listed(what: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(map(shortened, names[:_SHOWN]))
    return [f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {shown}{more}"]


def _write_state(state: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # On a full disk torch complains about its own position in the file, and only the context has the reason.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _states(folder: Path) -> list[Path]:
    """Training states, newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state_problem(path: Path) -> str | None:
    if not path.is_file():
        return "is no file"
    if not _digest_path(path).is_file():
        return f"has no digest ({_digest_path(path).name} is missing)"
    if _digest_path(path).read_bytes().strip() != _file_digest(path).encode():
        return "is damaged: its content does not match its SHA-256"
    return None
