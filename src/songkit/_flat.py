"""Flat files of numbers, memory-mapped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from songkit.errors import LayoutError

__all__ = ["FlatFile"]


class FlatFile:
    """A one-dimensional read-only memory map, opened at first use, and pickled as its path."""

    def __init__(self, path: Path, dtype: str, length: int, remedy: str) -> None:
        """Checks that the file is as long as its index says.

        Args:
            path: The file.
            dtype: Of its numbers, such as `<i2`.
            length: How many numbers it holds.
            remedy: The next step if it does not, as a sentence.

        Raises:
            LayoutError: The file is missing, or has another length.
        """
        self.path, self.dtype, self.length = path, dtype, length
        size = path.stat().st_size if path.is_file() else -1
        expected = length * np.dtype(dtype).itemsize
        if size != expected:
            found = "is missing" if size < 0 else f"has {size} bytes"
            raise LayoutError(f"{path} {found}, its index says {expected} bytes: it is damaged. {remedy}")

    @functools.cached_property
    def array(self) -> np.ndarray:
        """The numbers [N]."""
        if self.length == 0:
            return np.zeros(0, self.dtype)
        # A plain array over the map: slicing a np.memmap costs ten times as much.
        return np.asarray(np.memmap(self.path, self.dtype, "r"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "array"}
