"""Songs to scores, by which a better one is told from a worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from songkit.types import Audio, Song

__all__ = ["RewardModel"]


@runtime_checkable
class RewardModel(Protocol):
    """Scores songs one by one; a song's scores do not depend on which others are in its batch."""

    aspects: tuple[str, ...]
    """What is scored, each by a short name such as `musicality`; at least one, no two alike."""

    def score(self, audio: Audio, songs: Sequence[Song]) -> Tensor:
        """Scores a batch of songs.

        Args:
            audio: What was sung, [B, C, T] for each track; left as it is.
            songs: What was asked for, one for each row of the audio.

        Returns:
            float [B, aspects], finite; higher is better.

        Raises:
            RequestError: If a song lacks what is read of it, such as a track.
        """
        ...
