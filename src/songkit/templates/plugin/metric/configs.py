"""Options of the metric. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["MetricConfig"]


@dataclass(kw_only=True)
class MetricConfig:
    """Root mean square of a track, in dB below full scale."""

    track: str = "mix"
    """The track that is measured."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        known = ("mix", "vocal", "accompaniment")
        return [] if self.track in known else [f"track is '{self.track}', expected one of {', '.join(known)}"]
