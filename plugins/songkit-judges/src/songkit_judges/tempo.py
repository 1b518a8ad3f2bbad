"""The tempo of a recording, from how its onsets repeat."""

from __future__ import annotations

import numpy as np

from songkit_judges.mel import mel_spectrogram
from songkit_judges.remembered import remembered
from songkit_judges.whisper import RATE, resample

__all__ = ["hear_tempo", "onset_strength", "tempo_misses"]

_HOP = 160
"""Samples (10 ms) between onset values."""
_SLOWEST, _FASTEST = 50.0, 180.0
"""Beats per minute that are considered."""
_USUAL, _OCTAVES = 105.0, 0.8
"""Tempo that is likeliest before listening, and the spread around it in octaves (Ellis 2007 takes 120 and .9)."""


def hear_tempo(audio: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """Returns beats per minute, and how clear the pulse is, from 0 to 1.

    The autocorrelation of the onset strength, added up at one to four beats and weighted by how usual a tempo is
    (Ellis, "Beat tracking by dynamic programming", 2007). Half and double of the true tempo are its common mistakes.

    Args:
        audio: Float samples [T] or [C, T].
        sample_rate: Samples per second.
    """
    strength = onset_strength(audio, sample_rate)
    strength = strength - strength.mean()
    size = 1 << (2 * max(strength.size, 2) - 1).bit_length()
    spectrum = np.fft.rfft(strength, size)
    correlation = np.fft.irfft(spectrum * spectrum.conj(), size)[: strength.size]
    if strength.size < 2 or correlation[0] <= 0:
        return 0.0, 0.0
    # Undo that long lags have fewer products; the last quarter would be noise.
    usable = 3 * strength.size // 4
    correlation = correlation[:usable] / correlation[0] * strength.size / (strength.size - np.arange(usable))
    tempi = np.geomspace(_SLOWEST, _FASTEST, 1 + round(400 * np.log2(_FASTEST / _SLOWEST)))
    lags = 60 / tempi * RATE / _HOP
    beats = np.arange(1, 5)
    found = np.interp(lags[:, None] * beats, np.arange(usable), correlation, right=0.0)  # [tempi, beats]
    salience = found.mean(axis=1)
    weighted = salience * np.exp(-0.5 * (np.log2(tempi / _USUAL) / _OCTAVES) ** 2)
    best = int(np.argmax(weighted))
    return float(tempi[best]), float(np.clip(salience[best], 0, 1))


@remembered
def onset_strength(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns how much louder each 10 ms is than the one before, on average over 40 mel bands, [N]."""
    power = mel_spectrogram(resample(audio, sample_rate, RATE), RATE, size=512, hop=_HOP, bands=40)
    level = 10 * np.log10(np.maximum(power, max(1e-10, 1e-8 * float(power.max()))))
    rises = np.maximum(np.diff(level, axis=0, prepend=level[:1]), 0.0)
    return np.asarray(rises.mean(axis=1))


def tempo_misses(heard: float, wanted: float) -> float:
    """Returns how many percent the heard tempo is off; half and double of the wanted tempo count as right."""
    if heard <= 0 or wanted <= 0:
        return 100.0
    return float(min(abs(heard * factor / wanted - 1) for factor in (0.5, 1, 2)) * 100)
