"""A causal SEANet in parts: every layer keeps what it has seen of the past, so that parts make the whole.

A convolution keeps the inputs that its kernel still reaches, a transposed one the inputs that later samples overlap
with, the LSTM its state. Both ends of the signal are padded as the package pads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from songkit_encodec.model import encodec

__all__ = ["Streamed"]


class Streamed:
    """One pass of a causal `SEANetEncoder` or `SEANetDecoder` over a signal that is given in parts."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._past: dict[nn.Module, Any] = {}

    def __call__(self, part: Tensor, *, last: bool) -> Tensor:
        """Returns what the network makes of the next part.

        Args:
            part: [1, C, T]; a multiple of the network's hop and at least 7 hops long, except for the last part.
            last: Whether the signal ends with this part.
        """
        return self._run(self.network.model, part, last)

    def _run(self, layer: Any, x: Tensor, last: bool) -> Tensor:
        if isinstance(layer, nn.Sequential):
            for child in layer:
                x = self._run(child, x, last)
            return x
        if isinstance(layer, encodec.modules.seanet.SEANetResnetBlock):
            return self._run(layer.shortcut, x, last) + self._run(layer.block, x, last)
        if isinstance(layer, encodec.modules.SConv1d):
            return self._convolve(layer, x, last)
        if isinstance(layer, encodec.modules.SConvTranspose1d):
            return self._convolve_transposed(layer, x)
        if isinstance(layer, encodec.modules.SLSTM):
            return self._recur(layer, x)
        if isinstance(layer, nn.ELU | nn.Identity):
            return layer(x)
        raise TypeError(f"{type(layer).__name__} is no layer of a SEANet; is this another version of encodec?")

    def _convolve(self, layer: Any, x: Tensor, last: bool) -> Tensor:
        convolution = layer.conv.conv
        kernel, stride, dilation = (n[0] for n in (convolution.kernel_size, convolution.stride, convolution.dilation))
        reach = (kernel - 1) * dilation - (stride - 1)
        missing = -x.shape[-1] % stride if last else 0
        if layer in self._past:
            x = torch.cat([self._past[layer], x], -1)
            x = encodec.modules.conv.pad1d(x, (0, missing), layer.pad_mode)
        else:
            x = encodec.modules.conv.pad1d(x, (reach, missing), layer.pad_mode)
        self._past[layer] = x[..., x.shape[-1] - reach :].clone()  # a view would keep the whole part in memory
        return layer.conv(x)

    def _convolve_transposed(self, layer: Any, x: Tensor) -> Tensor:
        convolution = layer.convtr.convtr
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        made = x.shape[-1] * stride
        overlapping = -(-kernel // stride) - 1  # earlier inputs that reach into this part's samples
        known = self._past.get(layer)
        before = 0
        if known is not None:
            before = known.shape[-1]
            x = torch.cat([known, x], -1)
        self._past[layer] = x[..., max(0, x.shape[-1] - overlapping) :].clone()
        return layer.convtr(x)[..., before * stride : before * stride + made]

    def _recur(self, layer: Any, x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)
        y, self._past[layer] = layer.lstm(x, self._past.get(layer))
        return (y + x if layer.skip else y).permute(1, 2, 0)
