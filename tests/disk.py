"""A disk without room, for tests of what is said then, what is kept, and how it goes on."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

__all__ = ["fill", "fill_later", "told"]


def fill(path: Path) -> None:
    """Leaves no room for a file: the next time that `songkit.atomic` writes it, the system itself refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.{os.getpid()}.partial").symlink_to("/dev/full")


def fill_later(monkeypatch: pytest.MonkeyPatch, path: Path, writes: int) -> None:
    """Leaves room for some more writes to a file that grows; of the one after them the last byte does not fit."""
    sync, left = os.fsync, iter(range(writes))

    def full(handle: int) -> None:
        opened = os.fstat(handle)
        if path.exists() and os.path.samestat(opened, path.stat()) and next(left, None) is None:
            os.ftruncate(handle, opened.st_size - 1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)


def told(path: Path) -> str:
    """Returns a pattern of what has to be said: the file, the reason, the next step."""
    return rf"cannot write (to )?{re.escape(str(path))}: No space left on device\..* run the (same )?command again"
