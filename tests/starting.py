"""What workers of a test do as they begin; in a module that a new process can import."""

from __future__ import annotations

import os
import signal

from songkit.errors import LayoutError


def begin(how: str) -> None:
    if how == "wrong":
        raise LayoutError("there is no such folder")
    if how == "defect":
        raise ValueError("not expected")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def work(number: int) -> int:
    return number + 1
