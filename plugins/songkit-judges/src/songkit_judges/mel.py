"""Mel spectrograms as the models here were trained on them: librosa's, with Slaney's mel scale and areas."""

from __future__ import annotations

import functools

import numpy as np

__all__ = ["mel_spectrogram"]


def mel_spectrogram(samples: np.ndarray, sample_rate: int, *, size: int, hop: int, bands: int) -> np.ndarray:
    """Returns the power of each mel band, float32 [frames, bands]; `librosa.feature.melspectrogram` transposed.

    Args:
        samples: Float samples [T], padded by zeros on both sides so that frame i is centred at sample i * hop.
        sample_rate: Samples per second.
        size: Samples of a frame.
        hop: Samples between frames.
        bands: Number of bands from 0 Hz to half the rate.
    """
    padded = np.pad(np.asarray(samples, np.float32), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    filters = _filters(sample_rate, size, bands)
    out = np.empty((len(frames), bands), np.float32)
    for start in range(0, len(frames), 1024):  # a song's spectra at once would take 100 MB
        spectra = np.fft.rfft(frames[start : start + 1024] * window)
        out[start : start + 1024] = (spectra.real**2 + spectra.imag**2).astype(np.float32) @ filters
    return out


@functools.lru_cache(maxsize=4)
def _filters(sample_rate: int, size: int, bands: int) -> np.ndarray:
    """Returns triangles of equal area, float32 [size // 2 + 1, bands]."""
    bins = np.fft.rfftfreq(size, 1 / sample_rate)
    edges = _hertz(np.linspace(0, _mel(sample_rate / 2), bands + 2))
    rise = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    return (np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


# Slaney's Auditory Toolbox: linear up to 1 kHz (15 mel), logarithmic above, 27 mel for each factor of 6.4.


def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000)) / float(np.log(6.4))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))
