"""Trains a track refiner on the states of a finished planner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TrainRefinerConfig
from songkit.errors import RecipeError
from songkit.interfaces import Planner, Tokenizer, TrackRefiner
from songkit.tasks.songs import SongBatch, SongTask
from songkit.types import Codes, TokenLayout

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
        self.adopt(refiner, codec)
        self._neighbours = _neighbours(planner.layout, codec, config.degrade_neighbours)

    def trainable(self) -> Iterable[nn.Parameter]:
        """The refiner, and what only it reads of the conditions: the rest is the planner's too."""
        return [*self.refiner.parameters(), *self.conditioner.own("refiner")]

    def exports(self) -> dict[str, nn.Module]:
        """The refiner and the conditioner."""
        return {"refiner": self.refiner, "conditioner": self.conditioner}

    def losses(self, batch: SongBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats per token of each track."""
        # Both towers must be shown the same conditions: the second draw repeats the first.
        mixed = self._degrade(replace(batch.codes.arrange(self.planner.layout), ended=batch.complete), generator)
        state = generator.get_state()
        with torch.no_grad():
            plan = self.planner(mixed, self.conditions(batch, generator))
        generator.set_state(state)
        whole = replace(batch.codes, ended=batch.complete)
        found = self.refiner.score(plan, whole, self.conditions(batch, generator, side="refiner")).scores
        assert found is not None
        losses = {}
        for k, name in enumerate(found.streams):
            tokens = found.counted[:, k].sum()
            losses[name] = -found.log_probabilities[:, k].sum() / tokens
            losses[f"_accuracy_{name}"] = found.likeliest[:, k].sum() / tokens
        return losses

    def _degrade(self, codes: Codes, generator: torch.Generator) -> Codes:
        """Replaces a share of the ids [B, K, F] in training; validation sees them as they are."""
        config, ids = self.config, codes.ids
        if not (self.training and config.degrade_share):
            return codes

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=ids.device)

        known = torch.arange(ids.shape[2], device=ids.device) < codes.lengths[:, None, None]
        chosen = known & (drawn(len(ids), 1, 1) < config.degrade_songs) & (drawn(*ids.shape) < config.degrade_share)
        other = drawn(*ids.shape)
        replaced = []
        for k, stream in enumerate(codes.layout.streams):
            near = self._neighbours.get(k)
            choices = stream.size if near is None else near.shape[1]
            choice = (other[:, k] * choices).long().clamp(max=choices - 1)
            replaced.append(choice if near is None else near.to(ids.device)[ids[:, k], choice])
        return replace(codes, ids=torch.where(chosen, torch.stack(replaced, 1), ids))


def _neighbours(layout: TokenLayout, codec: Tokenizer | None, count: int) -> dict[int, Tensor]:
    """Returns the nearest other codes [V, count] of each stream by its number; none where ids are drawn from all.

    Raises:
        RecipeError: If there is no codec that tells its codes, or it has too few.
    """
    found: dict[int, Tensor] = {}
    for k, stream in enumerate(layout.streams if count else ()):
        vectors = getattr(codec, "code_vectors", None)
        if vectors is None or stream.level or not count < stream.size:
            raise RecipeError(
                f"task.degrade_neighbours is {count}: that takes a role 'codec' whose codec tells the vectors of more "
                f"than {count} codes of {stream.track}, level {stream.level}. Name one, or set it to 0."
            )
        codes = functional.normalize(vectors(stream.track).float(), dim=1)
        nearness = codes @ codes.T
        nearness.fill_diagonal_(float("-inf"))
        found[k] = nearness.topk(count, dim=1).indices
    return found
