"""Options of the codec. No torch here: listings and validation read this file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from songkit.types import TRACKS

__all__ = ["Dac16Config", "Dac24Config", "Dac44Config"]


@dataclass(kw_only=True)
class Dac44Config:
    """Descript Audio Codec at 44.1 kHz: mono, 86 frames a second, up to 9 levels of 1024 ids."""

    levels: int = 0
    """Levels of the quantizer that are used, the coarsest first; all if 0."""
    tracks: list[str] = field(default_factory=lambda: ["mix"])
    """The tracks that are coded, each by itself: `[mix]`, or `[vocal, accompaniment]` for songs of two stems."""
    chunk_seconds: float = 10.0
    """Longer songs are coded in parts of this many seconds that overlap by what the network sees; whole if 0."""
    sample_rate: int = 44100
    """Samples per second."""
    encoder_dim: int = 64
    """Channels of the encoder's first convolution; each of its steps doubles them."""
    encoder_rates: list[int] = field(default_factory=lambda: [2, 4, 8, 8])
    """How much each of the encoder's steps shortens the signal; their product is the samples of a frame."""
    latent_dim: int = 1024
    """Values in one frame before it is quantized."""
    decoder_dim: int = 1536
    """Channels of the decoder's first convolution; each of its steps halves them."""
    decoder_rates: list[int] = field(default_factory=lambda: [8, 8, 4, 2])
    """How much each of the decoder's steps lengthens the signal."""
    n_codebooks: int = 9
    """Levels of the quantizer."""
    codebook_size: int = 1024
    """Ids of each level."""
    codebook_dim: int = 8
    """Values of one code."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = []
        if not 0 <= self.levels <= self.n_codebooks:
            problems.append(f"levels is {self.levels}; the model has {self.n_codebooks}")
        if not self.tracks or len(set(self.tracks)) < len(self.tracks) or not set(self.tracks) <= set(TRACKS):
            problems.append(f"tracks is {self.tracks}; expected some of {', '.join(TRACKS)}, each once")
        if self.chunk_seconds != 0 and self.chunk_seconds < 1:
            problems.append(f"chunk_seconds is {self.chunk_seconds:g}; expected 1 or more, or 0 for all at once")
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            problems.append(
                f"encoder_rates {self.encoder_rates} and decoder_rates {self.decoder_rates} have different products"
            )
        return problems


@dataclass(kw_only=True)
class Dac24Config(Dac44Config):
    """Descript Audio Codec at 24 kHz: mono, 75 frames a second, up to 32 levels of 1024 ids."""

    sample_rate: int = 24000
    encoder_rates: list[int] = field(default_factory=lambda: [2, 4, 5, 8])
    decoder_rates: list[int] = field(default_factory=lambda: [8, 5, 4, 2])
    n_codebooks: int = 32


@dataclass(kw_only=True)
class Dac16Config(Dac24Config):
    """Descript Audio Codec at 16 kHz: mono, 50 frames a second, up to 12 levels of 1024 ids."""

    sample_rate: int = 16000
    n_codebooks: int = 12
