"""Yardsticks for a codec that need no training worth the name: mel spectrograms, inverted by Griffin and Lim's method.

`VectorMel` quantizes a mel spectrogram with one codebook, so that a recording costs as many bits as it does in a codec
of one stream at the same rate; `mel_inversion` keeps all of the spectrogram. Both return to samples without a model.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["VectorMel", "log_mel", "log_mel_distance", "mel_inversion"]

FFT, HOP, MELS = 1024, 240, 80
FLOOR = 1e-5


def log_mel(wave: Tensor, sample_rate: int) -> Tensor:
    """Returns the natural logarithm of a mel magnitude spectrogram [F, 80] of a waveform [T]."""
    return (_magnitude(wave) @ _filters(sample_rate)).clamp(min=FLOOR).log()


def log_mel_distance(one: np.ndarray, other: np.ndarray, sample_rate: int) -> float:
    """Returns the mean |difference| of log-mel spectrograms of two recordings [T], in nats (1 nat = 8.7 dB).

    The floor, where both are silent, is 60 dB below the loudest band of the first: what nobody hears does not count.
    """
    length = min(len(one), len(other))
    a, b = (log_mel(torch.from_numpy(x[:length].astype(np.float32)), sample_rate) for x in (one, other))
    floor = a.max() - math.log(1000)
    return float((a.clamp(min=floor) - b.clamp(min=floor)).abs().mean())


def mel_inversion(log: Tensor, sample_rate: int, *, steps: int = 64, seed: int = 0) -> np.ndarray:
    """Returns a waveform [F * HOP] with about this log-mel spectrogram [F, 80].

    Magnitudes by non-negative least squares, phases by Griffin-Lim with momentum .99 (Perraudin et al. 2013).
    """
    filters = _filters(sample_rate)  # [bins, 80]
    mel = log.exp()
    magnitude = (mel @ torch.linalg.pinv(filters)).clamp(min=1e-8)
    for _ in range(50):  # multiplicative updates keep the magnitudes positive and lower |magnitude @ filters - mel|
        magnitude = magnitude * (mel @ filters.T) / (magnitude @ filters @ filters.T).clamp(min=1e-8)
    window = torch.hann_window(FFT)
    generator = torch.Generator().manual_seed(seed)
    angles = torch.polar(torch.ones_like(magnitude), 2 * math.pi * torch.rand(magnitude.shape, generator=generator)).T
    length = (len(log) - 1) * HOP
    before = torch.zeros_like(angles)
    for _ in range(steps):
        wave = torch.istft(magnitude.T * angles, FFT, HOP, window=window, length=length)
        rebuilt = torch.stft(wave, FFT, HOP, window=window, return_complex=True)
        angles = rebuilt - 0.99 / 1.99 * before
        angles = angles / angles.abs().clamp(min=1e-8)
        before = rebuilt
    return torch.istft(magnitude.T * angles, FFT, HOP, window=window, length=length).numpy()


class VectorMel:
    """One codebook over stacks of mel frames: `entries` codes at HOP * stack samples a code."""

    def __init__(self, sample_rate: int, *, entries: int, stack: int) -> None:
        self.sample_rate, self.entries, self.stack = sample_rate, entries, stack
        self.codes = torch.zeros(entries, stack * MELS)

    @property
    def bits_per_second(self) -> float:
        """Bits that a second of audio costs."""
        return math.log2(self.entries) * self.sample_rate / (HOP * self.stack)

    def fit(self, waves: list[np.ndarray], *, rounds: int = 12, seed: int = 0) -> VectorMel:
        """Places the codes by k-means over recordings [T]."""
        data = torch.cat([self._stacks(torch.from_numpy(wave)) for wave in waves])
        generator = torch.Generator().manual_seed(seed)
        self.codes = data[torch.randperm(len(data), generator=generator)[: self.entries]].clone()
        if len(self.codes) < self.entries:
            raise ValueError(f"{len(data)} stacks of frames are too few for {self.entries} codes; give more songs")
        for _ in range(rounds):
            nearest = self._nearest(data)
            counts = torch.bincount(nearest, minlength=self.entries)
            means = torch.zeros_like(self.codes).index_add_(0, nearest, data) / counts.clamp(min=1)[:, None]
            unused = data[torch.randint(len(data), (self.entries,), generator=generator)]
            self.codes = torch.where(counts[:, None] > 0, means, unused)
        return self

    def resynthesize(self, wave: np.ndarray) -> np.ndarray:
        """Returns a recording [T] after quantization and inversion."""
        stacks = self._stacks(torch.from_numpy(wave))
        log = self.codes[self._nearest(stacks)].reshape(-1, MELS)
        return mel_inversion(log, self.sample_rate)

    def _stacks(self, wave: Tensor) -> Tensor:
        log = log_mel(wave.float(), self.sample_rate)
        return log[: len(log) // self.stack * self.stack].reshape(-1, self.stack * MELS)

    def _nearest(self, data: Tensor) -> Tensor:
        norms = self.codes.square().sum(1)
        return torch.cat([(norms - 2 * part @ self.codes.T).argmin(1) for part in data.split(8192)])


def _magnitude(wave: Tensor) -> Tensor:
    return torch.stft(wave, FFT, HOP, window=torch.hann_window(FFT), return_complex=True).abs().T  # [F, bins]


def _filters(sample_rate: int) -> Tensor:
    """Returns triangular mel filters [bins, 80] between 0 and half the sample rate (HTK's mel scale)."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, MELS + 2) / 2595) - 1)
    hertz = torch.linspace(0, sample_rate / 2, FFT // 2 + 1)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)
