"""Options of the objective. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["ObjectiveConfig"]


@dataclass(kw_only=True)
class ObjectiveConfig:
    """DPO that asks for a wider margin where a judge saw a wider one."""

    beta: float = 0.1
    """How much a nat of log-probability counts."""
    judge: str = ""
    """The judge whose difference widens the margin, as pairs name them, such as `musicality.score`; none when empty."""
    offset: float = 1.0
    """Margin that is asked for, in units of the reward, for each unit of the judge's difference."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [] if self.beta > 0 else [f"beta is {self.beta}, expected above 0"]
        return problems if self.offset >= 0 else [*problems, f"offset is {self.offset}, expected 0 or more"]
