"""Songs that are drawn step by step: what `songkit.decoding` moves on, many at once, and what stages hand to another.

A planner and a refiner that offer a drawing sing in lockstep: the tracks are refined, and audio is made, while the plan
is still being drawn. Others are run one after the other, by `generate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from songkit.interfaces.backbone import Backbone
from songkit.types import Conditions

__all__ = ["Drawing", "DrawnPlan", "PlanDrawing", "Start", "TrackDrawing"]


@dataclass(frozen=True)
class Start:
    """What a song begins with."""

    embeddings: Tensor
    """[G, P, D], of its guidance rows; padding first."""
    mask: Tensor
    """bool [G, P]."""
    capacity: int
    """How many positions may follow."""


class Drawing(ABC):
    """The songs of one model while they are drawn: what happens between two steps of its tower."""

    backbone: Backbone
    rows: int
    """Guidance rows G of a song."""

    @abstractmethod
    def start(self, song: int) -> Start:
        """Returns what a song begins with."""

    def started(self, song: int, states: Tensor) -> None:  # noqa: B027  # most need not know
        """Is given the final states [G, P, D] of the beginning."""

    def ready(self, song: int) -> bool:
        """Whether all is known that the next `start` or `advance` of a song needs; by default it always is."""
        return True

    @abstractmethod
    def advance(self, songs: Sequence[int], states: Tensor) -> Tensor:
        """Draws what the last states predict.

        Args:
            songs: N of them.
            states: Final states [M, G, D] of their last positions, M >= N. Products with weights are made of all M.

        Returns:
            The inputs [M or N, G, D] of the next positions; those of songs that are `done` are not read.
        """

    @abstractmethod
    def done(self, song: int) -> bool:
        """Whether a song has ended."""

    def outputs(self, states: Tensor) -> list[Tensor]:
        """Returns every product of `advance` with weights, [M, ...], of states [M, G, D]; by default there is none.

        The engine finds out with them which sizes of blocks give the same numbers.
        """
        return []


class DrawnPlan(Protocol):
    """One song of a planner while it is drawn; a refiner reads what there is of it so far."""

    ids: list[list[int]]
    """Those of each stream so far."""
    frames: int | None
    """How many the song has, when that is known."""
    most: int
    """How many it may have."""
    finished: bool
    """Whether it has ended by itself."""
    prefix_states: Tensor | None
    """[G, P, D], what counts at the end."""
    states: list[Tensor]
    """[G, D] of each step so far."""
    whole: bool
    """Whether no more states will come."""

    def cursor(self) -> list[int] | None:
        """Returns the lyrics token of each frame so far, where the planner follows the lyrics."""
        ...


class PlanDrawing(Drawing):
    """Songs of a planner."""

    songs: Sequence[DrawnPlan]

    @abstractmethod
    def add(self, conditions: Conditions, index: int, seed: int) -> int:
        """Takes a song of a batch of conditions; returns its place in `songs`."""


class TrackDrawing(Drawing):
    """Songs of a refiner, each behind its plan."""

    @abstractmethod
    def add(self, source: DrawnPlan, conditions: Conditions, index: int, seed: int) -> int:
        """Takes the plan of a song of a batch of conditions; returns the song's number."""

    @abstractmethod
    def ids(self, song: int) -> list[list[int]]:
        """Returns the ids of each stream so far."""
