"""A reward: songs to scores, higher is better."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from songkit.errors import RequestError
from songkit.types import Audio, Song

from .configs import RewardConfig

__all__ = ["BalanceReward"]


class BalanceReward:
    """A rule, without weights. One that learns is an `nn.Module` besides, and recipes name its `weights`."""

    aspects = ("balance",)

    def __init__(self, config: RewardConfig) -> None:
        self.wanted = config.wanted

    def score(self, audio: Audio, songs: Sequence[Song]) -> Tensor:
        """Returns how many dB each song is off, negated, [B, 1].

        Raises:
            RequestError: If there is no vocal or no accompaniment.
        """
        missing = {"vocal", "accompaniment"} - set(audio.tracks)
        if missing:
            raise RequestError(f"the balance cannot be scored without {', '.join(sorted(missing))}")
        vocal, band = (_decibel(audio.tracks[name], audio.lengths) for name in ("vocal", "accompaniment"))
        return -(vocal - band - self.wanted).abs()[:, None]


def _decibel(track: Tensor, lengths: Tensor) -> Tensor:
    """Returns the level of each song [B] without its padding; silence is -120 dB."""
    power = [part[:, :length].square().mean() for part, length in zip(track, lengths.tolist(), strict=True)]
    return 10 * torch.log10(torch.stack(power).clamp(min=1e-12))
