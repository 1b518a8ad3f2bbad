"""Options of the codec. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["CodecConfig"]


@dataclass(kw_only=True)
class CodecConfig:
    """Pieces of waveform from a codebook, one for each frame of a track."""

    sample_rate: int = 8000
    """Samples per second."""
    frame: int = 320
    """Samples in a frame."""
    codes: int = 64
    """Pieces in the codebook."""
    tracks: tuple[str, ...] = ("vocal", "accompaniment")
    """The tracks that are coded, each as one stream."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        wrong = [name for name in ("sample_rate", "frame", "codes") if getattr(self, name) < 1]
        problems = [f"{name} is {getattr(self, name)}, expected 1 or more" for name in wrong]
        return problems if self.tracks else [*problems, "tracks is empty: name at least one"]
