"""Options of both codecs. No torch here: listings and validation read this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from songkit.types import TRACKS

__all__ = ["Encodec24Config", "Encodec48Config"]


@dataclass(kw_only=True)
class EncodecConfig:
    """What both published models have in common; the defaults are their sizes."""

    bandwidth: float = 6.0
    """Kilobits per second that a track is coded with; one that the model offers."""
    tracks: list[str] = field(default_factory=lambda: ["mix"])
    """The tracks that are coded, each by itself: `[mix]`, or `[vocal, accompaniment]` for songs of two stems."""
    filters: int = 32
    """Channels of the first convolution; each of the four steps to frames doubles them."""
    dimension: int = 128
    """Values in one frame before it is quantized."""

    bandwidths: ClassVar[tuple[float, ...]] = (6.0,)

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = []
        if self.bandwidth not in self.bandwidths:
            offered = ", ".join(f"{bandwidth:g}" for bandwidth in self.bandwidths)
            problems.append(f"bandwidth is {self.bandwidth:g}; the model offers {offered} kbit/s")
        if not self.tracks or len(set(self.tracks)) < len(self.tracks) or not set(self.tracks) <= set(TRACKS):
            problems.append(f"tracks is {self.tracks}; expected some of {', '.join(TRACKS)}, each once")
        if min(self.filters, self.dimension) < 1:
            problems.append(f"filters {self.filters} and dimension {self.dimension} must be at least 1")
        return problems


@dataclass(kw_only=True)
class Encodec24Config(EncodecConfig):
    """EnCodec at 24 kHz: mono, causal, 75 frames a second, 2 to 32 levels of 1024 ids."""

    chunk_seconds: float = 20.0
    """Longer songs are coded in parts of this many seconds with the network's state handed on; whole if 0."""

    bandwidths: ClassVar[tuple[float, ...]] = (1.5, 3.0, 6.0, 12.0, 24.0)

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        wrong = self.chunk_seconds != 0 and self.chunk_seconds < 1
        chunk = [f"chunk_seconds is {self.chunk_seconds:g}; expected 1 or more, or 0 for all at once"] if wrong else []
        return super().validate() + chunk


@dataclass(kw_only=True)
class Encodec48Config(EncodecConfig):
    """EnCodec at 48 kHz: stereo, segments of a second, 2 to 16 levels of 1024 ids and one for the loudness."""

    bandwidths: ClassVar[tuple[float, ...]] = (3.0, 6.0, 12.0, 24.0)
