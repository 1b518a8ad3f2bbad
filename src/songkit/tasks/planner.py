"""Trains a planner and the conditioner it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TrainPlannerConfig
from songkit.interfaces import Planner, Tokenizer
from songkit.tasks.songs import SongBatch, SongTask

__all__ = ["TrainPlanner"]


class TrainPlanner(SongTask):
    """Next-token cross-entropy of the planned streams, and whatever losses the planner adds."""

    def __init__(
        self, config: TrainPlannerConfig, *, planner: Planner, codec: Tokenizer | None = None, **parts: Any
    ) -> None:
        super().__init__(config, **parts)
        self.planner = planner
        self._read = self.check_layout(planner.layout, "planner", planner.auxiliary)
        if codec is not None:
            planner.adopt(codec)  # before any training: a resumed task overwrites it with its own weights

    def trainable(self) -> Iterable[nn.Parameter]:
        """Planner and conditioner."""
        return [*self.planner.parameters(), *self.conditioner.parameters()]

    def exports(self) -> dict[str, nn.Module]:
        """Planner and conditioner."""
        return {"planner": self.planner, "conditioner": self.conditioner}

    def losses(self, batch: SongBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats per token; the token after the last frame of a whole song is the end of song."""
        conditions = self.conditions(batch, generator)
        plan = self.planner(replace(batch.codes.arrange(self._read), ended=batch.complete), conditions)
        assert plan.logits is not None
        codes, logits = plan.codes, plan.logits.float()  # [B, K, F + 1, V + 1]
        frames = torch.arange(logits.shape[2], device=logits.device)
        targets = functional.pad(codes.ids, (0, 1))
        targets = targets.masked_fill(frames >= codes.lengths[:, None, None], -100)
        ends = (frames == codes.lengths[:, None, None]) & batch.complete[:, None, None]
        targets = targets.masked_fill(ends, logits.shape[-1] - 1)
        nats = functional.cross_entropy(logits.flatten(0, 2), targets.flatten())
        known = targets >= 0
        accuracy = ((logits.argmax(-1) == targets) & known).sum() / known.sum()
        losses = {"tokens": nats, "_accuracy": accuracy, **plan.losses}
        if len(codes.layout) > 1:
            for k, stream in enumerate(codes.layout.streams):
                own = functional.cross_entropy(logits[:, k].flatten(0, 1), targets[:, k].flatten())
                losses[f"_{stream.track}.{stream.level}"] = own.detach()
        return losses
