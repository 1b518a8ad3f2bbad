"""Memory in large pages, where the system has them.

In pages of 4 kB, every 64 lines of 64 bytes begin with a search for the page, which the processor does not foresee:
attention over a cache takes a third longer so.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Room", "large"]

_LINE = 64


def large(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns zeros on the CPU, whose memory is given back as soon as the tensor is gone."""
    if 0 in shape:  # a model without linear layers packs nothing, and there is no map of no bytes
        return torch.zeros(*shape, dtype=dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that was built without large pages: slower, nothing else
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype, count=math.prod(shape)).view(*shape)


class Room:
    """One piece of such memory for many tensors, most of which are smaller than a page."""

    def __init__(self, size: int) -> None:
        """Makes room for so many bytes, those of tensors rounded up to `Room.needs`."""
        self._bytes, self._used = large([size], torch.uint8), 0

    @staticmethod
    def needs(size: int) -> int:
        """Returns how much room a tensor of so many bytes takes: it starts on a cache line."""
        return -(-size // _LINE) * _LINE

    def put(self, tensor: Tensor) -> Tensor:
        """Returns a copy of a tensor that lies here."""
        start, self._used = self._used, self._used + self.needs(tensor.nbytes)
        return self._bytes[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
