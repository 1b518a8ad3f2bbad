"""A training loop that differs from the core's in one thing: which part of the songs a step sees."""

from __future__ import annotations

import dataclasses
from typing import Any

from songkit.interfaces import Planner
from songkit.tasks.planner import TrainPlanner
from songkit.tasks.songs import SongBatch
from songkit.types import Codes

from .configs import TaskConfig

__all__ = ["GrowingTask"]


class GrowingTask(TrainPlanner):
    """Next-token cross-entropy on beginnings that grow until they are the songs."""

    def __init__(self, config: TaskConfig, *, planner: Planner, **parts: Any) -> None:
        super().__init__(config, planner=planner, **parts)
        self.growing = config

    def batch(self, step: int) -> SongBatch:
        """Returns the beginnings of the songs of a step; a function of seed and step alone, as every batch is."""
        batch = super().batch(step)
        config, codes = self.growing, batch.codes
        grown = min(1.0, step / config.grow_steps)
        seconds = config.first_seconds + grown * (config.max_seconds - config.first_seconds)
        frames = max(1, round(seconds * codes.layout.frame_rate))
        shorter = Codes(codes.ids[:, :, :frames], codes.lengths.clamp(max=frames), codes.layout)
        cursor = None if batch.cursor is None else batch.cursor[:, :frames]
        whole = batch.complete & (codes.lengths <= frames)  # a song that was cut teaches no ending
        return dataclasses.replace(batch, codes=shorter, complete=whole, cursor=cursor)
