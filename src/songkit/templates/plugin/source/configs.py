"""Options of the source. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["SourceConfig"]


@dataclass(kw_only=True)
class SourceConfig:
    """Songs of pure tones, made when they are asked for."""

    songs: int = 8
    """How many."""
    seconds: float = 2.0
    """Length of a song, in seconds."""
    sample_rate: int = 8000
    """Samples per second."""
    seed: int = 0
    """Other seeds give other melodies."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        wrong = [name for name in ("songs", "seconds", "sample_rate") if getattr(self, name) <= 0]
        return [f"{name} is {getattr(self, name)}, expected above 0" for name in wrong]
