"""A planner of two tracks. What is new about a planner is often its pattern: the rest is the core's."""

from __future__ import annotations

from songkit.interfaces import Backbone
from songkit.patterns import delayed
from songkit.stream_planner import StreamPlanner
from songkit.types import Stream, TokenLayout

from .configs import PlannerConfig

__all__ = ["TwoTrackPlanner"]


class TwoTrackPlanner(StreamPlanner):
    """Plans the vocal, and the accompaniment some frames behind it, so that the band can follow the singer."""

    def __init__(self, config: PlannerConfig, *, backbone: Backbone) -> None:
        streams = tuple(Stream(track, 0, config.codes) for track in ("vocal", "accompaniment"))
        super().__init__(TokenLayout(config.frame_rate, streams), delayed([0, config.delay]), backbone)
