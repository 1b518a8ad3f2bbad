"""Planners and refiners behind one face, so that what both have to obey is written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from songkit.interfaces import Planner, Sampling, TrackRefiner
from songkit.patterns import Pattern, parallel
from songkit.testing import samples
from songkit.testing.lively import lively
from songkit.testing.subject import Subject
from songkit.types import Codes, Conditions, Plan, TokenLayout

__all__ = ["GREEDY", "HOT", "PLAIN", "Given", "Tower"]

GREEDY = Sampling(temperature=0.0, top_k=0, guidance=1.0, repetition_window=0)
PLAIN = Sampling(temperature=1.0, top_k=0, guidance=1.0, repetition_window=0)
HOT = Sampling(temperature=3.0, top_k=0, guidance=1.0, repetition_window=0)
"""Nearly every id is as likely as any other, the end of song included."""


@dataclass
class Given:
    """What a model is given of B songs besides their ids."""

    conditions: Conditions
    plan: Plan | None
    """For refiners."""
    lengths: tuple[int, ...]
    """Frames of each song."""


class Tower:
    """A planner or a refiner."""

    def __init__(self, subject: Subject) -> None:
        self.built: Any = lively(subject.build())
        self.plans = isinstance(self.built, Planner)
        self.layout: TokenLayout = self.built.layout
        self.pattern: Pattern = getattr(self.built, "pattern", parallel(len(self.layout)))
        """Where ids stand; a refiner that says nothing of it makes all streams at once."""
        self.width: int = getattr(self.built, "width", getattr(self.built, "source_width", 0))

    def given(
        self, lengths: Sequence[int] = (12, 9), *, null: bool = False, seed: int = 0, tape: int = 3, alike: bool = False
    ) -> Given:
        """Returns random conditions and plans of songs; `alike` ones are the same for all."""
        prefixes = [5] * len(lengths) if alike else [5 - 2 * (i % 2) for i in range(len(lengths))]
        made = samples.conditions(self.width, prefixes, frames=max(lengths), null=null, seed=seed, tape=tape)
        plan = None
        if not self.plans:
            refiner: TrackRefiner = self.built
            plan = samples.plan(refiner.source, refiner.source_pattern, refiner.source_width, made, lengths)
        found = Given(made, plan, tuple(lengths))
        return _first_for_all(found) if alike else found

    def alone(self, given: Given, row: int) -> Given:
        """Returns what is given of one song, without the padding that the others bring."""
        length, conditions = given.lengths[row], given.conditions
        plan = given.plan
        if plan is not None:
            steps = self.built.source_pattern
            branches = [conditions] if conditions.null is None else [conditions, conditions.null]
            prefix = max(int(branch.mask[row].sum()) for branch in branches)
            first = plan.mask.shape[1] - steps.steps(max(given.lengths))
            own = (slice(row, row + 1), slice(first - prefix, first + steps.steps(length)))
            ids = Codes(plan.codes.ids[own[0], :, :length], plan.codes.lengths[own[0]], plan.codes.layout)
            states = (plan.hidden, plan.mask, plan.hidden_null, plan.mask_null)
            plan = Plan(ids, *(None if part is None else part[own] for part in states))  # type: ignore[arg-type]  # only the last two may be None
        return Given(_condition(conditions, row, length), plan, (length,))

    def teach(self, codes: Codes, given: Given) -> Plan:
        """Runs the model on known ids."""
        with torch.no_grad():
            return (
                self.built(codes, given.conditions) if self.plans else self.built(given.plan, codes, given.conditions)
            )

    def draw(
        self, given: Given, sampling: Sampling, seeds: Sequence[int], *, max_frames: int = 0
    ) -> tuple[Codes, Plan | None]:
        """Draws songs; planners cut them at `max_frames`, or the longest that is given."""
        with torch.no_grad():
            if not self.plans:
                return self.built.generate(given.plan, given.conditions, sampling=sampling, seeds=seeds), None
            most = max_frames or max(given.lengths)
            plan = self.built.generate(given.conditions, sampling=sampling, max_frames=most, seeds=seeds)
            return plan.codes, plan


def _condition(conditions: Conditions, row: int, frames: int) -> Conditions:
    kept = conditions.mask[row]
    return Conditions(
        conditions.prefix[row : row + 1, kept],
        conditions.mask[row : row + 1, kept],
        null=None if conditions.null is None else _condition(conditions.null, row, frames),
        tape=None if conditions.tape is None else conditions.tape[row : row + 1],
        tape_lengths=None if conditions.tape_lengths is None else conditions.tape_lengths[row : row + 1],
        cursor=None if conditions.cursor is None else conditions.cursor[row : row + 1, :frames],
    )


def _first_for_all(value: Any) -> Any:
    """Returns the dataclass with the first row of every tensor in all rows."""
    changes = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Tensor) and item.dim():
            changes[field.name] = item[:1].expand_as(item).clone()
        elif isinstance(item, Conditions | Plan | Codes):
            changes[field.name] = _first_for_all(item)
    return dataclasses.replace(value, **changes)
