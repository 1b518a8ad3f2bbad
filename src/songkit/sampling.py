"""Logits to ids, with noise that belongs to a song.

A draw takes its noise from (seed, stream, step) instead of the next numbers of a generator, so a song's ids do not
depend on which songs are drawn beside it. `draw_rows` and `penalise_rows` do for many songs at once what `draw` and
`penalise` do for one, with the same result.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from songkit.interfaces.planner import Sampling

__all__ = ["draw", "draw_rows", "guide", "noise", "penalise", "penalise_rows"]


def guide(conditional: Tensor, null: Tensor, coefficient: float) -> Tensor:
    """Moves logits away from those of the null branch: null + coefficient * (conditional - null)."""
    return (conditional - null).mul_(coefficient).add_(null)


def penalise(logits: Tensor, recent: Sequence[int], penalty: float) -> Tensor:
    """Divides the logits [V] of every distinct recent id by `penalty`.

    A plain division, also of negative logits, and however often an id occurred: the released sampler of LeVo
    (codeclm/models/lm_levo.py) does the same.
    """
    return penalise_rows(logits[None], [recent], penalty)[0]


def penalise_rows(logits: Tensor, recent: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Divides in each row of logits [N, V] those of its own recent ids by `penalty`."""
    places = [] if penalty == 1.0 else [(row, i) for row, ids in enumerate(recent) for i in set(ids)]
    if not places:
        return logits
    logits = logits.clone()
    rows, ids = torch.tensor(places, device=logits.device).T
    logits[rows, ids] /= penalty
    return logits


def noise(seed: int, stream: int, step: int, size: int) -> Tensor:
    """Returns Gumbel noise float32 [size] that is a function of its arguments only."""
    return _gumbel(_uniform(seed, stream, step, size))


def draw(logits: Tensor, sampling: Sampling, *, seed: int, stream: int, step: int) -> int:
    """Draws one id from logits [V] with temperature and top-k; temperature 0 takes the most likely."""
    return draw_rows(logits[None], sampling, seeds=[seed], stream=stream, steps=[step])[0]


def draw_rows(
    logits: Tensor, sampling: Sampling, *, seeds: Sequence[int], stream: int, steps: Sequence[int]
) -> list[int]:
    """Draws an id from each row of logits [N, V], each with the noise of its own seed and step."""
    logits = logits.float()
    if sampling.temperature == 0:
        return logits.argmax(-1).tolist()
    logits, size = logits / sampling.temperature, logits.shape[-1]
    uniform = [_uniform(seed, stream, step, size) for seed, step in zip(seeds, steps, strict=True)]
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    if not 0 < sampling.top_k < size:
        return (logits.cpu() + _gumbel(np.stack(uniform))).argmax(-1).tolist()
    values, ids = (found.cpu() for found in logits.topk(sampling.top_k))
    own = np.stack([row[chosen] for row, chosen in zip(uniform, ids.numpy(), strict=True)])
    best = (values + _gumbel(own)).argmax(-1, keepdim=True)
    return ids.gather(-1, best)[:, 0].tolist()


class _Uniform(threading.local):
    """Philox whose state is set for every draw: making a generator costs ten times as much."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.state, self.generator = self.bits.state, np.random.Generator(self.bits)

    def __call__(self, seed: int, stream: int, step: int, size: int) -> np.ndarray:
        """Returns uniform float32 [size], those of `np.random.Philox(key=[seed, stream], counter=[0, 0, 0, step])`."""
        state = self.state
        state["state"]["key"][:] = seed & (2**64 - 1), stream
        state["state"]["counter"][:] = 0, 0, 0, step
        state["buffer_pos"], state["has_uint32"], state["uinteger"] = 4, 0, 0
        self.bits.state = state
        return self.generator.random(size, dtype=np.float32)


_uniform = _Uniform()


def _gumbel(uniform: np.ndarray) -> Tensor:
    return -torch.from_numpy(-np.log(np.maximum(uniform, 1e-20))).clamp(min=1e-20).log()
