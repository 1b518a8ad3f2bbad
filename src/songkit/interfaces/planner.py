"""Conditions to the plan of a song."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from songkit.interfaces.tokenizer import Tokenizer
from songkit.types import Codes, Conditions, Plan, TokenLayout

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


class Planner(nn.Module, ABC):
    """Plans a song: autoregressive over the steps of a token pattern."""

    layout: TokenLayout
    width: int
    """Width D of the hidden states it hands on."""

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts untrained weights from what the tokenizer tells of its codes; by default it does nothing."""

    @abstractmethod
    def forward(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced: the logits of a frame depend on earlier frames and the conditions only."""

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
