"""What the processes of a training tell each other; a process that trains alone hears itself."""

from __future__ import annotations

from typing import Any

from torch import distributed

__all__ = ["first_says", "gathered", "place"]


def place() -> tuple[int, int]:
    """Returns the number of this process, from 0, and of how many."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gathered(value: Any) -> list[Any]:
    """Returns what each process gives, plain values, in the order of their numbers."""
    processes = place()[1]
    if processes == 1:
        return [value]
    everyone: list[Any] = [None] * processes
    distributed.all_gather_object(everyone, value)
    return everyone


def first_says(value: Any) -> Any:
    """Returns what the first process gives, for decisions that all must take alike."""
    return gathered(value)[0]
