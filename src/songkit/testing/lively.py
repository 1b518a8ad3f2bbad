"""Weights at which faults show."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["lively"]

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def lively(module: Module) -> Module:
    """Returns a model whose fresh weights have been made as large as trained ones.

    Laws hold for any weights, but models begin with small ones (GPT-2: 0.02, or zero on residual branches), at which
    a position that sees another one changes nothing beyond rounding.
    """
    generator = torch.Generator().manual_seed(0)
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for parameter in module.parameters():
        if parameter.dim() < 2:
            continue
        wanted = 1.0 if id(parameter) in embeddings else parameter[0].numel() ** -0.5
        found = float(parameter.std())
        if found > 0:
            parameter.mul_(wanted / found)
        else:
            parameter.copy_(wanted * torch.randn(parameter.shape, generator=generator))
    return module
