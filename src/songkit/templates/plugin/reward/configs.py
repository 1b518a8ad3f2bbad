"""Options of the reward. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["RewardConfig"]


@dataclass(kw_only=True)
class RewardConfig:
    """How near the voice is to a wanted loudness beside the accompaniment."""

    wanted: float = 3.0
    """dB by which the voice should be louder."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return [] if abs(self.wanted) <= 40 else [f"wanted is {self.wanted} dB, expected from -40 to 40"]
