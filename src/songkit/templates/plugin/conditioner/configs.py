"""Options of the conditioner. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["ConditionerConfig"]


@dataclass(kw_only=True)
class ConditionerConfig:
    """The letters of lyrics and description as a prefix."""

    width: int = 16
    """Width of the embeddings; that of the planner's backbone."""
    max_bytes: int = 2000
    """Longest request, in bytes of UTF-8."""
    hidden: float = 0.1
    """How often training hides a request, so that guidance has a null branch, as a probability."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [
            f"{n} is {getattr(self, n)}, expected 1 or more" for n in ("width", "max_bytes") if vars(self)[n] < 1
        ]
        return problems if 0 <= self.hidden <= 1 else [*problems, f"hidden is {self.hidden}, expected 0 to 1"]
