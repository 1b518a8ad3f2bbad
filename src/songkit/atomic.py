"""Files that are written whole or not at all, and that survive a crash once they are there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from songkit.errors import OutputError

__all__ = ["write_atomically"]


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], Any], *, before_rename: Callable[[Path], Any] | None = None
) -> None:
    """Writes a file so that at its name there is always either the old or the complete new content.

    Args:
        path: The file; its folder is made when it does not exist.
        write: Writes the content to an open binary file.
        before_rename: Called with the complete, still differently named file.

    Raises:
        OutputError: If the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if before_rename is not None:
            before_rename(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}. Free some space or choose another folder, then run the command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; only POSIX systems can open folders for this."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
