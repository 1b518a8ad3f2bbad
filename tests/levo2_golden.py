"""Parity data for the released LeVo layouts: outputs of the released implementation on tiny configurations.

The weights behind them are stand-ins whose values depend on a tensor's name alone, so that a folder holds only inputs
and outputs: `config.json` the sizes, `shapes.json` the names and shapes, `golden.npz` the numbers.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "data" / "levo2"


@dataclass(frozen=True)
class Golden:
    """One folder of parity data."""

    config: dict[str, Any]
    shapes: dict[str, list[int]]
    numbers: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: Path) -> Golden:
        """Reads a folder."""
        with np.load(folder / "golden.npz") as file:
            numbers = {name: torch.from_numpy(file[name]) for name in file}
        config, shapes = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "shapes"))
        return cls(config, shapes, numbers)

    def codec_weights(self) -> Mapping[str, torch.Tensor]:
        """Returns the stand-in weights of codec parts by their released names; each is made when it is read."""
        return _StandIns(self.shapes)


class _StandIns(Mapping[str, torch.Tensor]):
    def __init__(self, shapes: Mapping[str, list[int]]) -> None:
        self.shapes = shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(codec_stand_in(name, tuple(self.shapes[name])))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def codec_stand_in(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one float32 tensor of the music codec, a function of its name."""
    z = np.asarray(_normal(name, shape), np.float32)
    if name.endswith("running_var"):
        return 1.0 + 0.1 * np.abs(z)
    if name.endswith(("bias", "running_mean", "alpha", "beta")):
        return 0.1 * z
    if name.endswith(("weight_g", "original0")):
        return 1.0 + 0.1 * z
    if any(part in name for part in ("norm.weight", ".bn", ".ln_")) and name.endswith("weight"):
        return 1.0 + 0.1 * z
    if name.endswith(("weight_v", "original1", "codebook.weight", "mask_emb.weight", "zero_cond_embedding1")):
        return z
    if any(part in name for part in ("scale_shift_table", "wpe", "cls_token", "wte")):
        return 0.1 * z
    if any(part in name for part in ("c_attn", "c_proj", "c_fc")):  # stored as [in, out]
        return z / np.float32(np.sqrt(shape[0]))
    gain = 0.5 if "adaln_single.linear" in name else 1.0
    return np.asarray(np.float32(gain / np.sqrt(max(1, int(np.prod(shape[1:]))))) * z)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # NumPy's legacy stream is frozen: these values never change.
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
