"""Ids to latents: a transformer that learns the velocity of an optimal-transport flow (arXiv 2210.02747).

`FlowMatching` is the flow; the transformer inside it is exchangeable: the miniature's is in this file, the released
model's in `dual_track`. As in LeVo's decoder, each frame's input is the concatenation of what is known of it: a flag
for frames that are given, the given latents, the features of each track's codes (a learned null where a track is
absent) and the noisy latent. Conditioning on time is adaLN-single (PixArt-alpha, arXiv 2310.00426). Decoding is Euler
with guidance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.types import TRACKS
from songkit_levo2.configs import DiffusionConfig

__all__ = ["FlowMatching", "FlowTransformer"]


class FlowMatching(nn.Module, ABC):
    """Features of codes to standardised latents: the flow's loss and its Euler solver, over any network."""

    can_be_light: bool = False
    """Whether it may multiply in bfloat16. The released transformer must not: its latents are others then."""
    light: bool = False
    """Whether it does so when it samples."""

    def __init__(self, *, latent: int, steps: int, guidance: float, sigma_min: float) -> None:
        """Sets up the flow.

        Args:
            latent: Values D in a latent frame.
            steps: Euler steps when sampling.
            guidance: Classifier-free guidance when sampling; 1 is none.
            sigma_min: Noise left at the end of the path.
        """
        super().__init__()
        self.latent, self.steps, self.guidance, self.sigma_min = latent, steps, guidance, sigma_min

    @abstractmethod
    def condition(self, features: Mapping[str, Tensor], target: str) -> Tensor:
        """Returns what is known of a track's latents, [B, F, ...], from the features [B, F, D] of tracks."""

    @abstractmethod
    def hidden_condition(self, frames: int, batch: int) -> Tensor:
        """Returns the conditions [B, F, ...] that say nothing, for guidance."""

    @abstractmethod
    def velocity(self, noisy: Tensor, time: Tensor, condition: Tensor, given: Tensor, flag: Tensor) -> Tensor:
        """Returns the velocity [B, F, D] at noisy latents [B, F, D] and times [B].

        Args:
            noisy: Latents on the path.
            time: 0 is noise, 1 is data.
            condition: From `condition`.
            given: Latents [B, F, D] of frames that are known, zero elsewhere.
            flag: [B, F, 1], 1 where a frame is known.
        """

    def loss(self, latents: Tensor, condition: Tensor, flag: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the flow-matching loss over the frames that are not given.

        Args:
            latents: Standardised latents [B, F, D].
            condition: From `condition`.
            flag: [B, F, 1], 1 where a frame is given.
            generator: Source of noise and times.
        """
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents.device)
        time = torch.rand(len(latents), generator=generator, device=generator.device).to(latents.device)
        t = time[:, None, None]
        path = (1.0 - (1.0 - self.sigma_min) * t) * noise + t * latents
        wanted = latents - (1.0 - self.sigma_min) * noise
        error = (self.velocity(path, time, condition, latents * flag, flag) - wanted).square()
        weight = 1.0 - flag
        return (error * weight).sum() / (weight.sum() * self.latent).clamp(min=1.0)

    @torch.no_grad()
    def sample(self, condition: Tensor, given: Tensor, flag: Tensor, noise: Tensor) -> Tensor:
        """Returns standardised latents [B, F, D]: Euler steps from `noise` [B, F, D]; given frames are kept."""
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=self.light):
            return self._euler(condition, given, flag, noise)

    def _euler(self, condition: Tensor, given: Tensor, flag: Tensor, noise: Tensor) -> Tensor:
        steps, guidance = self.steps, self.guidance
        hidden = self.hidden_condition(condition.shape[1], len(condition)) if guidance != 1.0 else condition
        x = noise
        for i in range(steps):
            time = torch.full((len(x),), i / steps, device=x.device)
            # Known frames are put on their true path at every step, as in the released decoder.
            known = (1.0 - (1.0 - self.sigma_min) * i / steps) * noise + i / steps * given
            x = torch.where(flag > 0, known, x)
            velocity = self.velocity(x, time, condition, given, flag)
            if guidance != 1.0:
                blind = self.velocity(x, time, hidden.to(condition.dtype), given, flag)
                velocity = blind + guidance * (velocity - blind)
            x = x + velocity / steps
        return torch.where(flag > 0, given, x)


class FlowTransformer(FlowMatching):
    """The miniature's: one track's latents from the features of any tracks; a learned null stands for absent ones."""

    can_be_light = True  # as it was trained

    def __init__(self, config: DiffusionConfig, *, features: int, latent: int) -> None:
        super().__init__(latent=latent, steps=config.steps, guidance=config.guidance, sigma_min=config.sigma_min)
        self.config = config
        dim = config.dim
        self.null = nn.Parameter(0.02 * torch.randn(len(TRACKS), dim))
        self.tracks = nn.ModuleDict({track: nn.Linear(features, dim) for track in TRACKS})
        self.target = nn.Embedding(len(TRACKS), dim)
        self.inp = nn.Linear(2 * latent + 1, dim)  # noisy latent, given latent, flag
        self.time = nn.Sequential(nn.Linear(128, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(_Block(dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, latent)
        for parameter in self.time[2].parameters():
            nn.init.zeros_(parameter)

    def velocity(self, noisy: Tensor, time: Tensor, condition: Tensor, given: Tensor, flag: Tensor) -> Tensor:
        """Returns the velocity [B, F, D]; the condition is [B, F, dim]."""
        h = self.inp(torch.cat([noisy, given, flag], -1).to(condition.dtype)) + condition
        modulation = self.time(_sinusoids(time).to(h.dtype)).unflatten(-1, (6, -1))
        rotation = _rotation(h.shape[1], self.config.dim // self.config.heads, h.device)
        for block in self.blocks:
            h = block(h, modulation, rotation)
        return self.out(self.norm(h)).float()

    def condition(self, features: Mapping[str, Tensor], target: str) -> Tensor:
        """Returns what is known of a track's latents, [B, F, dim], from the features [B, F, D] of some tracks."""
        index = torch.tensor(TRACKS.index(target), device=self.null.device)
        total = self.target(index)
        for i, track in enumerate(TRACKS):
            total = total + (self.tracks[track](features[track]) if track in features else self.null[i])
        return total

    def hidden_condition(self, frames: int, batch: int) -> Tensor:
        """Returns the conditions [B, F, dim] that say nothing, for guidance."""
        return self.null.sum(0).expand(batch, frames, -1)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.bias = nn.Parameter(torch.zeros(6, dim))  # the block's own part of adaLN-single
        nn.init.normal_(self.proj.weight, std=0.02)
        nn.init.normal_(self.contract.weight, std=0.02)

    def forward(self, x: Tensor, modulation: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.bias)[:, :, None].unbind(1)  # [B, 1, D]
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, F, D / H]
        q, k = (_rotate(q, rotation) * q.shape[-1] ** -0.5).to(v.dtype), _rotate(k, rotation).to(v.dtype)
        if torch.is_grad_enabled():
            # Plain products: the CPU kernel of scaled_dot_product_attention has a slow backward for short sequences.
            mixed = torch.softmax(q @ k.transpose(-1, -2), -1, dtype=torch.float32).to(v.dtype) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        x = x + (1 + gate1) * self.proj(mixed.transpose(1, 2).flatten(2))
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + (1 + gate2) * self.contract(functional.gelu(self.expand(h), approximate="tanh"))


def _sinusoids(time: Tensor) -> Tensor:
    frequencies = torch.exp(-math.log(1e4) * torch.arange(64, device=time.device) / 64)
    angles = time[:, None] * 1000.0 * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


def _rotation(frames: int, head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    frequencies = 1e4 ** (-torch.arange(head // 2, device=device) / (head // 2))
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
