"""Token patterns: at which step the id of each stream and frame stands.

Step 0 holds no frame; step 1 + f + delay holds frame f of a stream with that delay. So the state after step s
predicts step s + 1, and streams without delay are predicted frame after frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["apply_delays", "pattern_steps", "revert_delays"]


def pattern_steps(frames: int, delays: Sequence[int]) -> int:
    """Returns the number of steps S of `frames` frames: the empty step, the frames and the longest delay."""
    return 1 + frames + max(delays)


def apply_delays(ids: Tensor, delays: Sequence[int], fill: int) -> Tensor:
    """Lays ids [B, K, F] out on steps.

    Args:
        ids: Any integer tensor.
        delays: One for each stream, in frames, not negative.
        fill: What stands where there is no frame.

    Returns:
        [B, K, S] with `out[:, k, 1 + f + delays[k]] == ids[:, k, f]` and `fill` elsewhere.
    """
    batch, streams, frames = ids.shape
    _check(streams, delays)
    out = torch.full((batch, streams, pattern_steps(frames, delays)), fill, dtype=ids.dtype, device=ids.device)
    for k, delay in enumerate(delays):
        out[:, k, 1 + delay : 1 + delay + frames] = ids[:, k]
    return out


def revert_delays(steps: Tensor, delays: Sequence[int]) -> Tensor:
    """Takes ids [B, K, F] back from steps [B, K, S, ...]: the inverse of `apply_delays`."""
    _check(steps.shape[1], delays)
    frames = steps.shape[2] - 1 - max(delays)
    return torch.stack([steps[:, k, 1 + d : 1 + d + frames] for k, d in enumerate(delays)], 1)


def _check(streams: int, delays: Sequence[int]) -> None:
    if len(delays) != streams or min(delays) < 0:
        raise ValueError(f"expected {streams} delays of 0 or more, one for each stream, got {list(delays)}")
