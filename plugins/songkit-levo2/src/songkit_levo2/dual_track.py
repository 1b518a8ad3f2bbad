"""The flow transformer at full size: vocal and accompaniment together to the latents of their mix.

A GPT-2 without causal mask over frames whose input is all that is known of them side by side, without a projection:
a flag, the given latents, the features of both tracks and the noisy latent. Times enter by adaLN-single (PixArt-alpha,
arXiv 2310.00426), positions twice: learned, and rotary in interleaved pairs. Layout and sizes are those of
tencent-ailab/SongGeneration at b1b03ec, codeclm/tokenizer/Flow1dVAE (model_septoken).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import LayoutError
from songkit_levo2.codec_configs import DualTrackFlowConfig
from songkit_levo2.diffusion import FlowMatching

__all__ = ["CONDITIONS", "DualTrackFlow"]

CONDITIONS = ("vocal", "accompaniment")
"""The tracks whose features are in a frame's input, in order."""
_TIMES = 512


class DualTrackFlow(FlowMatching):
    """The released model's: the latents of the mix from the features of vocal and accompaniment."""

    def __init__(self, config: DualTrackFlowConfig, *, features: int, latent: int) -> None:
        super().__init__(latent=latent, steps=config.steps, guidance=config.guidance, sigma_min=config.sigma_min)
        self.config, self.features = config, features
        dim = config.flag_dim + 2 * latent + len(CONDITIONS) * features
        self.flag = nn.Embedding(3, config.flag_dim)  # padding (in the released training only), given, to be made
        self.positions = nn.Embedding(config.positions, dim)
        self.time = nn.Sequential(nn.Linear(_TIMES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation = nn.Linear(dim, 6 * dim)
        self.blocks = nn.ModuleList(_Block(dim, config.heads, config.feedforward) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.out = nn.Linear(dim, dim)
        self.head = dim // config.heads

    def condition(self, features: Mapping[str, Tensor], target: str) -> Tensor:
        """Returns the features [B, F, 2 D] of both tracks side by side; a track is made of its own and a silent other.

        Raises:
            LayoutError: If the features of a track are missing.
        """
        missing = [track for track in CONDITIONS if track not in features]
        if missing:
            raise LayoutError(
                f"'{target}' is made of the codes of {' and '.join(CONDITIONS)}; those of {', '.join(missing)} are "
                "missing. Give ids that stand for silence by the codec's option 'silence'."
            )
        return torch.cat([features[track] for track in CONDITIONS], -1)

    def hidden_condition(self, frames: int, batch: int) -> Tensor:
        """Returns zeros [B, F, 2 D]."""
        return self.table.new_zeros(batch, frames, len(CONDITIONS) * self.features)

    def velocity(self, noisy: Tensor, time: Tensor, condition: Tensor, given: Tensor, flag: Tensor) -> Tensor:
        """Returns the velocity [B, F, D]; the condition is [B, F, 2 D], F at most the number of learned positions."""
        frames = noisy.shape[1]
        marks = self.flag(2 - flag[:, :, 0].long())
        h = (
            torch.cat([marks, given.to(marks), condition.to(marks), noisy.to(marks)], -1)
            + self.positions.weight[:frames]
        )
        moment = self.time(_waves(time).to(h.dtype))  # [B, D]
        modulation = self.modulation(functional.silu(moment)).unflatten(-1, (6, -1))
        rotation = _rotation(frames, self.head, h.device)
        for block in self.blocks:
            h = block(h, modulation, rotation)
        shift, scale = (self.table + moment[:, None]).unbind(1)
        h = self.norm(h) * (1 + scale[:, None]) + shift[:, None]
        # Only the last channels are the velocity; the others are not computed.
        return functional.linear(h, self.out.weight[-self.latent :], self.out.bias[-self.latent :]).float()


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, feedforward)
        self.contract = nn.Linear(feedforward, dim)
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)  # the block's own part of adaLN-single

    def forward(self, x: Tensor, modulation: Tensor, rotation: Tensor) -> Tensor:
        """Returns [B, F, D] of [B, F, D]; `modulation` is [B, 6, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table)[:, :, None].unbind(1)  # [B, 1, D]
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, F, D / H]
        mixed = functional.scaled_dot_product_attention(_rotate(q, rotation), _rotate(k, rotation), v)
        x = x + gate1 * self.proj(mixed.transpose(1, 2).flatten(2))
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.contract(functional.gelu(self.expand(h), approximate="tanh"))


def _waves(time: Tensor) -> Tensor:
    half = _TIMES // 2
    frequencies = torch.exp(-math.log(1e4) * torch.arange(half, device=time.device) / half)
    angles = time[:, None] * frequencies * 1000
    return torch.cat([angles.cos(), angles.sin()], -1)


def _rotation(frames: int, head: int, device: torch.device) -> Tensor:
    """Returns cosines and sines [F, head / 2, 2]."""
    frequencies = 1e4 ** (-torch.arange(0, head, 2, device=device) / head)
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()], -1)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns each pair of neighbouring channels of [B, H, F, D]."""
    cos, sin = rotation.unbind(-1)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
