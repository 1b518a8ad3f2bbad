"""Trains a planner, or planner and refiner together, on pairs of songs of which one is preferred: DPO and others.

The reference policy is the one that the training starts from. What it says of the pairs never changes, so it is
computed once, before the first step, by the very modules that are trained afterwards, and kept on disk
(`songkit.tasks.reference`): there is never a second model in memory. A song's log-probability has a part for each
stream, the moves of a planner's cursor among them: docs/explanation/preference.md says why.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from songkit.components.preference_configs import TrainPreferenceConfig
from songkit.errors import LayoutError
from songkit.fit import layout_reasons
from songkit.interfaces import (
    Conditioner,
    PairLogProbabilities,
    Planner,
    PreferenceObjective,
    Preferences,
    TrackRefiner,
)
from songkit.pairs import MinedPairs
from songkit.processes import first_says
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.tasks.base import Task
from songkit.tasks.pair_batches import PairBatch, pair_batch, pair_order
from songkit.tasks.reference import ReferenceTable, pairs_digest, reference_table, weights_digest
from songkit.types import Conditions, TokenScores
from songkit.vocabulary import beside

__all__ = ["TrainPreference"]


class TrainPreference(Task):
    """Descends a preference objective. No dropout and no hidden conditions: both policies see the same request."""

    unit = "frames"
    reads_weights = ("losses", "validate_step", "_rehearse", "_reference")

    def __init__(
        self,
        config: TrainPreferenceConfig,
        *,
        planner: Planner,
        conditioner: Conditioner,
        objective: PreferenceObjective,
        data: MinedPairs,
        refiner: TrackRefiner | None = None,
        validation: MinedPairs | None = None,
        settings: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int,
    ) -> None:
        super().__init__(settings=settings, optimizer=optimizer, seed=seed)
        self.config, self.objective = config, objective
        self.planner, self.refiner, self.conditioner = planner, refiner, conditioner
        self._sources = {"data": data, **({} if validation is None else {"validation": validation})}
        for name, source in self._sources.items():
            self._check(name, source)
        self.conditioner.requires_grad_(requires_grad=config.train_conditioner)
        self._tables: dict[str, ReferenceTable] = {}
        self._orders: dict[int, list[np.ndarray]] = {}

    def trainable(self) -> Iterable[nn.Parameter]:
        """Planner and refiner, and the conditioner unless the options say otherwise."""
        conditioner = self.conditioner.parameters() if self.config.train_conditioner else ()
        return [*self.planner.parameters(), *conditioner, *([] if self.refiner is None else self.refiner.parameters())]

    def exports(self) -> Mapping[str, nn.Module]:
        """Planner, conditioner, and refiner where it is trained."""
        made: dict[str, nn.Module] = {"planner": self.planner, "conditioner": self.conditioner}
        return made if self.refiner is None else {**made, "refiner": self.refiner}

    def batch(self, step: int) -> PairBatch:
        """Pairs of a step; each comes once in an epoch, in the company of pairs of similar length."""
        source = self._sources["data"]
        batches = -(-len(source) // min(self.settings.batch_size, len(source)))
        epoch = step // batches
        if epoch not in self._orders:
            self._orders = {epoch: self._order(source, self.rng(epoch))}
        return self._pairs("data", self._orders[epoch][step % batches])

    def items(self, batch: PairBatch) -> float:
        """Frames of both songs of all pairs."""
        return float(batch.codes.lengths.sum())

    def named(self, batch: PairBatch) -> str:
        """The pairs by number and request."""
        pairs = zip(batch.pairs.tolist(), batch.requests, strict=True)
        return "pairs " + ", ".join(f"{number} ({request.id})" for number, request in pairs)

    def losses(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The objective's mean loss; rewards, log-probabilities in nats per token and drift are logged."""
        return self._losses(batch, "data")

    def validate_step(self, step: int) -> dict[str, float]:
        """Mean losses over the first `validate_batches` batches of the validation pairs."""
        if "validation" not in self._sources:
            return {}
        source = self._sources["validation"]
        sums: dict[str, list[float]] = {}
        for numbers in self._order(source, self.rng(2**31))[: self.settings.validate_batches]:
            with self.autocast():
                found = self._losses(self._pairs("validation", numbers).to(self.device), "validation")
            for name, value in found.items():
                sums.setdefault(name.lstrip("_"), []).append(float(value))
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over a state; the reference is computed first where it is not kept, while these are its weights."""
        self.prepare_reference()
        super().restore(state)

    def on_fit_start(self) -> None:
        """Computes the reference log-probabilities that are not kept on disk yet."""
        self.prepare_reference()
        super().on_fit_start()

    def train(self, mode: bool = True) -> TrainPreference:
        """Stays as in evaluation: dropout and hidden conditions would make two policies of one."""
        super().train(mode=False)
        return self

    def prepare_reference(self) -> None:
        """Reads or computes what the reference says of all pairs; the weights must still be those it starts from.

        Raises:
            LayoutError: If the objective does not fit the streams, or a pair cannot be scored.
        """
        if self._tables or self.step:
            return
        self.train()
        streams = self._rehearse()
        if self.objective.reference_free:
            return
        weights = first_says(weights_digest(self.exports()))
        for name, source in self._sources.items():
            key = {
                "pairs": pairs_digest(source),
                "weights": weights,
                "precision": self.settings.precision,
                "max_seconds": self.config.max_seconds,
                "streams": list(streams),
            }
            folder = Path(self.config.cache) if self.config.cache else Path(source.root) / "reference"
            self._tables[name] = reference_table(
                folder,
                key,
                functools.partial(self._reference, name),
                self._order(source, self.rng(0)),
                recompute=self.config.recompute,
            )

    def _rehearse(self) -> tuple[str, ...]:
        """Scores one pair, so that what does not fit is told before hours of computing; returns the streams."""
        shortest = self._sources["data"].frames.max(1).argmin(keepdims=True)
        batch = self._pairs("data", shortest).to(self.device)
        with torch.no_grad(), self.autocast():
            found = self._scores(batch)
            pair = _pair(found.sums)
            self.objective(self._preferences(batch, found, pair, pair))
        return found.streams

    @torch.no_grad()
    def _reference(self, name: str, numbers: np.ndarray) -> Tensor:
        with self.autocast():
            sums = self._scores(self._pairs(name, numbers).to(self.device)).sums
        return torch.stack(sums.chunk(2), 1).cpu()  # [B, 2, K]

    def _losses(self, batch: PairBatch, name: str) -> dict[str, Tensor]:
        scores = self._scores(batch)
        policy, reference = _pair(scores.sums), None
        if not self.objective.reference_free:
            kept = self._tables[name].sums[batch.pairs].to(scores.sums.device)
            reference = PairLogProbabilities(chosen=kept[:, 0], rejected=kept[:, 1])
        given = self._preferences(batch, scores, policy, reference)
        found = self.objective(given)
        margins = found.chosen_rewards - found.rejected_rewards
        chosen, rejected = scores.sums.detach().sum(1).chunk(2)
        tokens = [given.chosen_tokens.sum(1), given.rejected_tokens.sum(1)]
        logged = {
            "preference": found.losses.mean(),
            "_margin": margins.mean(),
            "_accuracy": (margins > 0).float().mean(),
            "_chosen_reward": found.chosen_rewards.mean(),
            "_rejected_reward": found.rejected_rewards.mean(),
            "_chosen_log_probability": (chosen / tokens[0]).mean(),
            "_rejected_log_probability": (rejected / tokens[1]).mean(),
            **{f"_{key}": value for key, value in found.statistics.items()},
        }
        if reference is not None:
            # Of songs that the reference sang freely, the mean is an estimate of KL(reference || policy) per token.
            left = [(reference.chosen.sum(1) - chosen) / tokens[0], (reference.rejected.sum(1) - rejected) / tokens[1]]
            logged["_drift"] = torch.cat(left).mean()
        return logged

    def _scores(self, batch: PairBatch) -> TokenScores:
        """What the policy says of 2 B songs."""
        ended = batch.codes.ended
        mixed = dataclasses.replace(batch.codes.arrange(self.planner.layout), ended=ended)
        plan = self.planner.score(mixed, self._conditions(batch, "planner"))
        assert plan.scores is not None
        if self.refiner is None:
            return plan.scores
        refined = self.refiner.score(plan, batch.codes, self._conditions(batch, "refiner")).scores
        assert refined is not None
        return beside(plan.scores, refined)

    def _conditions(self, batch: PairBatch, side: str) -> Conditions:
        """The conditions of B requests, for both songs of each."""
        made: Conditions = self.conditioner(batch.requests, side=side)

        def twice(value: Tensor | None) -> Tensor | None:
            return None if value is None else torch.cat([value, value])

        return Conditions(
            torch.cat([made.prefix, made.prefix]),
            torch.cat([made.mask, made.mask]),
            tape=twice(made.tape),
            tape_lengths=twice(made.tape_lengths),
            cursor=batch.cursor,
            repeats=2 if self._shares(made.prefix.shape[1], batch.codes.ids.shape[2]) else 1,
        )

    def _shares(self, positions: int, frames: int) -> bool:
        """Whether a prefix is long enough, beside songs of so many frames, to be run once for both."""
        least = self.config.share_prefix
        return least is not None and positions >= least * frames

    def _preferences(
        self,
        batch: PairBatch,
        scores: TokenScores,
        policy: PairLogProbabilities,
        reference: PairLogProbabilities | None,
    ) -> Preferences:
        chosen, rejected = scores.tokens.clamp(min=1).chunk(2)
        return Preferences(
            streams=scores.streams,
            policy=policy,
            reference=None if self.objective.reference_free else reference,
            chosen_tokens=chosen,
            rejected_tokens=rejected,
            aspects=batch.aspects,
        )

    def _pairs(self, name: str, numbers: np.ndarray) -> PairBatch:
        return pair_batch(self._sources[name], numbers, max_seconds=self.config.max_seconds)

    def _order(self, source: MinedPairs, rng: np.random.Generator) -> list[np.ndarray]:
        return pair_order(source, self.settings.batch_size, rng)

    def _check(self, name: str, source: MinedPairs) -> None:
        where = f"{name} of {source.root}"
        reasons = layout_reasons("planner", self.planner.layout, where, source.layout)
        if self.refiner is not None:
            reasons += layout_reasons("refiner", self.refiner.layout, where, source.layout)
        if reasons:
            listed = "\n".join(f"- {reason}" for reason in dict.fromkeys(reasons))
            raise LayoutError(f"the pairs do not fit:\n{listed}\nMine them with the model of this recipe.")


def _pair(sums: Tensor) -> PairLogProbabilities:
    chosen, rejected = sums.chunk(2)
    return PairLogProbabilities(chosen=chosen, rejected=rejected)
