"""Where songs come from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from songkit.types import Song

__all__ = ["DataSource"]


@runtime_checkable
class DataSource(Protocol):
    """A finite, restartable collection of songs with unique ids. Item i is the same at every call."""

    def __len__(self) -> int:
        """Number of songs."""
        ...

    def __getitem__(self, index: int) -> Song:
        """Returns one song; its audio is read when asked for."""
        ...
