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

from songkit.kernels.memory import Room
from songkit.kernels.native import library
from songkit.sampling import guide

__all__ = ["BLOCK", "FEW", "KINDS", "PackedLinear", "Precision", "linear_rows", "pack"]

Precision = Literal["fp32", "bf16", "int8"]
Way = Literal["native", "onednn", "plain"]

BLOCK = 8
"""Rows that the ways without a native kernel multiply at once."""

FEW = 64
"""Most rows that are multiplied so: with more, as in a prefix, it is not reading the weights that takes time."""

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""How the native library calls the types of weights, and of keys and values."""

_BAND = 64
_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


class PackedLinear(nn.Module):
    """A linear layer for inference, in place of an `nn.Linear`."""

    packed: Tensor
    bias: Tensor | None
    scales: Tensor | None
    """float32 [O] of int8 weights."""
    sums: Tensor | None
    """int32 [O] of int8 weights, over their inputs."""

    def __init__(
        self, layer: nn.Linear, precision: Precision, way: Way | None = None, room: Room | None = None
    ) -> None:
        """Packs a layer; its own weights may be dropped afterwards.

        Args:
            layer: Whose number of inputs is a multiple of 4.
            precision: Of weights and inputs; sums are float32. int8 weights have a scale for each output, whose largest
                weight is 127; their inputs keep 16 bits.
            way: How products of few rows are made; the best there is by default.
            room: Where the weights of the native way are put.
        """
        super().__init__()
        self.in_features, self.out_features, self.precision = layer.in_features, layer.out_features, precision
        self.way: Way = way or _best_way()
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
            weight = _bands(weight) if room is None else room.put(_bands(weight))
        self.register_buffer("packed", weight, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("sums", sums, persistent=False)
        bias: Tensor | None = layer.bias
        self.register_buffer("bias", None if bias is None else _whole(bias.detach().float()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies inputs [..., K] to outputs [..., O], of the inputs' dtype."""
        return self.rows(x, 0, self.out_features)

    def rows(self, x: Tensor, start: int, stop: int, guidance: float = 1.0) -> Tensor:
        """Returns the outputs `start` to `stop` [..., stop - start] of inputs [..., K].

        Args:
            x: [N, 2, K] of branches with conditions and without, where there is guidance.
            start: The first output.
            stop: Where they end.
            guidance: With one other than 1, the outputs are float32 [N, stop - start], those of `guide`.

        Raises:
            RuntimeError: If the inputs want gradients: there are none for what is packed.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "a model that is packed for decoding, as SongModel.load returns it, cannot be trained. Build it with "
                "songkit.build.build_roles instead, or call it under torch.no_grad()."
            )
        if self.way == "native" and x.numel() <= FEW * self.in_features and x.device.type == "cpu":
            out = self._native(x, start, stop, guidance)
            return out.to(x.dtype) if guidance == 1 else out[:, 0]
        flat = x.reshape(-1, self.in_features)
        if len(flat) > FEW or x.device.type != "cpu":
            out = functional.linear(flat.to(self.dtype), self._plain()[start:stop])
        else:
            out = self._blocks(flat.to(self.dtype), start, stop)
        if self.bias is not None:
            out = out + self.bias[start:stop]
        return _guided(out.to(x.dtype).unflatten(0, x.shape[:-1]), guidance)

    @property
    def weight(self) -> Tensor:
        """The weights, float32 [O, K], put together anew: not for every step."""
        return self._plain().float()

    def description(self, start: int = 0, stop: int | None = None) -> list[int]:
        """Returns the fields of the native library's `Linear`, of outputs from the start of a band on."""
        bands, skipped = start // _BAND, start * 4
        weights = self.packed.data_ptr() + bands * self.packed.stride(0) * self.packed.element_size()
        beside = [0 if one is None else one.data_ptr() + skipped for one in (self.scales, self.sums, self.bias)]
        outputs = (self.out_features if stop is None else stop) - start
        return [weights, *beside, KINDS[self.packed.dtype], self.in_features, outputs]

    def _plain(self) -> Tensor:
        """The weights [O, K] as they are multiplied with many rows."""
        if self.way == "native":
            weight = _unbanded(self.packed, self.out_features)
            if self.scales is not None:
                weight = (weight.float() * self.scales[: self.out_features, None]).to(self.dtype)
            return weight
        return self.packed.to_dense() if self.packed.is_mkldnn else self.packed

    def _native(self, x: Tensor, start: int, stop: int, guidance: float) -> Tensor:
        native, first = library(), start // _BAND * _BAND
        assert native is not None
        described = (ctypes.c_int64 * 7)(*self.description(first, stop))
        x, count = x.float().contiguous(), x.numel() // self.in_features
        out = x.new_empty((*x.shape[:-1], stop - first))
        native.songkit_linear(described, x.data_ptr(), out.data_ptr(), count, guidance, torch.get_num_threads())
        return out if first == start else out[..., start - first :]

    def _blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, -len(x) % BLOCK))
        if self.way == "onednn":
            linear = torch.ops.mkldnn._linear_pointwise
            outs = [linear(part, self.packed, None, "none", [], "")[:, start:stop] for part in padded.split(BLOCK)]
        else:
            outs = [functional.linear(part, self.packed[start:stop]) for part in padded.split(BLOCK)]
        return torch.cat(outs)[: len(x)]


