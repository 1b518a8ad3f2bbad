"""Logits to ids, with noise that belongs to a song.

A draw takes its noise from (seed, stream, step) instead of the next numbers of a generator, so a song's ids do not
depend on which songs are drawn beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from songkit.interfaces.planner import Sampling

__all__ = ["draw", "guide", "noise", "penalise"]


def guide(conditional: Tensor, null: Tensor, coefficient: float) -> Tensor:
    """Moves logits [V] away from those of the null branch: null + coefficient * (conditional - null)."""
    return null + coefficient * (conditional - null)


def penalise(logits: Tensor, recent: Sequence[int], penalty: float) -> Tensor:
    """Divides the logits [V] of every distinct recent id by `penalty`.

    A plain division, also of negative logits, and however often an id occurred: the released sampler of LeVo
    (codeclm/models/lm_levo.py) does the same.
    """
    if penalty == 1.0 or not recent:
        return logits
    logits = logits.clone()
    logits[list(set(recent))] /= penalty
    return logits


def noise(seed: int, stream: int, step: int, size: int) -> Tensor:
    """Returns Gumbel noise float32 [size] that is a function of its arguments only."""
    key = [seed & (2**64 - 1), stream]
    uniform = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step])).random(size, dtype=np.float32)
    return -torch.from_numpy(-np.log(np.maximum(uniform, 1e-20))).clamp(min=1e-20).log()


def draw(logits: Tensor, sampling: Sampling, *, seed: int, stream: int, step: int) -> int:
    """Draws one id from logits [V] with temperature and top-k; temperature 0 takes the most likely."""
    logits = logits.float()
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], float("-inf"))
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    return int((logits + noise(seed, stream, step, len(logits)).to(logits.device)).argmax())
