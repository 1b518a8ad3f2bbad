"""Options of the tokenizer. Listings import this file: no torch here."""

from dataclasses import dataclass

__all__ = ["TokenizerConfig"]


@dataclass(kw_only=True)
class TokenizerConfig:
    """Spectra, projected at random and compared with a random codebook."""

    sample_rate: int = 8000
    """Samples per second."""
    frame: int = 320
    """Samples in a frame."""
    dim: int = 16
    """Width of the projected spectra."""
    codes: int = 64
    """Entries of the codebook."""
    tracks: tuple[str, ...] = ("mix",)
    """The tracks that are tokenized, each as one stream."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        wrong = [name for name in ("sample_rate", "frame", "dim", "codes") if getattr(self, name) < 1]
        problems = [f"{name} is {getattr(self, name)}, expected 1 or more" for name in wrong]
        return problems if self.tracks else [*problems, "tracks is empty: name at least one"]
