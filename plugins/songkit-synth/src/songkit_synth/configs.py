"""Settings of the synthetic songs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from songkit.errors import did_you_mean
from songkit.types import TIERS, TRACKS
from songkit_synth.styles import GENRES
from songkit_synth.voices import VOICES

__all__ = ["SynthSongsConfig"]


@dataclass(kw_only=True)
class SynthSongsConfig:
    """Songs sung by an opened text-to-speech model to a MIDI band, with all of their truth."""

    split: Literal["train", "valid", "test"] = "train"
    """Which poem lines are sung; the splits share none."""
    songs: int = 1000
    """Number of songs."""
    seed: int = 0
    """Song i depends on this number, i and the other settings only."""
    seconds_min: float = 20.0
    """Shortest song, in seconds."""
    seconds_max: float = 60.0
    """Longest song, in seconds; at least 4 more than `seconds_min`."""
    voices: list[str] = field(default_factory=lambda: list(VOICES))
    """Singers to draw from, by name, or `female`, `male`, `child` for all singers of a kind."""
    genres: list[str] = field(default_factory=lambda: list(GENRES))
    """Genres to draw from."""
    tiers: dict[str, float] = field(default_factory=lambda: {"very-high": 1.0})
    """Musicality tiers to draw from, with their weights."""
    tracks: list[str] = field(default_factory=lambda: list(TRACKS))
    """Tracks to render. Without `mix` and `accompaniment` the band is not rendered, which is much faster; with none at
    all a song is its words and its truth."""
    sample_rate: int = 48000
    """Samples per second: 24000 or 48000."""
    channels: int = 2
    """Channels of every track: 1 or 2."""
    sound_font: str | None = field(default=None, metadata={"path": True})
    """A .sf2 file for the band; the small one of the package pretty_midi when absent."""
    words: str | None = field(default=None, metadata={"path": True})
    """A UTF-8 text file with a lyrics line in each line, split like the poems that are sung when absent."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = []
        if self.songs < 1:
            problems.append(f"songs is {self.songs}; it has to be at least 1")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; it has to be 0 or more")
        if not 8.0 <= self.seconds_min <= self.seconds_max - 4.0 <= 271.0:
            problems.append(
                f"seconds_min is {self.seconds_min:g} and seconds_max {self.seconds_max:g}; songs last from 8 to 275 "
                "seconds and the two have to be at least 4 seconds apart"
            )
        if self.sample_rate not in (24000, 48000):
            problems.append(f"sample_rate is {self.sample_rate}; it has to be 24000 or 48000")
        if self.channels not in (1, 2):
            problems.append(f"channels is {self.channels}; it has to be 1 or 2")
        kinds = sorted({voice.kind for voice in VOICES.values()})
        problems += _unknown("voices", self.voices, [*VOICES, *kinds])
        problems += _unknown("genres", self.genres, list(GENRES))
        problems += _unknown("tracks", self.tracks, list(TRACKS)) if self.tracks else []
        problems += _unknown("tiers", list(self.tiers), list(TIERS))
        if any(weight < 0 for weight in self.tiers.values()) or sum(self.tiers.values()) <= 0:
            problems.append(f"tiers is {self.tiers}; the weights have to be 0 or more, and one of them above 0")
        for name, path in (("sound_font", self.sound_font), ("words", self.words)):
            if path is not None and not Path(path).is_file():
                problems.append(f"{name} is '{path}', which is not a file")
        return problems


def _unknown(name: str, given: list[str], known: list[str]) -> list[str]:
    if not given:
        return [f"{name} is empty; choose from {', '.join(known)}"]
    return [
        f"{name} holds '{item}', which does not exist; choose from {', '.join(known)}.{did_you_mean(item, known)}"
        for item in given
        if item not in known
    ]
