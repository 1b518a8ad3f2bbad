"""Options of the refiner. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["RefinerConfig"]


@dataclass(kw_only=True)
class RefinerConfig:
    """Tracks from the plan of a mix, each frame from the plan's state and the frame before."""

    width: int = 16
    """Width of the planner's states and of the conditions."""
    frame_rate: float = 25.0
    """Frames per second; the codec's."""
    codes: int = 32
    """Ids of a stream, in the plan and in the tracks."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        wrong = [name for name in ("width", "frame_rate", "codes") if getattr(self, name) <= 0]
        return [f"{name} is {getattr(self, name)}, expected above 0" for name in wrong]