def linear_rows(layer: nn.Module, x: Tensor, rows: slice | None = None, guidance: float = 1.0) -> Tensor:
    """Returns some or all outputs of a layer without bias, packed or not; see `PackedLinear.rows`."""
    if isinstance(layer, PackedLinear):
        start, stop = (rows.start, rows.stop) if rows else (0, layer.out_features)
        return layer.rows(x, start, stop, guidance)
    if rows is None:
        return _guided(layer(x), guidance)
    assert isinstance(layer, nn.Linear)
    return _guided(functional.linear(x, layer.weight[rows]), guidance)


def pack(module: nn.Module, precision: Precision, way: Way | None = None) -> None:
    """Puts a `PackedLinear` in the place of every linear layer inside a module, one after the other.

    Layers whose number of inputs is no multiple of 4 stay as they are. The module cannot be trained or saved any more.
    """
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.in_features % 4 == 0
    ]
    way = way or _best_way()
    room = Room(sum(Room.needs(_bytes(child, precision)) for _, _, child in found)) if way == "native" else None
    while found:  # and so the layers' own weights are dropped one by one
        parent, name, child = found.pop(0)
        setattr(parent, name, PackedLinear(child, precision, way, room))


def _guided(out: Tensor, guidance: float) -> Tensor:
    return out if guidance == 1 else guide(out[:, 0].float(), out[:, 1].float(), guidance)


def _bytes(layer: nn.Linear, precision: Precision) -> int:
    """How much packed weights take."""
    return -(-layer.out_features // _BAND) * _BAND * layer.in_features * _BYTES[precision]


def _best_way() -> Way:
    return "native" if library() is not None else "onednn" if _has_onednn() else "plain"


def _has_onednn() -> bool:
    """Whether this torch has the private operators for packed weights."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _whole(outputs: Tensor) -> Tensor:
    """Fills up [O, ...] to whole bands."""
    return functional.pad(outputs, (0, 0) * (outputs.dim() - 1) + (0, -len(outputs) % _BAND))


def _bands(weight: Tensor) -> Tensor:
    """Puts weights [O, K] into bands of 64 outputs, [O / 64, K / STEP, 64, STEP], as the native library wants them.

    A step has four bytes whatever the type, and is moved as one number: faster than as two or four.
    """
    steps = _whole(weight).contiguous().view(torch.int32).unflatten(0, (-1, _BAND))  # [O / 64, 64, K / STEP]
    return steps.transpose(1, 2).contiguous().view(weight.dtype).unflatten(2, (_BAND, -1))


def _unbanded(bands: Tensor, outputs: int) -> Tensor:
    """Undoes `_bands`."""
    steps = bands.flatten(2).view(torch.int32).transpose(1, 2).contiguous()
    return steps.view(bands.dtype).flatten(0, 1)[:outputs]
