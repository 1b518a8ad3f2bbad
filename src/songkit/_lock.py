"""Keeps a second process out of a folder that one is writing to."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from songkit.errors import OutputError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(root: Path, command: str) -> Iterator[None]:
    """Holds a folder, which is made if need be; the lock ends with the process, however it ends.

    Args:
        root: The folder.
        command: What writes there, for the message to the second.

    Raises:
        OutputError: If the folder cannot be written, or another process holds it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"cannot write to {root} ({error}). Choose another folder with --out.") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"another '{command}' is writing to {root}. Wait for it, or choose another folder with --out."
            ) from error
        yield
