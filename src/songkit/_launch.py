"""Starts a process for each device of a training, hands signals on to them, and tells what went wrong in one.

Processes find each other as those of torchrun do, by the variables that it sets, so that
`torchrun --nproc-per-node 8 -m songkit train ...` on several machines comes to the same.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import songkit.errors
from songkit._workers import PickledRecipe, end_with_parent
from songkit.errors import SongkitError
from songkit.recipe import Recipe

__all__ = ["launch"]

_PATIENCE = 10.0
"""Seconds that processes get to tell what went wrong after the first that fails: without it they cannot go on."""


def launch(work: Callable[..., Any], recipe: Recipe, *arguments: Any) -> None:
    """Runs `work(recipe, *arguments)` in `trainer.devices` processes until all have ended.

    Args:
        work: A function of a module.
        recipe: What it is called with.
        arguments: What can be pickled.

    Raises:
        SongkitError: What a process raised, or that one ended otherwise.
        SystemExit: With the status that processes ended with after a signal.
    """
    count = recipe.trainer.devices
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used a GPU cannot use it
    with TemporaryDirectory() as folder:
        packed, port = PickledRecipe.of(recipe), _free_port()
        processes = [
            context.Process(
                target=_run,
                args=(work, packed, arguments, rank, count, port, Path(folder)),
                name=f"process {rank} of {count}",
            )
            for rank in range(count)
        ]
        try:
            with _handed_on(processes) as received:
                for process in processes:
                    process.start()
                _wait(processes)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()  # what is on the disk is whole
                if process.pid is not None:
                    process.join()
        _tell(processes, sorted(Path(folder).glob("error-*.json")), received)


def _run(
    work: Callable[..., Any],
    recipe: PickledRecipe,
    arguments: tuple[Any, ...],
    rank: int,
    count: int,
    port: int,
    folder: Path,
) -> None:
    """Is what each process does."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which hands it on
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="songkit",
    )
    try:
        work(recipe.open(), *arguments)
    except SongkitError as error:
        told = {"kind": type(error).__name__, "message": str(error)}
        (folder / f"error-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
        raise SystemExit(2) from None


@contextmanager
def _handed_on(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Sends signals on to the processes, and gives those that came."""
    received: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        received.append(number)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            with suppress(ValueError):  # only the main thread may
                signal.signal(number, hand_on)
        yield received
    finally:
        for number, handler in before.items():
            with suppress(ValueError):
                signal.signal(number, handler)


def _wait(processes: Sequence[BaseProcess]) -> None:
    """Waits until all have ended, or for a while after one has failed."""
    while running := [process for process in processes if process.is_alive()]:
        failed = any(process.exitcode for process in processes)
        ended = multiprocessing.connection.wait(
            [process.sentinel for process in running], _PATIENCE if failed else None
        )
        if not ended:
            return


def _tell(processes: Sequence[BaseProcess], errors: list[Path], received: list[int]) -> None:
    if errors:
        told = json.loads(errors[0].read_text(encoding="utf-8"))
        raise getattr(songkit.errors, told["kind"], SongkitError)(told["message"])
    if received:
        raise SystemExit(128 + received[0])
    failed = [process for process in processes if process.exitcode]
    if failed:
        ends = ", ".join(f"{process.name} with {process.exitcode}" for process in failed)
        raise SongkitError(
            f"the training ended before its end: {ends} (a negative number is a signal; -9 also ends those that could "
            "not go on alone). What the first of them said is above. Go on with --resume."
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
