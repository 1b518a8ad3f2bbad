"""A source of songs: it has a length, and item i is the same song at every call."""

from __future__ import annotations

import numpy as np

from songkit.types import Alignment, ArrayTrack, Note, Section, Song, Span

from .configs import SourceConfig

__all__ = ["ToneSource"]


class ToneSource:
    """Four notes a song: the vocal is the melody, the accompaniment its root an octave below."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config

    def __len__(self) -> int:
        """Number of songs."""
        return self.config.songs

    def __getitem__(self, index: int) -> Song:
        """Makes a song, with the truth about its notes.

        Raises:
            IndexError: If there is no such song; python's loops end by it.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"song {index} of {len(self)}")
        index %= len(self)
        config = self.config
        rng = np.random.default_rng((config.seed, index))
        root, step = int(rng.integers(57, 69)), config.seconds / 4
        pitches = root + rng.choice([0, 2, 4, 7, 9], size=4)
        notes = tuple(Note(int(pitch), i * step, (i + 1) * step) for i, pitch in enumerate(pitches))
        vocal = np.sum([self._tone(note) for note in notes], axis=0)
        band = self._tone(Note(root - 12, 0.0, config.seconds))
        waves = {"mix": vocal + band, "vocal": vocal, "accompaniment": band}
        return Song(
            id=f"tones-{config.seed}-{index}",
            sections=(Section("verse", ("la la la la",)),),
            description="pure tones",
            tracks={n: ArrayTrack(wave[None].astype(np.float32), config.sample_rate) for n, wave in waves.items()},
            alignment=Alignment(sections=(Span("verse", 0.0, config.seconds),), notes=notes),
            provenance={"made": "from sines", "seed": config.seed},
        )

    def _tone(self, note: Note) -> np.ndarray:
        """Returns a sine [T] over the whole song that sounds from a note's start to its end."""
        times = np.arange(round(self.config.seconds * self.config.sample_rate)) / self.config.sample_rate
        hertz = 440.0 * 2 ** ((note.pitch - 69) / 12)
        wave: np.ndarray = 0.2 * np.sin(2 * np.pi * hertz * times) * ((times >= note.start) & (times < note.end))
        return wave
