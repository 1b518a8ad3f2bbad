"""Token patterns: at which step of a sequence the id of each stream and frame stands. Pure data and two inverses.

Every pattern in use is one rule: frame f of stream k stands at step `1 + stride * f + offsets[k]`, and step 0 holds no
frame. The state after step s predicts step s + 1. Streams that share a step are predicted together, each by a head of
its own; a stream whose step is later knows what stands before it.

| pattern | stride | offsets |
| --- | --- | --- |
| parallel: all streams of a frame at once | 1 | 0 |
| delayed: stream k runs d frames behind (MusicGen, arXiv 2306.05284; LeVo's tracks) | 1 | d |
| interleaved: streams take turns within a frame (SongGen, arXiv 2502.13128; YuE, arXiv 2503.08638) | turns | turn |
| flat: every stream has a turn of its own | K | k |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Pattern", "delayed", "flat", "interleaved", "parallel"]


@dataclass(frozen=True)
class Pattern:
    """Where the ids of K streams stand."""

    stride: int
    """Steps from one frame to the next."""
    offsets: tuple[int, ...]
    """One for each stream: steps behind the first step of a frame."""

    def __post_init__(self) -> None:
        if self.stride < 1 or not self.offsets or min(self.offsets) < 0:
            raise ValueError(
                f"a pattern has a stride of 1 or more and, for each stream, an offset of 0 or more; got {self}"
            )

    @property
    def lead(self) -> int:
        """The stream that comes first in every frame; the end of a song is its to tell."""
        return self.offsets.index(min(self.offsets))

    def steps(self, frames: int) -> int:
        """Returns the number of steps S up to the last id of `frames` frames."""
        return max(1, 2 + self.stride * (frames - 1) + max(self.offsets))

    def at(self, step: int) -> list[tuple[int, int]]:
        """Returns which (stream, frame) stand at a step, the lead first."""
        found = []
        for stream in sorted(range(len(self.offsets)), key=lambda k: self.offsets[k]):
            frame, rest = divmod(step - 1 - self.offsets[stream], self.stride)
            if frame >= 0 and rest == 0:
                found.append((stream, frame))
        return found

    def apply(self, ids: Tensor, fill: int) -> Tensor:
        """Lays ids [B, K, F] out on steps [B, K, S]; `fill` stands where a stream has no frame."""
        batch, streams, frames = ids.shape
        if streams != len(self.offsets):
            raise ValueError(f"a pattern of {len(self.offsets)} streams cannot lay out {streams}")
        out = torch.full((batch, streams, self.steps(frames)), fill, dtype=ids.dtype, device=ids.device)
        for k, offset in enumerate(self.offsets):
            first = 1 + offset
            out[:, k, first : first + self.stride * frames : self.stride] = ids[:, k]
        return out

    def revert(self, steps: Tensor) -> Tensor:
        """Takes ids [B, K, F, ...] back from steps [B, K, S, ...]: the inverse of `apply`."""
        if steps.shape[1] != len(self.offsets):
            raise ValueError(f"a pattern of {len(self.offsets)} streams cannot take back {steps.shape[1]}")
        frames = max(0, (steps.shape[2] - 2 - max(self.offsets)) // self.stride + 1)
        rows = [steps[:, k, 1 + offset :: self.stride][:, :frames] for k, offset in enumerate(self.offsets)]
        return torch.stack(rows, 1)


def parallel(streams: int) -> Pattern:
    """All streams of a frame at one step."""
    return Pattern(1, (0,) * streams)


def delayed(delays: Sequence[int]) -> Pattern:
    """One step a frame; each stream runs its delay, in frames, behind."""
    return Pattern(1, tuple(delays))


def interleaved(turns: Sequence[int], delays: Sequence[int] | None = None) -> Pattern:
    """As many steps a frame as there are turns.

    Args:
        turns: For each stream its turn within a frame, from 0; streams with the same turn share a step.
        delays: For each stream, frames that it runs behind.
    """
    stride = max(turns) + 1
    delays = [0] * len(turns) if delays is None else delays
    return Pattern(stride, tuple(turn + stride * delay for turn, delay in zip(turns, delays, strict=True)))


def flat(streams: int) -> Pattern:
    """Each stream has a step of its own: K steps a frame."""
    return interleaved(range(streams))
