"""Models of the conformance kit's tiny parts that sing and can be trained on pairs: a local plugin for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from songkit.checkpoint import save_weights
from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.interfaces import Backbone, Planner
from songkit.patterns import parallel
from songkit.plugin import Component, hookimpl
from songkit.stream_planner import StreamPlanner
from songkit.testing.standins import ModelConfig, TinyCodec, TinyConditioner
from songkit.testing.tiny_language import TinyPlanner, TinyRefiner
from songkit.types import Audio, Song

STEMS: dict[str, list[int]] = {"mix": [], "vocal": [16], "accompaniment": [16]}
"""Both stems are planned, so that there is no refiner."""
TRACKS: dict[str, list[int]] = {**STEMS, "mix": [16]}
"""The mix is planned, and the refiner makes the stems of it."""
_ROWS = 34
"""Of the tables of a planner of both stems: 16 ids and an end for each."""


def planner(config: ModelConfig) -> Planner:
    """Plans the mix, or both stems where the mix has no ids."""
    if config.sizes["mix"]:
        return TinyPlanner(config)
    tower = Transformer(TransformerConfig(dim=16, layers=1, heads=2, feed_forward=32))
    return StreamPlanner(config.layout, parallel(2), tower)


class Habits(Backbone):
    """Remembers the last frame only: a policy that can learn one bad habit, in a few steps.

    `echo` is how much it likes to sing the ids of the last frame again, `taste` [D] how much it likes each id and
    the end. As long as all of them are 0, it sings everything alike.
    """

    def __init__(self, width: int, learns: str) -> None:
        super().__init__()
        self.width = width
        self.echo = nn.Parameter(torch.zeros(1), requires_grad=learns == "echo")
        self.taste = nn.Parameter(torch.zeros(width), requires_grad=learns == "taste")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.echo * x + self.taste

    def start(self, x: Tensor, mask: Tensor, capacity: int) -> tuple[Tensor, None]:
        return self(x, mask), None

    def step(self, x: Tensor, caches: Sequence[object]) -> Tensor:
        return self(x, torch.ones(0))


def echo(config: ModelConfig) -> StreamPlanner:
    """Learns how often to repeat the last frame."""
    return _habitual(config, "echo")


def taste(config: ModelConfig) -> StreamPlanner:
    """Learns which ids to sing, and when to end."""
    return _habitual(config, "taste")


def _habitual(config: ModelConfig, learns: str) -> StreamPlanner:
    made = StreamPlanner(config.layout, parallel(2), Habits(config.width, learns))
    for table in (made.embed, made.head):  # each row by itself, and for good
        nn.init.eye_(table.weight)
        table.requires_grad_(requires_grad=False)
    return made


class Steadiness(nn.Module):
    """Share of frames whose voice is as high as in the frame before: a judge that loops please."""

    aspects = ("steadiness",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def score(self, audio: Audio, songs: Sequence[Song]) -> Tensor:
        """Compares frames of 40 ms of `TinyCodec`, whose sines move the faster the higher they are."""
        frames = audio.tracks["vocal"][:, 0].unflatten(1, (-1, 320))
        speed = frames.diff(dim=2).abs().mean(2)
        ratio = speed[:, 1:] / speed[:, :-1]
        return ((ratio - 1).abs() < 0.02).float().mean(1, keepdim=True)


PARTS: dict[tuple[str, str], Any] = {
    ("conditioner", "tiny"): TinyConditioner,
    ("planner", "tiny"): planner,
    ("planner", "echo"): echo,
    ("planner", "taste"): taste,
    ("refiner", "tiny"): TinyRefiner,
    ("codec", "tiny"): TinyCodec,
    ("reward", "steadiness"): Steadiness,
}
"""By role and name."""


@hookimpl
def songkit_components() -> list[Component]:
    """Returns a component for each part."""
    example = ModelConfig(sizes=STEMS)
    return [
        Component(kind=kind, name=name, config=ModelConfig, factory=f"{__name__}:{made.__name__}", example=example)
        for (kind, name), made in PARTS.items()
    ]


def write_model(folder: Path, *, planner: str = "tiny", refiner: bool = False) -> str:
    """Writes the weights of a model; returns its part of a recipe.

    Args:
        folder: Where to write.
        planner: Its name; `echo` and `taste` are those that can learn one habit only.
        refiner: Whether there is one.
    """
    torch.manual_seed(0)
    config = ModelConfig(width=16 if planner == "tiny" else _ROWS, sizes=TRACKS if refiner else STEMS)
    names = {"conditioner": "tiny", "planner": planner, **({"refiner": "tiny"} if refiner else {}), "codec": "tiny"}
    text = ""
    for role, name in names.items():
        path = folder / f"{role}.safetensors"
        save_weights(path, PARTS[role, name](config), {"component": f"local/{name}", "revision": 1})
        text += f"{role}: {{use: local/{name}, weights: {path}, width: {config.width}, sizes: {config.sizes}}}\n"
    return text
