"""A plan to the codes of every track."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from songkit.interfaces.drawing import TrackDrawing
from songkit.interfaces.planner import Sampling
from songkit.interfaces.tokenizer import Tokenizer
from songkit.patterns import Pattern, parallel
from songkit.types import Codes, Conditions, Plan, TokenLayout
from songkit.vocabulary import logit_scores

__all__ = ["TrackRefiner"]


class TrackRefiner(nn.Module, ABC):
    """Refines a plan into the streams of its own layout, in parallel over tracks."""

    source: TokenLayout
    """The layout of the plans it refines."""
    source_width: int
    """Width of the planner's hidden states it reads."""
    layout: TokenLayout
    source_tail: int = 0
    """Steps after a song for which it reads the planner's states: the planner's `tail`."""

    @property
    def source_pattern(self) -> Pattern:
        """The pattern of the plans it refines; by default all ids of a frame on one step."""
        return parallel(len(self.source))

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts untrained weights from what the tokenizer tells of its codes; by default it does nothing."""

    @abstractmethod
    def forward(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced; returns a plan of this layout with logits [B, K, F, V].

        A refiner whose streams end by themselves gives logits [B, K, F + 1, V + 1], as planners do.
        """

    def score(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced and says how likely every id is: `Plan.scores` and no logits; see `Planner.score`."""
        refined = self(plan, codes, conditions)
        assert refined.logits is not None
        ended = replace(refined.codes, ended=codes.ended)
        return replace(refined, logits=None, scores=logit_scores(refined.logits, ended))

    @abstractmethod
    def generate(
        self,
        plan: Plan,
        conditions: Conditions,
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> Codes:
        """Draws the ids of every track for each song of a plan; lengths are those of the plan."""

    def drawing(self, *, sampling: Sampling) -> TrackDrawing | None:
        """Returns what draws tracks step by step, as `generate` does, of plans that are being drawn, or `None`."""
        return None
