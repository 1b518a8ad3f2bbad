"""Building blocks that the codec's parts share. Sequences are channels-last: [B, F, D]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ConvNeXt", "LogMel", "LogPitch", "Stack", "mel_filters", "pitch_filters"]


def mel_filters(n_fft: int, n_mels: int, sample_rate: int) -> Tensor:
    """Returns triangular filters [n_fft / 2 + 1, n_mels], evenly spaced in mel (HTK) from 0 Hz to Nyquist."""
    top = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, top, n_mels + 2, dtype=torch.float64) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0).float()


def pitch_filters(n_fft: int, low: int, high: int, sample_rate: int) -> Tensor:
    """Returns triangular filters [n_fft / 2 + 1, high - low + 1], one for each semitone of a range of MIDI pitches."""
    hertz = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    pitch = 69 + 12 * torch.log2(hertz.clamp(min=1.0) / 440)
    # A semitone that is narrower than two bins takes the bins nearest to it.
    reach = (12 / math.log(2) * 2 * sample_rate / n_fft / hertz.clamp(min=1.0)).clamp(min=1.0)
    return (1 - (pitch - torch.arange(low, high + 1)).abs() / reach).clamp(min=0.0).float()


class _LogBands(nn.Module):
    """Waveform [B, T] to the logarithm of bands of its magnitude spectrum [B, T / hop, bands]."""

    def __init__(self, filters: Tensor, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.filters: Tensor
        self.window: Tensor
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @torch.no_grad()
    def forward(self, wave: Tensor) -> Tensor:
        """Returns frames, about zero mean and unit range for music at -20 dBFS; T must be a multiple of the hop."""
        pad = (self.n_fft - self.hop) // 2  # so that T samples give exactly T / hop frames
        wave = functional.pad(wave.float(), (pad, pad))
        spectrum = torch.stft(wave, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        bands = spectrum.abs().transpose(1, 2) @ self.filters
        return (torch.log(bands + 1e-3) + 2.5) / 2.5


class LogMel(_LogBands):
    """Waveform [B, T] to log-mel [B, T / hop, n_mels]."""

    def __init__(self, *, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> None:
        super().__init__(mel_filters(n_fft, n_mels, sample_rate), n_fft, hop)


class LogPitch(_LogBands):
    """Waveform [B, T] to the logarithm of its semitones [B, T / hop, high - low + 1], less each frame's mean."""

    def __init__(self, sample_rate: int, n_fft: int, hop: int, *, low: int, high: int) -> None:
        super().__init__(pitch_filters(n_fft, low, high, sample_rate), n_fft, hop)

    @torch.no_grad()
    def forward(self, wave: Tensor) -> Tensor:
        """Returns frames, in which loudness plays no part; T must be a multiple of the hop."""
        bands = super().forward(wave)
        return bands - bands.mean(-1, keepdim=True)


class ConvNeXt(nn.Module):
    """Depthwise convolution over time, then a channel MLP, with a scaled residual (ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, dim: int, *, kernel: int = 7, expansion: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.contract = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, F, D] of [B, F, D]."""
        # As a channels-last conv2d: on CPU half the time of conv1d for a depthwise kernel.
        image = x.transpose(1, 2).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        weight, bias, groups = self.depthwise.weight.unsqueeze(2), self.depthwise.bias, x.shape[-1]
        mixed = functional.conv2d(image, weight, bias, padding=(0, self.kernel // 2), groups=groups)
        h = self.norm(mixed.squeeze(2).transpose(1, 2))
        return x + self.scale * self.contract(functional.gelu(self.expand(h), approximate="tanh"))


class Stack(nn.Sequential):
    """A number of `ConvNeXt` blocks of one width."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__(*(ConvNeXt(dim) for _ in range(depth)))
