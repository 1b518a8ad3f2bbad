"""Trains a planner and the conditioner it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

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
        self.adopt(planner, codec)

    def trainable(self) -> Iterable[nn.Parameter]:
        """Planner and conditioner."""
        return [*self.planner.parameters(), *self.conditioner.parameters()]

    def exports(self) -> dict[str, nn.Module]:
        """Planner and conditioner."""
        return {"planner": self.planner, "conditioner": self.conditioner}

    def losses(self, batch: SongBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats per token; the token after the last frame of a whole song is the end of song."""
        conditions = self.conditions(batch, generator)
        plan = self.planner.score(replace(batch.codes.arrange(self._read), ended=batch.complete), conditions)
        assert plan.scores is not None
        layout, found = plan.codes.layout, plan.scores
        nats, counted = -found.log_probabilities[:, : len(layout)], found.counted[:, : len(layout)]
        accuracy = found.likeliest[:, : len(layout)].sum() / counted.sum()
        losses = {"tokens": nats.sum() / counted.sum(), "_accuracy": accuracy, **plan.losses}
        if len(layout) > 1:
            for k, name in enumerate(found.streams[: len(layout)]):
                losses[f"_{name}"] = nats[:, k].detach().sum() / counted[:, k].sum()
        return losses
