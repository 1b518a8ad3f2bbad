"""What the processes of a training tell each other where buffers follow its batches; alone, a process hears itself."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, distributed, empty_like

from songkit.processes import place

__all__ = ["gathered", "last_says"]


def gathered(value: Tensor) -> list[Tensor]:
    """Returns the tensors of all processes, of one shape, in the order in which one process would take their batches.

    All processes must call it.
    """
    processes = place()[1]
    if processes == 1:
        return [value]
    everyone = [empty_like(value) for _ in range(processes)]
    distributed.all_gather(everyone, value.contiguous())
    return everyone


def last_says(tensors: Iterable[Tensor]) -> None:
    """Puts the last process's values into tensors of all of them, so that not even rounding sets these apart.

    All processes must call it.
    """
    processes = place()[1]
    for tensor in tensors if processes > 1 else ():
        distributed.broadcast(tensor, processes - 1)
