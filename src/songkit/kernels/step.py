"""One step of a whole tower by the native library, where all of its layers are packed for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from songkit.kernels.linear import PackedLinear
from songkit.kernels.native import library

__all__ = ["NativeTower"]

_LINEARS = ("qkv", "proj", "gate_up", "down")


class NativeTower:
    """The addresses of a tower's weights, as `songkit_step` wants them."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.RMSNorm, heads: int) -> None:
        """Takes the layers of a `Transformer` for which `fits` is true, and its final norm."""
        fields = []
        for layer in layers:
            norms = [layer.get_submodule(name) for name in ("norm1", "norm2")]
            fields += [_gains(one) for one in norms]
            for name in _LINEARS:
                linear = layer.get_submodule(name)
                assert isinstance(linear, PackedLinear)
                fields += linear.description()
        self.address = fields[2]
        """Of the first layer's weights: a copy of the tower, or one that was moved, has others."""
        self._layers, self._count, self._heads = torch.tensor(fields), len(layers), heads
        self._norm, self._eps = _gains(norm), float(norm.eps or 0.0)

    @staticmethod
    def fits(layers: Sequence[nn.Module]) -> bool:
        """Whether every linear layer is packed for the native library."""
        linears = [layer.get_submodule(name) for layer in layers for name in _LINEARS]
        return all(isinstance(one, PackedLinear) and one.way == "native" for one in linears)

    def __call__(self, x: Tensor, rows: Sequence[Sequence[int]], turn: Tensor, *, wide: bool) -> Tensor:
        """Moves rows on by a step.

        Args:
            x: float32 [R, D].
            rows: For each row where it stands in its song's cache: the fields of `Row` in native.cpp.
            turn: float32 [P, D / H]: cosines, then sines, of every position that may occur.
            wide: Whether caches are float32, not bfloat16.

        Returns:
            Final states float32 [R, D].
        """
        native = library()
        assert native is not None
        x, where = x.clone(memory_format=torch.contiguous_format), torch.tensor(rows)
        out = torch.empty_like(x)
        native.songkit_step(
            *(self._layers.data_ptr(), self._count, self._norm, self._eps, self._heads, turn.data_ptr()),
            *(where.data_ptr(), int(wide), x.data_ptr(), out.data_ptr(), len(x), torch.get_num_threads()),
        )
        return out


def _gains(norm: nn.Module) -> int:
    weight = norm.weight
    assert isinstance(weight, Tensor)
    assert weight.dtype == torch.float32
    return weight.data_ptr()
