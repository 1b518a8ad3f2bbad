"""What a song on paper is made of, in beats."""

from __future__ import annotations

from dataclasses import dataclass

from songkit_synth.singer import Words
from songkit_synth.styles import MODES

__all__ = ["LEAD", "TAIL", "Bar", "Line", "Part", "Score", "chord_tones"]

LEAD = 0.5
"""Seconds before the first beat, for consonants that come before it."""

TAIL = 1.0
"""Seconds behind the last bar, for what rings on."""


@dataclass(frozen=True)
class Bar:
    """A bar: its length in beats and its chord as a degree of the scale (0 = tonic)."""

    beats: int
    degree: int


@dataclass(frozen=True)
class Line:
    """A sung line. Onsets count from the line's start; the vowel of a syllable falls on its onset."""

    words: Words
    onsets: tuple[float, ...]
    lengths: tuple[float, ...]
    pitches: tuple[int, ...]
    bars: tuple[Bar, ...]

    @property
    def beats(self) -> int:
        """Length with the rest behind the last syllable."""
        return sum(bar.beats for bar in self.bars)


@dataclass(frozen=True)
class Part:
    """A section: bars, and lines if somebody sings."""

    kind: str
    """`verse`, `chorus`, `bridge`, `intro`, `inst` or `outro`."""
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...] = ()

    @property
    def beats(self) -> int:
        """Length."""
        return sum(bar.beats for bar in self.bars)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A song on paper."""

    voice: str
    genre: str
    mood: str
    tempo: int
    meter: int
    tonic: int
    """Pitch class of the key, 0 = C."""
    mode: str
    """`maj` or `min`."""
    parts: tuple[Part, ...] = ()
    lead: float = LEAD
    """Seconds before the first beat."""
    seconds: float = 0.0

    @property
    def beat(self) -> float:
        """Seconds of a beat."""
        return 60.0 / self.tempo


def chord_tones(score: Score, degree: int, *, seventh: bool = False) -> tuple[int, ...]:
    """Returns a chord's pitch classes from its root up, not reduced to an octave."""
    scale = MODES[score.mode]
    steps = (0, 2, 4, 6) if seventh else (0, 2, 4)
    return tuple(score.tonic + scale[(degree + s) % 7] + 12 * ((degree + s) // 7) for s in steps)
