"""Runs one hostile case: one songkit command on one folder of files, watched for whatever must not happen."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from songkit.cli import main
from songkit.errors import CheckpointError

__all__ = ["CANARY", "CODE", "MOST_BYTES", "MOST_SECONDS", "Case", "Outcome", "attack"]

CANARY = "CANARY"
"""File that appears in the case's folder if anything of the case is executed."""

CODE = f"import pathlib; pathlib.Path({CANARY!r}).touch()\n"
"""Python that would leave the canary; `touch CANARY` is the same for a shell."""

MOST_SECONDS = 2.0
"""CPU time that a case may take. The machine may be busy, so wall time would say little."""

MOST_BYTES = 512 * 2**20
"""Address space that a case may add to the process; beyond it, allocations fail."""

_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)
_audited: list[str] = []
_watching = False


@dataclass(frozen=True)
class Case:
    """One attempt. Its files are written into an empty folder, which is the current one."""

    name: str
    says: tuple[str, ...]
    """What the message must hold: the place and the fault, so that it is refused for the right reason."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    words: tuple[str, ...] = ("recipes", "validate", "hostile.yaml")
    """The command line."""
    prepare: Callable[[Path], object] | None = None
    """Makes what is no plain file: links, pipes, weights."""
    code_runs: bool = False
    """Whether python of the case is run because the user asked for it, as for a local plugin of their own."""


@dataclass(frozen=True)
class Outcome:
    """What a case did."""

    status: int | None
    """Exit status; `None` where an exception other than a user's mistake came out."""
    message: str
    """What stderr says, or that exception."""
    seconds: float
    """CPU time."""
    executed: tuple[str, ...]
    """What was run: events that Python's audit hooks tell, and `CANARY` for the file."""


def attack(case: Case, folder: Path) -> Outcome:
    """Runs a case in an empty folder."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    told, status, message = io.StringIO(), None, ""
    with contextlib.chdir(folder):
        if case.prepare is not None:
            case.prepare(folder)
        with _resolver(), _watched(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            started = time.process_time()
            try:
                status = _run(case.words)
            except SystemExit as error:
                message = f"SystemExit: {error.code}"
            except Exception as error:  # a crash is what the cases look for
                message = f"{type(error).__name__}: {error}"
            seconds = time.process_time() - started
    canary = (CANARY,) if (folder / CANARY).exists() or CANARY in os.environ else ()
    return Outcome(status, message or told.getvalue(), seconds, (*dict.fromkeys(_audited), *canary))


def _run(words: tuple[str, ...]) -> int:
    """Runs a command; `load_state FOLDER` reads a training's newest state as `songkit train --resume` does."""
    if words[0] != "load_state":
        return main(words)
    from songkit.checkpoint import load_state

    logging.disable(logging.WARNING)  # which tells of the damage too; it is the error that is looked at
    try:
        load_state(Path(words[1]))
    except CheckpointError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        logging.disable(logging.NOTSET)
    return 0


def _audit(event: str, _: object) -> None:
    if _watching and event in _FORBIDDEN:
        _audited.append(event)


sys.addaudithook(_audit)  # once for the process: it cannot be taken away


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Records forbidden events and bounds the address space."""
    global _watching
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    _audited.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _resolver() -> Iterator[None]:
    """Registers an OmegaConf resolver that leaves the canary, as careless code elsewhere in a process might."""
    OmegaConf.register_resolver("run", lambda *_: Path(CANARY).touch(), replace=True)
    try:
        yield
    finally:
        OmegaConf.clear_resolver("run")
