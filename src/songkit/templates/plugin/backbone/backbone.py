"""A causal model of decaying averages, one for each channel: the simplest linear recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.interfaces import Backbone, Cache

from .configs import BackboneConfig

__all__ = ["DecayBackbone"]


@dataclass
class _Averages:
    """What is remembered of one song: the averages [G, D] of every layer."""

    layers: list[Tensor]


class DecayBackbone(Backbone):
    """A stack of layers `x + out(silu(average(into(norm(x)))))` with a final norm."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.width = config.dim
        self.layers = nn.ModuleList(_Layer(config.dim) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=1e-5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs whole sequences [B, S, D] under a mask [B, S]; see `Backbone.forward`."""
        return self._run(x, mask, [x.new_zeros(len(x), self.width) for _ in self.layers])

    def start(self, x: Tensor, mask: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        """Runs the prefix [G, P, D] of one song; see `Backbone.start`."""
        cache = _Averages([x.new_zeros(len(x), self.width) for _ in self.layers])
        return self._run(x, mask, cache.layers), cache

    def step(self, x: Tensor, caches: Sequence[Cache | None]) -> Tensor:
        """Runs one step [N * G, D] of a block of songs; see `Backbone.step`."""
        group = len(x) // len(caches)
        live = [(slice(i * group, (i + 1) * group), cache) for i, cache in enumerate(caches) if cache is not None]
        averages = [x.new_zeros(len(x), self.width) for _ in self.layers]
        for rows, cache in live:
            assert isinstance(cache, _Averages)
            for layer, average in enumerate(averages):
                average[rows] = cache.layers[layer]
        states = self._run(x[:, None], torch.ones(len(x), 1, dtype=torch.bool, device=x.device), averages)
        for rows, cache in live:
            assert isinstance(cache, _Averages)
            cache.layers = [average[rows] for average in averages]
        return states[:, 0]

    def _run(self, x: Tensor, mask: Tensor, averages: list[Tensor]) -> Tensor:
        """Runs all layers, and leaves their last averages [B, D] in `averages`."""
        for number, layer in enumerate(self.layers):
            x, averages[number] = layer(x, mask, averages[number])
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.into, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.decay = nn.Parameter(torch.linspace(-2.0, 4.0, dim))  # from forgetting at once to remembering long

    def forward(self, x: Tensor, mask: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
        heard = self.into(self.norm(x)) * mask[:, :, None]  # padding comes first and leaves the averages at zero
        keep = torch.sigmoid(self.decay)
        averages = []
        for step in range(x.shape[1]):
            average = keep * average + (1 - keep) * heard[:, step]
            averages.append(average)
        return x + self.out(functional.silu(torch.stack(averages, 1))), average
