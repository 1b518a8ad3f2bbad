"""A song of a plan as a refiner sees it while it is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from songkit.patterns import Pattern
from songkit.types import Plan

__all__ = ["Unfolding"]


class Unfolding:
    """A `DrawnPlan` of a song whose plan is there: each `reveal` tells one more step of it."""

    def __init__(self, plan: Plan, index: int, pattern: Pattern, *, tail: int = 0, whole: bool = False) -> None:
        """Takes a song of a plan.

        Args:
            plan: Of a batch.
            index: Which song.
            pattern: Of the plan's steps.
            tail: Steps that its states go on for after a song.
            whole: Whether all is told from the beginning.
        """
        branches = [plan.hidden] if plan.hidden_null is None else [plan.hidden, plan.hidden_null]
        hidden = torch.stack([states[index] for states in branches])  # [G, P + S, D]
        self.most = int(plan.codes.lengths[index])
        first = hidden.shape[1] - pattern.steps(plan.codes.ids.shape[2]) - tail
        self.prefix_states: Tensor | None = hidden[:, :first]
        self.states: list[Tensor] = []
        self.ids: list[list[int]] = [[] for _ in pattern.offsets]
        self.frames: int | None = None
        self.finished = self.whole = False
        self._pattern, self._ids = pattern, plan.codes.ids[index, :, : self.most].tolist()
        self._states = list(hidden[:, first : first + pattern.steps(self.most) + tail].unbind(1))
        while whole and not self.whole:
            self.reveal()

    def reveal(self) -> None:
        """Tells the next state, and the ids that are drawn from it; with the last one that the song is whole."""
        self.states.append(self._states[len(self.states)])
        for own, ids, offset in zip(self.ids, self._ids, self._pattern.offsets, strict=True):
            own[:] = ids[: max(0, (len(self.states) - 1 - offset) // self._pattern.stride + 1)]
        if len(self.states) == len(self._states):
            self.frames, self.finished, self.whole = self.most, True, True

    def cursor(self) -> list[int] | None:
        """Returns `None`: it is told of no lyrics."""
        return None
