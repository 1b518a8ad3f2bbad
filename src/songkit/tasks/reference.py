"""What a frozen reference policy says of a set of pairs, computed once and kept on disk.

A table is named by a digest of all that its numbers depend on: the pairs, the weights, the precision and the streams.
It is written whole or not at all, carries a SHA-256, and is used again by every training that asks for the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from songkit.checkpoint import load_weights, save_weights
from songkit.errors import CheckpointError
from songkit.pairs import MinedPairs
from songkit.processes import first_says, place
from songkit.tasks.processes import whole

__all__ = ["ReferenceTable", "pairs_digest", "reference_table", "weights_digest"]

_log = logging.getLogger(__name__)
_OWNER = "songkit/train-preference"
FORMAT = 1
"""Version of what is kept."""


@dataclass(frozen=True)
class ReferenceTable:
    """Log-probabilities of pairs under the reference."""

    sums: Tensor
    """float32 [pairs, 2, K]: of the preferred and of the rejected song, summed over the tokens of each stream."""
    path: Path
    computed: bool
    """Whether it was not there."""


def reference_table(
    folder: Path,
    key: Mapping[str, Any],
    score: Callable[[np.ndarray], Tensor],
    batches: Sequence[np.ndarray],
    *,
    recompute: bool = False,
) -> ReferenceTable:
    """Reads a table, or computes and keeps it.

    Args:
        folder: Where tables are kept.
        key: What the numbers depend on, JSON values; `streams` names K of them.
        score: Returns the sums [B, 2, K] of pairs by their numbers [B].
        batches: All pairs, each once.
        recompute: Whether to compute it even though it is there.

    Raises:
        OutputError: If it cannot be written.
    """
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{digest}.safetensors"
    shape = (sum(map(len, batches)), 2, len(key["streams"]))
    kept = _Kept(shape)
    if first_says(path.exists() and not recompute):  # or some processes would compute, and others not
        try:
            load_weights(path, kept, component=_OWNER, revision=FORMAT)
        except CheckpointError as error:
            _log.warning("%s It is computed again.", error)
        else:
            return ReferenceTable(kept.sums, path, computed=False)
    sums = torch.full(shape, float("nan"))
    for numbers in tqdm(batches, desc="reference log-probabilities", unit=" batches", disable=None):
        sums[torch.from_numpy(np.asarray(numbers))] = score(numbers).float()
    if place()[0] == 0:
        save_weights(path, {"sums": sums}, {"component": _OWNER, "revision": FORMAT, **key})
    return ReferenceTable(sums, path, computed=True)


def weights_digest(modules: Mapping[str, nn.Module]) -> str:
    """Returns the SHA-256 of all tensors of some modules."""
    total = hashlib.sha256()
    for role, module in sorted(modules.items()):
        for name, tensor in sorted(whole(module.state_dict()).items()):
            total.update(f"\n{role}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def pairs_digest(pairs: MinedPairs) -> str:
    """Returns the SHA-256 of what is scored: requests, ids, cursors and whether songs ended, in their order."""
    total = hashlib.sha256(str(pairs.layout).encode())
    for number in range(len(pairs)):
        pair = pairs.pair(number)
        total.update(json.dumps(dataclasses.asdict(pair.request), sort_keys=True, default=str).encode())
        for song in (pair.chosen, pair.rejected):
            total.update(f"\n{song.finished} {song.ids.shape} {song.cursor is not None}\n".encode())
            total.update(np.ascontiguousarray(song.ids).data)
            if song.cursor is not None:
                total.update(np.ascontiguousarray(song.cursor).data)
    return total.hexdigest()


class _Kept(nn.Module):
    """What a file is read into: its shape is checked on the way."""

    sums: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(shape))
