"""The cache of one song in a `Transformer`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from songkit.kernels import Replay, large

__all__ = ["KeyValues", "room_for"]


@dataclass
class KeyValues:
    """Keys and values of one song, and which positions count."""

    data: list[Tensor]
    """[2, G, H, room, D / H] of each layer: keys and values."""
    first: Tensor
    """int64 [G]: the first position that counts; before it stands the padding of the prefix."""
    begins: list[int]
    """The same as numbers."""
    used: int
    most: int
    """How many positions there may be."""
    scales: list[Tensor] | None = None
    """float32 [2, G, H, room] of keys and values of 8 bits."""
    replay: tuple[object, Replay] | None = None
    """On a GPU: the step of the block that this song is the first of, and which block that was."""
    located: Tensor | None = None
    """What `addresses` returned last."""

    @property
    def room(self) -> int:
        """For how many positions there is memory."""
        return self.data[0].shape[3]

    @property
    def nbytes(self) -> int:
        """How much memory keys and values take."""
        return sum(layer.nbytes for layer in self.data)

    def addresses(self) -> Tensor:
        """Returns where data and scales lie, int64 [layers] or [2 * layers]."""
        # A copy has the addresses of the first, until it asks for its own.
        if self.located is None or int(self.located[0]) != self.data[0].data_ptr():
            self.located = torch.tensor([one.data_ptr() for one in (*self.data, *(self.scales or ()))])
        return self.located

    def grow(self) -> None:
        """Makes room for half as many positions again, layer by layer.

        Large pages are taken whole as soon as they are touched: room for the longest song would all be taken at once.
        """
        room, self.located = room_for(self.used, self.most), None
        for layers in filter(None, (self.data, self.scales)):
            for i, old in enumerate(layers):
                layers[i] = large((*old.shape[:3], room, *old.shape[4:]), old.dtype)
                layers[i][:, :, :, : self.used] = old[:, :, :, : self.used]


def room_for(used: int, most: int) -> int:
    """Returns how many positions to make room for when so many are used, and so many there may be."""
    return min(most, used + used // 2 + 64)
