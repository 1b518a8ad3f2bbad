"""Causal sequence models over embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

__all__ = ["Backbone", "Cache"]


class Cache(Protocol):
    """What a backbone remembers of one song's guidance rows."""


class Backbone(nn.Module, ABC):
    """A causal model of sequences of embeddings."""

    width: int

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs whole sequences.

        Args:
            x: Embeddings [B, S, D].
            mask: bool [B, S], true where a position counts; padding comes first.

        Returns:
            Final states [B, S, D]; a state depends on earlier counted positions and its own only.
        """

    def forward_repeated(self, x: Tensor, mask: Tensor, *, prefix: int, repeats: int) -> Tensor:
        """Runs whole sequences that begin alike; a backbone may run their beginnings once, by default it does not.

        Args:
            x: Embeddings [B, S, D]; the first `prefix` positions of sequences i and i + B / repeats are equal.
            mask: bool [B, S], equal in these sequences over all positions.
            prefix: Positions that are equal.
            repeats: How many sequences begin alike.

        Returns:
            What `forward` returns, but for rounding and for what dropout draws.
        """
        states: Tensor = self(x, mask)
        return states

    @abstractmethod
    def start(self, x: Tensor, mask: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        """Runs the prefix of one song and keeps what later steps need.

        Args:
            x: Embeddings [G, P, D] of the song's guidance rows.
            mask: bool [G, P].
            capacity: Number of steps that will follow at most.

        Returns:
            States [G, P, D] and the cache.
        """

    @abstractmethod
    def step(self, x: Tensor, caches: Sequence[Cache | None]) -> Tensor:
        """Runs one step of a block of songs.

        Args:
            x: Embeddings [N * G, D] of N songs, the rows of a song together.
            caches: One for each of the N songs, `None` where a place in the block is empty.

        Returns:
            States [N * G, D]. A song's states do not depend on the rest of the block.
        """
