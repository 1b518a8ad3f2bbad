"""Options of the task. Listings import this file: no torch here."""

from dataclasses import dataclass

from songkit.components.configs import TrainPlannerConfig

__all__ = ["TaskConfig"]


@dataclass(kw_only=True)
class TaskConfig(TrainPlannerConfig):
    """Trains a planner and its conditioner, with beginnings of songs first and whole songs later."""

    first_seconds: float = 2.0
    """How much of each song the first step sees, in seconds."""
    grow_steps: int = 1000
    """Steps until songs are seen whole."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        wrong = [name for name in ("first_seconds", "grow_steps", "max_seconds") if getattr(self, name) <= 0]
        return [f"{name} is {getattr(self, name)}, expected above 0" for name in wrong]
