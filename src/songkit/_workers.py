"""Worker processes: one thread each, results in order, and no worker outlives its parent."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from songkit.errors import SongkitError

if TYPE_CHECKING:
    from songkit.recipe import Recipe

__all__ = ["PickledRecipe", "end_with_parent", "in_order", "worker_pool"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

_failure: Exception | None = None
"""What went wrong while this worker process began."""


@dataclass(frozen=True)
class PickledRecipe:
    """A recipe on its way to a worker process, which starts with nothing imported."""

    plugins: tuple[str, ...]
    """Local plugin files: what is pickled may be of classes that they define."""
    data: bytes

    @classmethod
    def of(cls, recipe: Recipe) -> PickledRecipe:
        """Packs a recipe."""
        return cls(tuple(recipe.resolved.get("plugins", ())), pickle.dumps(recipe))

    def open(self) -> Recipe:
        """Returns the recipe, with its local plugins imported."""
        from songkit.registry import Registry

        registry = Registry([])
        for plugin in self.plugins:
            registry = registry.with_local(Path(plugin))
        recipe: Recipe = pickle.loads(self.data)
        return recipe


@contextlib.contextmanager
def worker_pool(start: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> Iterator[ProcessPoolExecutor]:
    """Starts worker processes, which call `start(*arguments)` first; what they inherit is set while they start.

    Where `start` fails, the results of the pool raise its exception as itself, as they do for one of the work.

    Raises:
        SongkitError: If a worker process died.
    """
    saved = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    pool = _Pool(workers, context, initializer=_begin, initargs=(start, arguments))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise SongkitError(
            "a worker process died (killed, out of memory, or an error while it started, which is "
            "printed above). Run the same command again: it goes on after the last finished song; fewer --workers need "
            "less memory."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in saved.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def in_order(
    pool: ProcessPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, window: int
) -> Iterator[Result]:
    """Yields the results of items in their order, with at most `window` in flight so that memory stays bounded."""
    pending: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def end_with_parent() -> None:
    """Ends this process when its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a worker whose parent was killed would wait for work for ever


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    threading.Thread(target=end_with_parent, daemon=True).start()
    global _failure
    try:
        start(*arguments)
    except Exception as error:  # of a failed beginning a pool would only print; so what is asked of it raises this
        _failure = error


class _Pool(ProcessPoolExecutor):
    """A pool that passes on why a worker could not begin."""

    def submit(
        self, work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        return super().submit(_do, work, *args, **kwargs)


def _do(work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    if _failure is not None:
        raise _failure
    return work(*args, **kwargs)
