"""Songs to numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torchmetrics import Metric

from songkit.types import Audio, Song

__all__ = ["MetricInfo", "SongMetric"]


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a metric reads and what its number means."""

    needs: frozenset[str]
    """Any of `vocal`, `mix`, `accompaniment`, `lyrics`, `description`, `alignment`, `reference`."""
    unit: str
    higher_is_better: bool
    per_song: bool
    """Whether there is a number for each song besides the pooled one."""
    opposite: frozenset[str] = frozenset()
    """Names of those numbers of which the other direction is better."""

    def higher(self, number: str) -> bool:
        """Returns whether more of one of its numbers is better."""
        return self.higher_is_better != (number in self.opposite)


class SongMetric(Metric, ABC):
    """A torchmetrics metric over generated songs."""

    info: MetricInfo

    @abstractmethod
    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Takes in a batch: the audio to judge and what it should have been."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Returns the pooled numbers, with `<name>_low` and `<name>_high` where an interval is known."""

    @abstractmethod
    def per_song(self) -> list[dict[str, float | str]]:
        """Returns a row for each song taken in, in order."""
