"""A released LeLM checkpoint of stand-in weights at the sizes of parity data, and the recipe of these sizes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from levo2_golden import Golden

_ZERO_ROWS = {
    "description.output_proj.weight": 151643,
    "type_info.output_proj.weight": 151643,
    "description.structure_emb.weight": 0,
    **{f"prompt_audio.emb.{k}.weight": 16385 for k in range(3)},
}
"""Rows that the released model keeps at zero, by the end of the tensor's name."""


def write_checkpoint(path: Path, golden: Golden) -> None:
    """Writes a checkpoint as it is released."""
    torch.save(
        {f"audiolm.{name}": torch.from_numpy(_stand_in(name, tuple(shape))) for name, shape in golden.shapes.items()},
        path,
    )


def write_recipe(path: Path, sizes: Mapping[str, Any], **variables: Any) -> None:
    """Writes a recipe of the sizes in a `config.json`."""
    values = {
        "width": sizes["dim"],
        "feed_forward": sizes["ffn"],
        "heads": sizes["heads"],
        "layers": sizes["planner_layers"],
        "refiner_layers": sizes["refiner_layers"],
        "rope_base": sizes["planner_rope_theta"],
        "delay": sizes["delays"][1],
        "tiers": "true" if sizes["version"] == "v2" else "false",
        "lyrics_length": sizes["lyrics_max"],
        "style_length": sizes["description_max"],
        **variables,
    }
    path.write_text(
        "format: 1\ndefaults: [levo2/released/_lelm]\n"
        f"vars: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}\n"
        f"conditioner: {{prompt_seconds: {sizes['prompt_seconds']}}}\n"
        f"refiner: {{tower: {{rope_base: {sizes['refiner_rope_theta']}}}}}\n"
    )


def _stand_in(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one float32 tensor, a function of its name without `audiolm.`."""
    # NumPy's legacy stream is frozen: these values never change.
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if "norm" in name and name.endswith("weight"):
        return 1.0 + 0.1 * z
    if name.endswith("bias"):
        return 0.1 * z
    if name.startswith("emb.") or any(part in name for part in ("_emb", ".emb.", "output_proj", "embed_tokens")):
        table = 0.5 * z
        for ending, row in _ZERO_ROWS.items():
            if name.endswith(ending):
                table[row] = 0.0
        return table
    scale = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
    return (scale / np.sqrt(shape[-1])).astype(np.float32) * z
