"""The waveform end of the codec at full size: strided convolutions from 48 kHz stereo to 25 latents a second.

This is the Oobleck autoencoder of stable-audio-tools with the sizes that LeVo 2 uses. Its weight norm is folded into
the weights, which changes no number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit_levo2.codec_configs import OobleckConfig
from songkit_levo2.vae import LatentVAE

__all__ = ["OobleckVAE"]

_DILATIONS = (1, 3, 9)
_KERNEL = 7


class OobleckVAE(LatentVAE):
    """Waveform [B, C, T] to latents [B, F, D] and back; T = F * the product of the strides."""

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__(
            latent=config.latent,
            frame=math.prod(config.strides),
            channels=config.audio_channels,
            reach=_reach(config.strides),
            chunk=config.chunk_frames,
        )
        widths = [config.channels * multiple for multiple in (1, *config.multiples)]
        steps = list(zip(widths, widths[1:], config.strides, strict=False))
        down = [_Down(before, after, stride) for before, after, stride in steps]
        up = [_Up(after, before, stride) for before, after, stride in reversed(steps)]
        self.encoder = _Layers(
            _conv(config.audio_channels, widths[0]), *down, _Snake(widths[-1]), _conv(widths[-1], 2 * config.latent, 3)
        )
        self.decoder = _Layers(
            _conv(config.latent, widths[-1]),
            *up,
            _Snake(widths[0]),
            _conv(widths[0], config.audio_channels, bias=False),
        )

    def posterior(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log variance [B, F, D] of the latents of a waveform [B, C, T]."""
        mean, scale = self.encoder(wave).transpose(1, 2).chunk(2, -1)
        return mean, 2 * torch.log(functional.softplus(scale) + 1e-4)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the waveform [B, C, F * frame] of latents [B, F, D]."""
        wave: Tensor = self.decoder(latents.transpose(1, 2))
        return wave


class _Layers(nn.Module):
    """A sequence whose children are named `layers.N`, as in the released files."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Snake(nn.Module):
    """x + sin^2(a x) / b with a and b for each channel, kept as logarithms (SnakeBeta of BigVGAN, arXiv 2206.04658)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + torch.sin(alpha * x).square() / (beta + 1e-9)


class _Residual(_Layers):
    def __init__(self, channels: int, dilation: int) -> None:
        wide = nn.Conv1d(channels, channels, _KERNEL, dilation=dilation, padding=dilation * (_KERNEL // 2))
        super().__init__(_Snake(channels), wide, _Snake(channels), nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class _Down(_Layers):
    def __init__(self, before: int, after: int, stride: int) -> None:
        residuals = (_Residual(before, dilation) for dilation in _DILATIONS)
        super().__init__(*residuals, _Snake(before), nn.Conv1d(before, after, 2 * stride, stride, padding=stride // 2))


class _Up(_Layers):
    def __init__(self, before: int, after: int, stride: int) -> None:
        step = nn.ConvTranspose1d(before, after, 2 * stride, stride, padding=stride // 2)
        super().__init__(_Snake(before), step, *(_Residual(after, dilation) for dilation in _DILATIONS))


def _conv(before: int, after: int, kernel: int = _KERNEL, *, bias: bool = True) -> nn.Conv1d:
    return nn.Conv1d(before, after, kernel, padding=kernel // 2, bias=bias)


def _reach(strides: list[int]) -> int:
    """Returns how many latent frames to either side a decoded sample depends on."""
    reach = float(_KERNEL // 2)
    rate = 1  # samples of a level in a latent frame
    for stride in reversed(strides):
        reach += 1 / rate  # the transposed convolution spans two frames of the level before
        rate *= stride
        reach += sum(_DILATIONS) * (_KERNEL // 2) / rate
    return math.ceil(reach + _KERNEL // 2 / rate)
