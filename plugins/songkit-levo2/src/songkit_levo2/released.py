"""Released LeLM checkpoints: which tensor goes where, as data.

Names and shapes are those of `model.pt` of tencent-ailab/SongGeneration at b1b03ec. A table of ids holds 16384 codes,
then the end of song, then "no frame"; ours has "no frame" right behind the codes (`songkit.stream_planner`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["DEAD", "NAMES", "PARTS", "Entry", "entries", "released_shapes"]

NAMES = ("base", "base-new", "base-full", "large", "v2-medium", "v2-large")
"""The released checkpoints; `levo2/released/<name>` is the recipe of each."""

PARTS = ("conditioner", "planner", "refiner")

DEAD = {
    "layer2_emb.0.weight": "never read: the refiner has no mixed stream",
    "transformer.model.embed_tokens.weight": "never read: the tower is given embeddings",
    "transformer2.model.embed_tokens.weight": "never read: the tower is given embeddings",
    "transformer2.lm_head.weight": "never read: each track has a head of its own",
    "out_norm.weight": "never read",
    "out_norm.bias": "never read",
}
"""Tensors without a use, with the reason."""


@dataclass(frozen=True)
class Entry:
    """A tensor of one of our parts and what it is made of."""

    part: str
    name: str
    sources: tuple[str, ...]
    """Released tensors, one below the other."""
    rows: Literal["all", "codes, none, end", "codes, none"] = "all"
    """Which rows of the source are taken, and in which order."""

    def of(self, state: Mapping[str, Tensor]) -> Tensor:
        """Returns the tensor, from a checkpoint."""
        joined = torch.cat([state[name] for name in self.sources]) if len(self.sources) > 1 else state[self.sources[0]]
        if self.rows == "all":
            return joined
        codes, end, none = joined.split([len(joined) - 2, 1, 1])
        return torch.cat([codes, none, end] if self.rows == "codes, none, end" else [codes, none])


_CONDITIONS = "condition_provider.conditioners"
_FIXED = (
    Entry("conditioner", "lyrics.weight", (f"{_CONDITIONS}.description.output_proj.weight",)),
    Entry("conditioner", "structure.weight", (f"{_CONDITIONS}.description.structure_emb.weight",)),
    Entry("conditioner", "style.weight", (f"{_CONDITIONS}.type_info.output_proj.weight",)),
    Entry("conditioner", "before_prompt.planner", (f"{_CONDITIONS}.prompt_audio.EOT_emb",)),
    Entry("conditioner", "before_prompt.refiner", (f"{_CONDITIONS}.prompt_audio.layer2_EOT_emb",)),
    Entry("conditioner", "prompts.planner.0.weight", (f"{_CONDITIONS}.prompt_audio.emb.0.weight",)),
    Entry("conditioner", "prompts.refiner.0.weight", (f"{_CONDITIONS}.prompt_audio.emb.1.weight",)),
    Entry("conditioner", "prompts.refiner.1.weight", (f"{_CONDITIONS}.prompt_audio.emb.2.weight",)),
    Entry("planner", "embed.weight", ("emb.0.weight",), "codes, none, end"),
    Entry("planner", "head.weight", ("transformer.lm_head.weight",)),
    Entry("planner", "tower.norm.weight", ("transformer.model.norm.weight",)),
    Entry("refiner", "embeds.0.weight", ("layer2_emb.1.weight",), "codes, none"),
    Entry("refiner", "embeds.1.weight", ("layer2_emb.2.weight",), "codes, none"),
    Entry("refiner", "heads.0.weight", ("linears.0.weight",)),
    Entry("refiner", "heads.1.weight", ("linears.1.weight",)),
    Entry("refiner", "bridge.0.weight", ("mlp.0.weight",)),
    Entry("refiner", "bridge.0.bias", ("mlp.0.bias",)),
    Entry("refiner", "bridge.2.weight", ("mlp.2.weight",)),
    Entry("refiner", "bridge.2.bias", ("mlp.2.bias",)),
    Entry("refiner", "tower.norm.weight", ("transformer2.model.norm.weight",)),
)
_LAYER = {
    "norm1": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "proj": ("self_attn.o_proj",),
    "norm2": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_TOWERS = {"planner": "transformer", "refiner": "transformer2"}


def entries(layers: Mapping[str, int]) -> Iterator[Entry]:
    """Yields an entry for every tensor of our parts.

    Args:
        layers: Of the towers of planner and refiner.
    """
    yield from _FIXED
    for part, tower in _TOWERS.items():
        for i in range(layers[part]):
            for name, sources in _LAYER.items():
                released = tuple(f"{tower}.model.layers.{i}.{source}.weight" for source in sources)
                yield Entry(part, f"tower.layers.{i}.{name}.weight", released)


def released_shapes(entry: Entry, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of an entry's sources, of that of our tensor."""
    rows = shape[0] + (entry.rows == "codes, none")
    return {name: (rows // len(entry.sources), *shape[1:]) for name in entry.sources}
