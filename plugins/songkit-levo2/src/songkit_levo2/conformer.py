"""The encoder at full size: a conformer pre-trained by BEST-RQ on music, tapped at a depth for each track.

The encoder is MusicFM's (arXiv 2311.03318): two residual convolution stages over a mel spectrogram, then the conformer
of wav2vec 2.0 with rotary positions (arXiv 2005.08100). Layout and sizes are those of tencent-ailab/SongGeneration at
b1b03ec, codeclm/tokenizer/Flow1dVAE. What that encoder has for its pre-training alone is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit_levo2.codec_configs import ConformerConfig
from songkit_levo2.layers import mel_filters
from songkit_levo2.semantic import Quantizer, Semantic

__all__ = ["FRAME", "SAMPLE_RATE", "ConformerTokenizer"]

SAMPLE_RATE = 48000
FRAME = 1920
"""Samples in a frame: two of 48 kHz make one of 24 kHz, 240 of those a spectrum, 4 spectra a frame."""
_N_FFT, _HOP = 2048, 240
_MEAN, _STD = 6.768444971712967, 18.417922652295623
"""Of the mel spectra in decibels over the released model's training data."""
_REAL = torch.device("cpu")
"""For what is derived: where parameters are made on the device "meta", to be taken from a file, this is not in it."""


class ConformerTokenizer(Semantic):
    """Encoder and quantizers. The features of a code are the quantizer's alone."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(width=config.dim, size=config.codebook_size, frame=FRAME)
        self.config = config
        self.halve = _HalfRate()
        self.spectra = _Decibels(config.mels)
        self.stages = nn.Sequential(_Stage(1, config.front), _Stage(config.front, config.front))
        self.project = nn.Linear(config.front * math.ceil(config.mels / 4), config.dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.quantizers = nn.ModuleDict(
            {
                track: Quantizer(config.dim, config.codebook_size, config.codebook_dim, unit=False)
                for track in config.taps
            }
        )

    def encode(self, wave: Tensor, track: str) -> Tensor:
        """Returns features [B, F, D] of a track's waveform [B, T] at 48 kHz, T = F * 1920."""
        spectra = (self.spectra(self.halve(wave)) - _MEAN) / _STD  # [B, mels, 4 F]
        image = self.stages(spectra[:, None])  # [B, C, mels / 4, F]
        h = self.project(image.flatten(1, 2).transpose(1, 2))
        rotation = _rotation(h.shape[1], self.config.dim // self.config.heads, h.device)
        for layer in self.layers[: self.config.taps[track]]:
            h = layer(h, rotation)
        return h

    def song_ids(self, wave: Tensor, track: str) -> Tensor:
        """Returns ids int64 [F] of a song's track [C, T], F = ceil(T / 1920).

        As in the released model, the song is turned down to a peak, repeated to fill the last window, and encoded
        window by window: the encoder always hears whole windows.
        """
        samples = wave.shape[1]
        frames = -(-samples // FRAME)
        window = FRAME * round(self.config.window_seconds * SAMPLE_RATE / FRAME)
        peak = wave.abs().max()
        mono = wave.mean(0) / torch.where(peak > self.config.peak, peak / self.config.peak, 1.0)
        ids = []
        for start in range(0, samples, window):
            places = torch.arange(start, start + window, device=wave.device) % samples
            ids.append(self.ids(mono[places][None], track)[0])
        return torch.cat(ids)[:frames]


class _HalfRate(nn.Module):
    """48 kHz to 24 kHz by a sinc at 0.99 of the new rate, which a squared cosine ends after six zero crossings."""

    def __init__(self) -> None:
        super().__init__()
        self.width = width = math.ceil(6 * 2 / 0.99)
        with _REAL:
            places = (torch.arange(-width, width + 2, dtype=torch.float64) / 2 * 0.99).clamp(-6, 6)
            kernel = torch.sinc(places) * torch.cos(places * math.pi / 12).square() * 0.99 / 2
        self.kernel: Tensor
        self.register_buffer("kernel", kernel.float(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Returns [B, T / 2] of [B, T]."""
        padded = functional.pad(wave, (self.width, self.width + 2))
        return functional.conv1d(padded[:, None], self.kernel[None, None], stride=2)[:, 0, : wave.shape[1] // 2]


class _Decibels(nn.Module):
    """Waveform [B, T] at 24 kHz to mel spectra [B, mels, T / 240] in decibels."""

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.filters: Tensor
        self.window: Tensor
        with _REAL:
            self.register_buffer("filters", mel_filters(_N_FFT, mels, SAMPLE_RATE // 2), persistent=False)
            self.register_buffer("window", torch.hann_window(_N_FFT), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Returns the power of each band; silence is at -100 dB."""
        spectrum = torch.stft(wave, _N_FFT, _HOP, window=self.window, return_complex=True)[:, :, :-1]
        power = torch.view_as_real(spectrum).square().sum(-1)
        return 10 * torch.log10((self.filters.T @ power).clamp(min=1e-10))


class _Stage(nn.Module):
    """A residual pair of convolutions that halves both axes of [B, C, mels, F]."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, 2, padding=1)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv3 = nn.Conv2d(before, after, 3, 2, padding=1)
        self.norm3 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(h + self.norm3(self.conv3(x)))


class _Layer(nn.Module):
    """A conformer layer: half a feed-forward part, attention, convolution, the other half."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.feedforward
        self.heads = config.heads
        self.feed1_norm, self.feed1 = nn.LayerNorm(dim), _feed_forward(dim, inner)
        self.attention_norm = nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.conv_norm = nn.LayerNorm(dim)
        self.expand = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise = nn.Conv1d(dim, dim, config.kernel, padding=config.kernel // 2, groups=dim, bias=False)
        self.depthwise_norm = nn.BatchNorm1d(dim)
        self.contract = nn.Conv1d(dim, dim, 1, bias=False)
        self.feed2_norm, self.feed2 = nn.LayerNorm(dim), _feed_forward(dim, inner)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Returns [B, F, D] of [B, F, D]."""
        x = x + 0.5 * self.feed1(self.feed1_norm(x))
        h = self.attention_norm(x)
        # Unlike elsewhere, what is rotated is the input of the projections to queries and keys.
        turned = _rotate(h.unflatten(-1, (self.heads, -1)), rotation).flatten(2)
        q, k, v = (f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, y in self._projections(turned, h))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        h = functional.glu(self.expand(self.conv_norm(x).transpose(1, 2)), 1)
        h = self.contract(functional.silu(self.depthwise_norm(self.depthwise(h))))
        x = x + h.transpose(1, 2)
        x = x + 0.5 * self.feed2(self.feed2_norm(x))
        out: Tensor = self.norm(x)
        return out

    def _projections(self, turned: Tensor, plain: Tensor) -> list[tuple[nn.Module, Tensor]]:
        return [(self.q, turned), (self.k, turned), (self.v, plain)]


def _feed_forward(dim: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, inner), nn.SiLU(), nn.Linear(inner, dim))


def _rotation(frames: int, head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    frequencies = 1e4 ** (-torch.arange(0, head, 2, device=device) / head)
    angles = (torch.arange(frames, device=device)[:, None] * frequencies)[:, None]  # [F, 1, D / 2], for all heads
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns [B, F, H, D] with the first half of D against the second."""
    cos, sin = rotation
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
