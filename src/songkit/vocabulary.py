"""Log-probabilities of ids without the logits of all positions at once.

The logits of 8,192 positions over 16,384 ids are half a gigabyte, and so is each tensor that a backward pass makes of
them. Here a block of positions is computed, and computed again in the backward pass, so that one block is in memory at
a time: the same numbers for one more product with the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from songkit.types import Codes, TokenScores

__all__ = ["beside", "id_scores", "logit_scores", "placed", "stream_names", "target_ids"]

BLOCK = 2**23
"""Logits of a block: 32 MB in float32, and 512 positions of 16,384 ids."""

WHOLE = 2 * BLOCK
"""Logits up to which nothing is computed twice."""


def id_scores(states: Tensor, table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how likely ids are, of the states that predict them.

    Args:
        states: [N, D].
        table: [V, D], the rows of an output head.
        ids: int64 [N], below V.

    Returns:
        Log-probabilities, float32 [N], in nats; and whether each id is the most likely one, bool [N].
    """
    if len(states) * len(table) <= WHOLE:
        return _block(states, table, ids)
    rows = max(1, BLOCK // len(table))
    parts = [
        checkpoint(_block, x, table, i, use_reentrant=False, preserve_rng_state=False)
        for x, i in zip(states.split(rows), ids.split(rows), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def logit_scores(logits: Tensor, codes: Codes) -> TokenScores:
    """Returns how likely the ids of codes are, of the logits that a planner or refiner gives for them.

    Args:
        logits: [B, K, F, V], or [B, K, F + 1, V + 1] where the end of song has a frame and an id.
        codes: Of the same songs and streams; `codes.ended` says which of them end.
    """
    ids, counted = target_ids(codes, logits.shape[2], logits.shape[3] - 1)
    picked, likeliest = _picked(logits.float(), ids)
    return TokenScores(picked.masked_fill(~counted, 0.0), counted, likeliest & counted, stream_names(codes))


def placed(states: Sequence[Tensor], tables: Sequence[Tensor], codes: Codes) -> TokenScores:
    """Returns how likely the ids of codes are, of the states [B, F or F + 1, D] that predict each stream's.

    The last row of a stream's table [V + 1, D] is the end of song where there are F + 1 states. States that predict
    nothing that counts are left out.
    """
    made = []
    for k, (x, table) in enumerate(zip(states, tables, strict=True)):
        ids, counted = (part[:, k] for part in target_ids(codes, x.shape[1], len(table) - 1))
        found, likeliest = id_scores(x[counted], table, ids[counted])
        whole = torch.zeros(counted.shape, dtype=found.dtype, device=found.device)
        right = torch.zeros_like(counted)
        made.append((whole.masked_scatter(counted, found), counted, right.masked_scatter(counted, likeliest)))
    scores, counts, rights = (torch.stack(parts, 1) for parts in zip(*made, strict=True))
    return TokenScores(scores, counts, rights, stream_names(codes))


def beside(scores: TokenScores, more: TokenScores) -> TokenScores:
    """Returns the streams of both, of the same songs; the shorter ones do not count at the last frames."""
    parts = []
    for name in ("log_probabilities", "counted", "likeliest"):
        one, other = getattr(scores, name), getattr(more, name)
        frames = max(one.shape[2], other.shape[2])
        parts.append(torch.cat([functional.pad(x, (0, frames - x.shape[2])) for x in (one, other)], 1))
    return TokenScores(parts[0], parts[1], parts[2], (*scores.streams, *more.streams))


def target_ids(codes: Codes, frames: int, end: int) -> tuple[Tensor, Tensor]:
    """Returns what is to be predicted at each of the frames: ids int64 [B, K, frames], and whether it counts, bool.

    Args:
        codes: Of B songs of F frames at most.
        frames: F, or F + 1 where the end of song is predicted too.
        end: Its id; it counts for songs that are known to end (`codes.ended`), also at the frames that overrun.
    """
    ids = functional.pad(codes.ids, (0, frames - codes.ids.shape[2]))
    place = torch.arange(frames, device=ids.device)
    counted = (place < codes.lengths[:, None]).expand(len(ids), frames)
    if frames > codes.ids.shape[2] and codes.ended is not None:
        late = place - codes.lengths[:, None]
        ends = (late >= 0) & (late <= codes.overrun) & codes.ended[:, None]
        ids, counted = ids.masked_fill(ends[:, None], end), counted | ends
    return ids, counted[:, None].expand(ids.shape)


def stream_names(codes: Codes) -> tuple[str, ...]:
    """Returns the names of the streams: `mix.0`."""
    return tuple(f"{stream.track}.{stream.level}" for stream in codes.layout.streams)


def _block(states: Tensor, table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return _picked(functional.linear(states, table).float(), ids)


def _picked(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the log-probabilities of ids [...] under logits [..., V], and whether each is the most likely one."""
    found = -functional.cross_entropy(logits.flatten(0, -2), ids.flatten(), reduction="none").reshape(ids.shape)
    with torch.no_grad():
        likeliest = logits.gather(-1, ids[..., None])[..., 0] >= logits.amax(-1)
    return found, likeliest
