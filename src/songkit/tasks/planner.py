"""Trains a planner and the conditioner it reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TrainPlannerConfig
from songkit.errors import RecipeError
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
        if self.config.linger_seconds > 0 and "cursor" not in found.streams:
            raise RecipeError(
                f"task.linger_seconds is {self.config.linger_seconds}, and this planner does not follow the lyrics: it "
                "has no cursor that could linger. Set it to 0, or take a planner with one (levo2/mixed-lm)."
            )
        counted = found.counted[:, : len(layout)]
        if conditions.due is not None and conditions.cursor is not None:
            lingering = functional.pad(
                conditions.due != conditions.cursor, (0, counted.shape[2] - conditions.due.shape[1])
            )
            counted = counted & ~lingering[:, None]
        nats = -found.log_probabilities[:, : len(layout)].where(counted, 0.0)
        accuracy = (found.likeliest[:, : len(layout)] & counted).sum() / counted.sum()
        losses = {"tokens": nats.sum() / counted.sum(), "_accuracy": accuracy, **plan.losses}
        if len(layout) > 1:
            for k, name in enumerate(found.streams[: len(layout)]):
                losses[f"_{name}"] = nats[:, k].detach().sum() / counted[:, k].sum()
        return losses
