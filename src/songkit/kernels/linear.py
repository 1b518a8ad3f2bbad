"""Linear layers whose weights are packed for decoding: a few rows at a time, at the speed of memory.

Three ways that agree: the native kernel, oneDNN's packed weights (private operators of torch), and `functional.linear`.
A row's outputs never depend on the other rows: the native kernel sums each by itself, the others get blocks of `BLOCK`
rows, filled up with zeros, so that they always run in the same shape.
"""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.kernels.native import library

__all__ = ["BLOCK", "FEW", "KINDS", "PackedLinear", "Precision", "linear_rows", "pack"]

Precision = Literal["fp32", "bf16", "int8"]
Way = Literal["native", "onednn", "plain"]

BLOCK = 8
"""Rows that the ways without a native kernel multiply at once."""

FEW = 64
"""Most rows that are multiplied so: with more, as in a prefix, it is not reading the weights that takes time."""

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""How native.cpp calls the types of weights, and of keys and values."""

_STEPS = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}
_TILE = 16


class PackedLinear(nn.Module):
    """A linear layer for inference, in place of an `nn.Linear`."""

    packed: Tensor
    bias: Tensor | None
    scales: Tensor | None
    """float32 [O] of int8 weights."""
    sums: Tensor | None
    """int32 [O] of int8 weights, over their inputs."""

    def __init__(self, layer: nn.Linear, precision: Precision, way: Way | None = None) -> None:
        """Packs a layer; its own weights may be dropped afterwards.

        Args:
            layer: Whose number of inputs is a multiple of 4.
            precision: Of weights and inputs; sums are float32. int8 weights have a scale for each output, whose largest
                weight is 127; their inputs keep 16 bits.
            way: How products of few rows are made; the best there is by default.
        """
        super().__init__()
        self.in_features, self.out_features, self.precision = layer.in_features, layer.out_features, precision
        self.way: Way = way or ("native" if library() is not None else "onednn" if _has_onednn() else "plain")
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        weight, scales, sums = layer.weight.detach(), None, None
        if precision == "int8":
            scales = (weight.float().abs().amax(1) / 127).clamp(min=1e-12)
            weight = (weight.float() / scales[:, None]).round().to(torch.int8)
        else:
            weight = weight.to(self.dtype)
        if scales is not None and self.way != "native":
            weight, scales = (weight.float() * scales[:, None]).to(self.dtype), None  # the same numbers, no faster
        if self.way == "onednn":
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, BLOCK)
        if scales is not None:
            scales, sums = _whole(scales), _whole(weight.sum(1, dtype=torch.int32))
        if self.way == "native":
            weight = _tiles(weight)
        self.register_buffer("packed", weight, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("sums", sums, persistent=False)
        bias: Tensor | None = layer.bias
        self.register_buffer("bias", None if bias is None else bias.detach().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies inputs [..., K] to outputs [..., O], of the inputs' dtype."""
        return self.rows(x, 0, self.out_features)

    def rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Returns the outputs `start` to `stop` [..., stop - start] of inputs [..., K].

        Raises:
            RuntimeError: If the inputs want gradients: there are none for what is packed.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "a model that is packed for decoding, as SongModel.load returns it, cannot be trained. Build it with "
                "songkit.build.build_roles instead, or call it under torch.no_grad()."
            )
        flat = x.reshape(-1, self.in_features)
        if len(flat) > FEW or x.device.type != "cpu":
            out = functional.linear(flat.to(self.dtype), self._plain()[start:stop])
        elif self.way == "native":
            out = self._native(flat, start, stop)
        else:
            out = self._blocks(flat.to(self.dtype), start, stop)
        if self.bias is not None:
            out = out + self.bias[start:stop]
        return out.to(x.dtype).view(*x.shape[:-1], stop - start)

    @property
    def weight(self) -> Tensor:
        """The weights, float32 [O, K], put together anew: not for every step."""
        return self._plain().float()

    def description(self, first_tile: int = 0) -> list[int]:
        """Returns the fields of the native library's `Linear`, from one of its tiles of 16 outputs on."""
        first = first_tile * _TILE
        scales, sums = (0 if one is None else one[first:].data_ptr() for one in (self.scales, self.sums))
        kind, outputs = KINDS[self.packed.dtype], self.out_features - first
        return [self.packed[first_tile:].data_ptr(), scales, sums, kind, self.in_features, outputs]

    def _plain(self) -> Tensor:
        """The weights [O, K] as they are multiplied with many rows."""
        if self.way == "native":
            weight = _untiled(self.packed, self.out_features)
            if self.scales is not None:
                weight = (weight.float() * self.scales[: self.out_features, None]).to(self.dtype)
            return weight
        return self.packed.to_dense() if self.packed.is_mkldnn else self.packed

    def _native(self, x: Tensor, start: int, stop: int) -> Tensor:
        native, first = library(), start // _TILE
        assert native is not None
        described = (ctypes.c_int64 * 6)(*self.description(first)[:-1], stop - first * _TILE)
        x = x.float().contiguous()
        out = x.new_empty(len(x), stop - first * _TILE)
        native.songkit_linear(described, x.data_ptr(), out.data_ptr(), len(x), torch.get_num_threads())
        return out[:, start - first * _TILE :]

    def _blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, -len(x) % BLOCK))
        if self.way == "onednn":
            linear = torch.ops.mkldnn._linear_pointwise
            outs = [linear(part, self.packed, None, "none", [], "")[:, start:stop] for part in padded.split(BLOCK)]
        else:
            outs = [functional.linear(part, self.packed[start:stop]) for part in padded.split(BLOCK)]
        return torch.cat(outs)[: len(x)]


def linear_rows(layer: nn.Module, x: Tensor, rows: slice) -> Tensor:
    """Returns some of the outputs [..., stop - start] of a layer without bias, packed or not, of inputs [..., K]."""
    if isinstance(layer, PackedLinear):
        return layer.rows(x, rows.start, rows.stop)
    assert isinstance(layer, nn.Linear)
    return functional.linear(x, layer.weight[rows])


def pack(module: nn.Module, precision: Precision, way: Way | None = None) -> None:
    """Puts a `PackedLinear` in the place of every linear layer inside a module, one after the other.

    Layers whose number of inputs is no multiple of 4 stay as they are. The module cannot be trained or saved any more.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.in_features % 4 == 0:
                setattr(parent, name, PackedLinear(child, precision, way))


def _has_onednn() -> bool:
    """Whether this torch has the private operators for packed weights."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _whole(outputs: Tensor) -> Tensor:
    """Fills up [O, ...] to whole tiles."""
    return functional.pad(outputs, (0, 0) * (outputs.dim() - 1) + (0, -len(outputs) % _TILE))


def _tiles(weight: Tensor) -> Tensor:
    """Puts weights [O, K] into tiles of 16 outputs, [O / 16, K / STEP, 16, STEP], as native.cpp wants them."""
    weight = _whole(weight).unflatten(0, (-1, _TILE))  # [O / 16, 16, K]
    together = weight.unflatten(2, (-1, _STEPS[weight.dtype]))
    return together.transpose(1, 2).contiguous()


def _untiled(tiles: Tensor, outputs: int) -> Tensor:
    """Undoes `_tiles`."""
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)[:outputs]
