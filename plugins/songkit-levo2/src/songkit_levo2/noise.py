"""The noise that a track's latents begin as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Noise"]


class Noise:
    """Noise of one track, frame by frame, drawn when it is asked for."""

    def __init__(self, key: Sequence[int], latent: int, device: torch.device) -> None:
        self.draw = np.random.Generator(np.random.Philox(key=key))
        self.empty = self.drawn = torch.zeros(1, 0, latent, device=device)

    def given(self, frames: int, key: Sequence[int]) -> None:
        """Puts frames with a key of their own in front."""
        self.drawn = torch.cat(
            [_drawn(np.random.Generator(np.random.Philox(key=key)), frames, self.empty), self.drawn], 1
        )

    def __call__(self, start: int, stop: int) -> Tensor:
        """Returns the noise [1, F, D] of frames `start` to `stop`."""
        missing = stop - self.drawn.shape[1]
        if missing > 0:
            self.drawn = torch.cat([self.drawn, _drawn(self.draw, missing, self.empty)], 1)
        return self.drawn[:, start:stop]


def _drawn(draw: np.random.Generator, frames: int, like: Tensor) -> Tensor:
    shape = (1, frames, like.shape[2])
    return torch.from_numpy(draw.standard_normal(shape, dtype=np.float32)).to(like.device)
