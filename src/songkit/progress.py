"""How far the singing of a batch of songs is, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock", "Progress", "Reporter"]


@dataclass(frozen=True)
class Progress:
    """How far a batch of songs is."""

    stage: str
    """`draw`, or `plan` and `refine` where they come one after the other; and `decode`."""
    first: int
    """Number of the batch's first song, from 1."""
    songs: int
    """Songs in the batch."""
    total: int
    """Songs in all."""
    frames: int
    """Frames done in this stage, summed over the batch's songs."""
    most: int
    """Frames there can be."""


class Reporter:
    """Says which songs of how many the progress of a stage is about."""

    def __init__(self, progress: Callable[[Progress], None] | None, first: int, songs: int, total: int) -> None:
        self.progress, self.first, self.songs, self.total = progress, first, songs, total

    def stage(self, name: str, most: int) -> Callable[[int], None]:
        """Returns what a component calls with the number of frames it has done."""

        def report(frames: int) -> None:
            if self.progress is not None:
                self.progress(Progress(name, self.first, self.songs, self.total, frames, most))

        report(0)
        return report


class Clock:
    """Measures the wall time of stages, shared out evenly over a batch's songs."""

    def __init__(self, songs: int) -> None:
        self.songs, self.last = songs, time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self.laps[name] = (now - self.last) / self.songs
        self.last = now
