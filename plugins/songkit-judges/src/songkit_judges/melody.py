"""The judge of the melody: does the voice sing what the band plays?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song, Span
from songkit_judges.configs import MelodyConfig
from songkit_judges.harmony import CHROMA_SECONDS, chord_notes, chroma_frames, hear_chords
from songkit_judges.kept import KeptMetric, check_batch, track_samples
from songkit_judges.pitch import scale_of, scale_share, track_pitch

__all__ = ["MelodyMetric", "fifths_apart", "share_on"]


class MelodyMetric(KeptMetric):
    """The voice's notes against the band's chords and key.

    `on_chord`: share of the voiced frames within 50 cents of a note of the triad that is heard in the accompaniment at
    that time; .25 by chance. `on_written_chord`: the same against the song's own chords, where they are known.
    `keys_apart`: steps on the circle of fifths between the scales that fit voice and accompaniment best (lower is
    better); 3 by chance.
    """

    info = MetricInfo(
        needs=frozenset({"vocal", "accompaniment"}),
        unit="share (keys_apart: fifths)",
        higher_is_better=True,
        per_song=True,
        opposite=frozenset({"keys_apart"}),
    )

    def __init__(self, config: MelodyConfig) -> None:
        super().__init__("heard", "frames", "written", "known", "apart", "both")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Measures both tracks of each song."""
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            vocal, band = (track_samples(generated, name, i) for name in ("vocal", "accompaniment"))
            times, midi = track_pitch(vocal, generated.sample_rate)
            times, midi = times[np.isfinite(midi)], midi[np.isfinite(midi)]
            classes = chroma_frames(band, generated.sample_rate)
            heard = share_on(midi, _heard(classes, times), self.config.tolerance)
            chords = song.alignment.chords if song.alignment else ()
            written = share_on(midi, _written(chords, times), self.config.tolerance)
            both = bool(midi.size and classes.any())
            self.keep(
                song.id,
                heard=[heard[0]],
                frames=[heard[1]],
                written=[written[0]],
                known=[written[1]],
                apart=[fifths_apart(midi, classes.sum(axis=0), self.config.tolerance) if both else 0],
                both=[float(both)],
            )

    def compute(self) -> dict[str, Tensor]:
        """Returns the pooled numbers, each with its interval; those that no song has the truth for are left out."""
        out: dict[str, Tensor] = {}
        for name, (parts, wholes) in _RATIOS.items():
            out |= self.pool(name, parts, wholes, replicates=self.config.replicates, seed=self.config.seed)
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and the numbers of each song; one without a voice or without a band lacks some."""
        return self.ratios(_RATIOS)


_RATIOS = {
    "on_chord": ("heard", "frames"),
    "on_written_chord": ("written", "known"),
    "keys_apart": ("apart", "both"),
}


def share_on(midi: np.ndarray, notes: np.ndarray, tolerance: float = 50.0) -> tuple[int, int]:
    """Returns how many frames are on one of their notes, and how many have any.

    Args:
        midi: Pitch of each frame [N].
        notes: Pitch classes that are right at each frame, bool [N, 12]; none where nothing is known.
        tolerance: Cents.
    """
    nearest = np.round(midi)
    close = 100 * np.abs(midi - nearest) <= tolerance
    right = notes[np.arange(midi.size), nearest.astype(int) % 12]
    return int((close & right).sum()), int(notes.any(axis=1).sum())


def fifths_apart(midi: np.ndarray, classes: np.ndarray, tolerance: float = 50.0) -> int:
    """Returns the steps on the circle of fifths, 0 to 6, between the scales that fit a voice and a band best.

    Args:
        midi: Pitch of the voiced frames [N], at least one.
        classes: How much each pitch class of the band sounds [12].
        tolerance: Cents that a frame may be off.
    """
    scales = [np.roll(scale_of("C:maj"), root) for root in range(12)]
    voice = int(np.argmax([scale_share(midi, scale, tolerance) for scale in scales]))
    band = int(np.argmax([classes[scale].sum() for scale in scales]))
    steps = 7 * (voice - band) % 12  # a fifth is seven semitones, and 7 * 7 = 1 modulo 12
    return min(steps, 12 - steps)


def _heard(classes: np.ndarray, times: np.ndarray) -> np.ndarray:
    chords = hear_chords(classes)
    frame = np.round(times / CHROMA_SECONDS - 1).astype(int).clip(0, len(chords) - 1)
    return np.asarray(chords[frame])


def _written(chords: Sequence[Span], times: np.ndarray) -> np.ndarray:
    notes = np.zeros((times.size, 12), dtype=bool)
    for chord in chords:
        notes[(times >= chord.start) & (times < chord.end)] = chord_notes(chord.label)
    return notes
