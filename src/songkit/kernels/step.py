"""One step of a whole tower by the native library, where all of its layers are packed for it."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from songkit.kernels.linear import KINDS, PackedLinear
from songkit.kernels.native import library

__all__ = ["NativeTower"]

_LINEARS = ("qkv", "proj", "gate_up", "down")


class NativeTower:
    """The addresses of a tower's weights, as `songkit_step` wants them."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.RMSNorm, heads: int) -> None:
        """Takes the layers of a `Transformer` for which `fits` is true, and its final norm."""
        norms = [*(layer.get_submodule(name) for layer in layers for name in ("norm1", "norm2")), norm]
        self._gains = torch.stack([_gains(one) for one in norms])  # [2 * layers + 1, D]
        fields = []
        for number, layer in enumerate(layers):
            fields += [self._gains[2 * number + which].data_ptr() for which in (0, 1)]
            for name in _LINEARS:
                linear = layer.get_submodule(name)
                assert isinstance(linear, PackedLinear)
                fields += linear.description()
        self.address = fields[2]
        """Of the first layer's weights: a copy of the tower, or one that was moved, has others."""
        self._layers, self._count, self._heads = torch.tensor(fields), len(layers), heads
        self._eps = float(norm.eps or 0.0)

    @staticmethod
    def fits(layers: Sequence[nn.Module], heads: int) -> bool:
        """Whether every linear layer is packed for the native library, and heads have a multiple of 16 numbers."""
        linears = [layer.get_submodule(name) for layer in layers for name in _LINEARS]
        packed = [one for one in linears if isinstance(one, PackedLinear) and one.way == "native"]
        return len(packed) == len(linears) and packed[0].in_features // heads % 16 == 0

    def __call__(self, x: Tensor, rows: Sequence[Sequence[int]], turn: Tensor, cache: torch.dtype) -> Tensor:
        """Moves rows on by a step.

        Args:
            x: float32 [R, D].
            rows: For each row where it stands in its song's cache: the fields of `Row` in cpp/attention.h.
            turn: float32 [P, D / H]: cosines, then sines, of every position that may occur.
            cache: Type of keys and values: float32, bfloat16 or int8.

        Returns:
            Final states float32 [R, D].
        """
        native = library()
        assert native is not None
        x, where = x.contiguous(), (ctypes.c_int64 * (len(rows) * len(rows[0])))(*itertools.chain(*rows))
        out = torch.empty_like(x)
        native.songkit_step(
            *(
                self._layers.data_ptr(),
                self._count,
                self._gains[-1].data_ptr(),
                self._eps,
                self._heads,
                turn.data_ptr(),
            ),
            *(where, KINDS[cache], x.data_ptr(), out.data_ptr(), len(x), torch.get_num_threads()),
        )
        return out


def _gains(norm: nn.Module) -> Tensor:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    return weight.detach().float()
