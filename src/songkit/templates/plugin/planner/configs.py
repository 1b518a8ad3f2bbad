"""Options of the planner. Listings import this file: no torch here."""

from dataclasses import dataclass
from typing import Any

from songkit.plugin import ref

__all__ = ["PlannerConfig"]


@dataclass(kw_only=True)
class PlannerConfig:
    """Vocal and accompaniment tokens, one frame a step, the accompaniment some frames behind."""

    backbone: Any = ref("backbone")
    """The model of sequences."""
    frame_rate: float = 25.0
    """Frames per second; the codec's."""
    codes: int = 32
    """Ids of a stream; the codec's."""
    delay: int = 1
    """How far the accompaniment runs behind the vocal, in frames."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [] if self.frame_rate > 0 else [f"frame_rate is {self.frame_rate}, expected above 0"]
        problems += [] if self.codes > 0 else [f"codes is {self.codes}, expected 1 or more"]
        return problems if self.delay >= 0 else [*problems, f"delay is {self.delay}, expected 0 or more"]
