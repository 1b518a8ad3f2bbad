"""The batches of a training, in order, made here or by workers; and what is in a batch."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

if TYPE_CHECKING:
    from songkit.tasks.base import Task

__all__ = ["Batches", "leave_signals_to_the_training", "tensors_in"]


class Batches(IterableDataset[tuple[int, Any]]):
    """The numbered batches of the remaining steps, those of one process; worker w of n makes every n-th step's."""

    def __init__(self, task: Task, process: int, processes: int) -> None:
        self._task, self._process, self._processes = task, process, processes

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self._task.step + offset
        last = self._task.settings.max_steps
        while last is None or step < last:
            numbers = self._task.numbers(step)[self._process :: self._processes]
            yield step, [self._task.batch(number) for number in numbers]
            step += stride


def leave_signals_to_the_training(worker: int) -> None:
    """What ends a training reaches its workers too, often first: without them it could not save what it has."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yields the tensors of a batch: of tuples, mappings and dataclasses, also inside each other."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_in(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors_in(value)
    elif hasattr(batch, "__dataclass_fields__"):
        for name in batch.__dataclass_fields__:
            yield from tensors_in(getattr(batch, name))
