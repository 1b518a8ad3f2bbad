"""The judge of the ensemble: do voice and band share a key, and can the voice be heard?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song
from songkit_judges.configs import EnsembleConfig
from songkit_judges.harmony import chroma_frames
from songkit_judges.kept import KeptMetric, check_batch, numbers, track_samples
from songkit_judges.pitch import scale_of, scale_share, track_pitch
from songkit_judges.structure import activity

__all__ = ["EnsembleMetric", "band_key", "chroma", "vocal_level"]


class EnsembleMetric(KeptMetric):
    """How voice and accompaniment go together.

    `band_in_key`: share of the accompaniment's tonal energy on the notes of the key that fits it best.
    `voice_in_band_key`: share of the voiced frames within 50 cents of a note of that key; 7/12 by chance.
    `vocal_level`: dB by which the voice, where it sings, is louder than the accompaniment.
    """

    info = MetricInfo(
        needs=frozenset({"vocal", "accompaniment"}),
        unit="share (vocal_level: dB)",
        higher_is_better=True,
        per_song=True,
    )

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__("tonal", "energy", "shared", "frames", "level", "heard")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Measures both tracks of each song."""
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            vocal, band = (track_samples(generated, name, i) for name in ("vocal", "accompaniment"))
            classes = chroma(band, generated.sample_rate)
            scale, share = band_key(classes)
            _, midi = track_pitch(vocal, generated.sample_rate)
            sung = midi[np.isfinite(midi)]
            level = vocal_level(vocal, band, generated.sample_rate)
            self.keep(
                song.id,
                tonal=[share if classes.any() else 0],  # each song counts the same, however loud its band
                energy=[float(classes.any())],
                shared=[scale_share(sung, scale) * sung.size if classes.any() else 0],
                frames=[sung.size if classes.any() else 0],
                level=[0 if level is None else level],
                heard=[float(level is not None)],
            )

    def compute(self) -> dict[str, Tensor]:
        """Returns the pooled shares and the mean level, each with its interval, and the level's spread over songs."""
        out: dict[str, Tensor] = {}
        for name, (parts, wholes) in _RATIOS.items():
            out |= self.pool(name, parts, wholes, replicates=self.config.replicates, seed=self.config.seed)
        levels = [arrays["level"][0] for _, arrays in self.ordered() if arrays["heard"][0]]
        return out | (numbers({"vocal_level_spread": float(np.std(levels))}) if len(levels) > 1 else {})

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and the numbers of each song; one without a voice or without a band lacks some."""
        return self.ratios(_RATIOS)


_RATIOS = {
    "band_in_key": ("tonal", "energy"),
    "voice_in_band_key": ("shared", "frames"),
    "vocal_level": ("level", "heard"),
}


def chroma(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns how much each pitch class sounds in a recording, float [12].

    Args:
        audio: Float samples [T] or [C, T].
        sample_rate: Samples per second.
    """
    return np.asarray(chroma_frames(audio, sample_rate).sum(axis=0))


def band_key(classes: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the scale, bool [12], that holds most of the pitch classes [12], and its share of them (0 of none)."""
    scales = [np.roll(scale_of("C:maj"), shift) for shift in range(12)]
    best = max(scales, key=lambda scale: float(classes[scale].sum()))
    return best, float(classes[best].sum() / max(classes.sum(), 1e-12))


def vocal_level(vocal: np.ndarray, band: np.ndarray, sample_rate: int) -> float | None:
    """Returns by how many dB the voice, where it sings, is louder than the band [C, T]; `None` without either."""
    active = np.repeat(activity(vocal, sample_rate), round(0.05 * sample_rate))
    if not active.any():
        return None
    voice, other = (float(np.square(x[:, : active.size][:, active], dtype=np.float64).mean()) for x in (vocal, band))
    return 10 * float(np.log10(voice / other)) if other > 0 else None
