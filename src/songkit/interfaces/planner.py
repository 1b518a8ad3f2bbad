"""Conditions to the plan of a song."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from songkit.interfaces.drawing import PlanDrawing
from songkit.interfaces.tokenizer import Tokenizer
from songkit.patterns import Pattern, parallel
from songkit.types import Codes, Conditions, Plan, TokenLayout
from songkit.vocabulary import logit_scores

__all__ = ["Planner", "Sampling"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How logits become ids."""

    temperature: float = 0.8
    """Divides the logits; 0 takes the most likely id."""
    top_k: int = 250
    """Ids that may be drawn at each step; 0 means all."""
    guidance: float = 1.5
    """Classifier-free guidance coefficient; 1 is none."""
    repetition_window: int = 50
    """Frames in which an id that was drawn before is made less likely (`repetition_penalty`); 0 means none."""
    repetition_penalty: float = 1.0
    """Divisor of the logits of ids within the window; 1 is none, LeVo uses 1.1."""
    min_frames: int = 1
    """Frames before which a planner may not end a song."""
    last_frames: int = 1
    """Frames on the last token of the lyrics before which a planner that follows them may not end a song."""
    track_temperature: Mapping[str, float] = field(default_factory=dict)
    """Temperatures of single tracks, see `of`."""
    track_top_k: Mapping[str, int] = field(default_factory=dict)
    """The same of `top_k`."""

    def of(self, track: str) -> Sampling:
        """Returns how the ids of a track are drawn."""
        if track not in self.track_temperature and track not in self.track_top_k:
            return self
        return replace(
            self,
            temperature=self.track_temperature.get(track, self.temperature),
            top_k=self.track_top_k.get(track, self.top_k),
        )


class Planner(nn.Module, ABC):
    """Plans a song: autoregressive over the steps of a token pattern."""

    layout: TokenLayout
    width: int
    """Width D of the hidden states it hands on."""
    auxiliary: tuple[str, ...] = ()
    """Tracks that it learns to predict without planning them: training needs their codes too."""
    tail: int = 0
    """Steps for which its states go on after those that predict the end of the last stream."""

    @property
    def pattern(self) -> Pattern:
        """Where the ids of its streams stand on the steps of `Plan.hidden`; by default all of a frame on one."""
        return parallel(len(self.layout))

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts untrained weights from what the tokenizer tells of its codes; by default it does nothing."""

    @abstractmethod
    def forward(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced: an id's logits depend on the ids before it in the pattern and the conditions only.

        Args:
            codes: Of this layout, and in training of the `auxiliary` tracks.
            conditions: Of the same songs.

        Returns:
            A plan whose codes are of this layout, in its order, with logits [B, K, F + 1, V + 1]: the last frame and
            the last id are for the end of song.
        """

    def score(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced and says how likely every id is, as training needs it: `Plan.scores` and no logits.

        By default of the logits; planners with many ids save their memory. What else a planner draws, such as the
        moves of a cursor, has streams of its own behind those of the layout. `codes.ended` says which songs end.
        """
        plan = self(codes, conditions)
        assert plan.logits is not None
        ended = replace(plan.codes, ended=codes.ended)
        return replace(plan, logits=None, scores=logit_scores(plan.logits, ended))

    @abstractmethod
    def generate(
        self,
        conditions: Conditions,
        *,
        sampling: Sampling,
        max_frames: int,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> Plan:
        """Draws a song for each of B conditions.

        Args:
            conditions: With a null branch where `sampling.guidance` is not 1.
            sampling: How ids are drawn.
            max_frames: Where a song that does not end by itself is cut.
            seeds: One for each song; a song's codes depend on its own seed and conditions only.
            progress: Called with the number of frames done, summed over songs.
        """

    def drawing(self, *, sampling: Sampling, max_frames: int) -> PlanDrawing | None:
        """Returns what draws songs step by step, as `generate` does, while a refiner follows; `None` if it cannot."""
        return None
