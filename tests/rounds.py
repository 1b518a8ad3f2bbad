"""A model of the conformance kit's tiny parts that sings and can be trained on pairs: a local plugin for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from songkit.checkpoint import save_weights
from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.patterns import parallel
from songkit.plugin import Component, hookimpl
from songkit.stream_planner import StreamPlanner
from songkit.testing.standins import ModelConfig, TinyCodec, TinyConditioner

SIZES: dict[str, list[int]] = {"mix": [], "vocal": [16], "accompaniment": [16]}


def planner(config: ModelConfig) -> StreamPlanner:
    """Plans both stems, so that there is no refiner."""
    tower = Transformer(TransformerConfig(dim=16, layers=1, heads=2, feed_forward=32))
    return StreamPlanner(config.layout, parallel(2), tower)


PARTS: dict[str, Any] = {"conditioner": TinyConditioner, "planner": planner, "codec": TinyCodec}


@hookimpl
def songkit_components() -> list[Component]:
    """Returns one component for each role."""
    names = {"conditioner": "TinyConditioner", "planner": "planner", "codec": "TinyCodec"}
    example = ModelConfig(sizes=SIZES)
    return [
        Component(kind=kind, name="tiny", config=ModelConfig, factory=f"{__name__}:{name}", example=example)
        for kind, name in names.items()
    ]


def write_model(folder: Path) -> str:
    """Writes the weights of a model; returns its part of a recipe."""
    torch.manual_seed(0)
    text = ""
    for role, make in PARTS.items():
        path = folder / f"{role}.safetensors"
        save_weights(path, make(ModelConfig(sizes=SIZES)), {"component": "local/tiny", "revision": 1})
        text += f"{role}: {{use: local/tiny, weights: {path}, sizes: {{mix: [], vocal: [16], accompaniment: [16]}}}}\n"
    return text
