"""Keeps a second process out of a folder that one is writing to."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from songkit.errors import OutputError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(root: Path, command: str) -> Iterator[None]:
    """Holds a folder, which is made if need be; the lock ends with the process, however it ends.

    The file of the lock is removed at the end, and so is a folder that was made here and that nothing was put into.

    Args:
        root: The folder.
        command: What writes there, for the message to the second.

    Raises:
        OutputError: If the folder cannot be written, or another process holds it.
    """
    path, made = root / ".lock", not root.exists()
    handle = _lock(path, command)
    while not _is_at(path, handle):  # its holder removed it after it was opened here: it keeps nobody out
        handle.close()
        handle = _lock(path, command)
    with handle:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what is left of a lock keeps nobody out, and errors within come first
                if _is_at(path, handle):
                    path.unlink()
                if made:
                    root.rmdir()  # does nothing to a folder that holds something


def _lock(path: Path, command: str) -> IO[str]:
    root = path.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise OutputError(f"cannot write to {root} ({error}). Choose another folder with --out.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise OutputError(
            f"another '{command}' is writing to {root}. Wait for it, or choose another folder with --out."
        ) from error
    return handle


def _is_at(path: Path, handle: IO[str]) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
