"""Keys and chords that are heard in a recording: pitch classes of its spectrum against scales, triads and profiles."""

from __future__ import annotations

import numpy as np

from songkit.errors import RequestError
from songkit_judges.pitch import pitch_class
from songkit_judges.remembered import remembered
from songkit_judges.whisper import RATE, resample

__all__ = ["CHROMA_SECONDS", "chord_notes", "chroma_frames", "hear_chords", "hear_mode"]

_SIZE = 8192
"""Samples of a spectrum at 16 kHz: 2 Hz a bin tells semitones apart from 65 Hz (C2) on."""
CHROMA_SECONDS = _SIZE / 2 / RATE
"""Seconds between frames of `chroma_frames`; frame i is centred at (i + 1) of them."""
_LOWEST, _HIGHEST = 65.0, 2000.0
_AROUND = 2
"""Frames on both sides that a chord is heard over: 1.3 s in all."""

_CHORDS = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "7": (0, 4, 7, 10),
    "hdim7": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
}
"""Semitones of each kind of chord above its root, by the names of Harte et al. (ISMIR 2005)."""

# How well each note fits a key, from the tonic up (Krumhansl & Kessler 1982).
_MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
_MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


@remembered
def chroma_frames(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns how much each pitch class sounds at each time, float [N, 12].

    Only peaks of the spectrum count, so that drums, which have none, weigh little.

    Args:
        audio: Float samples [T] or [C, T].
        sample_rate: Samples per second.
    """
    samples = resample(audio, sample_rate, RATE)
    samples = np.pad(samples, (0, max(0, _SIZE - samples.size)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _SIZE)[:: _SIZE // 2]
    bins = np.fft.rfftfreq(_SIZE, 1 / RATE)
    classes = np.zeros((len(frames), 12))
    for frame, row in zip(frames, classes, strict=True):  # one by one: a song's spectra at once would take 100 MB
        size = np.abs(np.fft.rfft(frame * np.hanning(_SIZE)))
        middle = size[1:-1]
        peak = (middle > size[:-2]) & (middle > size[2:]) & (middle > 0.02 * size.max())
        peak &= (bins[1:-1] >= _LOWEST) & (bins[1:-1] <= _HIGHEST)
        at = np.flatnonzero(peak) + 1
        left, top, right = np.log(np.maximum(size[at[:, None] + np.array([-1, 0, 1])], 1e-12)).T
        exact = at + 0.5 * (left - right) / np.minimum(left - 2 * top + right, -1e-9)  # vertex of the parabola
        pitch = 69 + 12 * np.log2(np.maximum(exact, 1) * RATE / _SIZE / 440)
        np.add.at(row, np.round(pitch).astype(int) % 12, size[at])
    return classes


def hear_chords(classes: np.ndarray) -> np.ndarray:
    """Returns the notes of the triad that fits best at each time, bool [N, 12]; none where nothing sounds.

    Args:
        classes: From `chroma_frames`, [N, 12].
    """
    padded = np.pad(classes, ((_AROUND, _AROUND), (0, 0)))
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1, axis=0).sum(axis=2)
    triads = np.stack([np.roll(chord_notes(f"C:{mode}"), root) for mode in ("maj", "min") for root in range(12)])
    best = triads[np.argmax(smooth @ triads.T, axis=1)]
    return np.asarray(best & (smooth.sum(axis=1, keepdims=True) > 0))


def chord_notes(chord: str) -> np.ndarray:
    """Returns the pitch classes of a chord such as `C:maj`, `Bb:min7` or `F#:hdim7`, bool [12].

    Raises:
        RequestError: If the chord is written in another way.
    """
    root, _, quality = chord.partition(":")
    if quality not in _CHORDS:
        raise RequestError(
            f"chord '{chord}' is not understood; expected a root and a kind, such as C:maj or Bb:min7. "
            f"Kinds: {', '.join(_CHORDS)}."
        )
    notes = np.zeros(12, dtype=bool)
    notes[(pitch_class(root) + np.array(_CHORDS[quality])) % 12] = True
    return notes


def hear_mode(classes: np.ndarray) -> str:
    """Returns `maj` or `min`: of which mode the key is whose profile fits pitch classes [12] best; empty of none."""
    if not classes.any():
        return ""
    fits = {
        mode: max(float(np.corrcoef(np.roll(profile, root), classes)[0, 1]) for root in range(12))
        for mode, profile in (("maj", _MAJOR), ("min", _MINOR))
    }
    return max(fits, key=lambda mode: fits[mode])
