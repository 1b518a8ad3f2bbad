"""A local plugin with the parts of a tiny model that sings, and its songs and pairs, for the core's own tasks."""

from dataclasses import dataclass
from pathlib import Path

import torch

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.patterns import parallel
from songkit.plugin import Component, hookimpl
from songkit.stream_planner import StreamPlanner
from songkit.testing.preferences import TokenisedPairs
from songkit.testing.standins import ModelConfig, SongsConfig, TinyCodec, TinySongs, TokenisedSongs, stand_in


@dataclass(kw_only=True)
class NoConfig:
    """Nothing to choose."""


def planner(config):
    tower = Transformer(TransformerConfig(dim=16, layers=2, heads=2, feed_forward=32, dropout=0.2))
    return StreamPlanner(ModelConfig().layout.select(["mix"]), parallel(1), tower, cursor_steps=3)


def songs(config):
    return TokenisedSongs(SongsConfig(songs=6), _codec())


def waves(config):
    return TinySongs(SongsConfig(songs=6, sample_rate=24000))


def pairs(config):
    made = TokenisedPairs(SongsConfig(songs=6), _codec())
    made.root = Path("pairs")
    return made


def _codec():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyCodec(ModelConfig()).eval()


@hookimpl
def songkit_components():
    made = {"planner": [planner], "source": [songs, waves, pairs]}
    return [
        stand_in("conditioner"),
        *(
            Component(kind=k, name=f.__name__, config=NoConfig, factory=f"{__name__}:{f.__name__}", example=NoConfig())
            for k, factories in made.items()
            for f in factories
        ),
    ]
