"""Trains a track refiner on the states of a finished planner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TrainRefinerConfig
from songkit.interfaces import Planner, Tokenizer, TrackRefiner
from songkit.tasks.songs import SongBatch, SongTask

__all__ = ["TrainRefiner"]


class TrainRefiner(SongTask):
    """Next-token cross-entropy of every track; planner and text conditions stay as they are (LeVo 2's extension)."""

    def __init__(
        self,
        config: TrainRefinerConfig,
        *,
        planner: Planner,
        refiner: TrackRefiner,
        codec: Tokenizer | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(config, **parts)
        self.planner, self.refiner = planner, refiner
        self.check_layout(planner.layout, "planner")
        self.check_layout(refiner.layout, "refiner")
        self.freeze(planner)
        # Not `freeze`: conditions are still hidden at random, so that the refiner learns its null branch.
        self.conditioner.requires_grad_(requires_grad=False)
        for parameter in self.conditioner.own("refiner"):
            parameter.requires_grad_()
        if codec is not None:
            refiner.adopt(codec)

    def trainable(self) -> Iterable[nn.Parameter]:
        """The refiner, and what only it reads of the conditions: the rest is the planner's too."""
        return [*self.refiner.parameters(), *self.conditioner.own("refiner")]

    def exports(self) -> dict[str, nn.Module]:
        """The refiner and the conditioner."""
        return {"refiner": self.refiner, "conditioner": self.conditioner}

    def losses(self, batch: SongBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats per token of each track."""
        # Both towers must be shown the same conditions: the second draw repeats the first.
        state = generator.get_state()
        with torch.no_grad():
            plan = self.planner(batch.codes.arrange(self.planner.layout), self.conditions(batch, generator))
        generator.set_state(state)
        refined = self.refiner(plan, batch.codes, self.conditions(batch, generator, side="refiner"))
        assert refined.logits is not None
        codes = refined.codes
        logits = refined.logits.float()  # [B, K, F, V]
        known = (torch.arange(codes.ids.shape[2], device=logits.device) < codes.lengths[:, None])[:, None]
        targets = codes.ids.masked_fill(~known, -100)
        losses = {}
        for k, stream in enumerate(codes.layout.streams):
            name = f"{stream.track}.{stream.level}"
            losses[name] = functional.cross_entropy(logits[:, k].flatten(0, 1), targets[:, k].flatten())
            right = (logits[:, k].argmax(-1) == targets[:, k]) & known[:, 0]
            losses[f"_accuracy_{name}"] = right.sum() / known.sum()
        return losses
