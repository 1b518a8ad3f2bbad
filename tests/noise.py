"""A local plugin for tests of `songkit prepare`: songs of noise, and a tokenizer that measures their loudness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from songkit.plugin import Component, hookimpl
from songkit.types import Alignment, ArrayTrack, Section, Song, Span, Stream, TokenLayout

if TYPE_CHECKING:
    from torch import nn

RATE = 16_000


@dataclass(kw_only=True)
class NoiseConfig:
    """Songs of noise."""

    songs: int = 5
    """How many."""
    log: str = ""
    """File to which the number of each song that is made is appended."""
    bad: str = ""
    """The fourth song cannot be made while this file exists."""


@dataclass(kw_only=True)
class LoudnessConfig:
    """Loudness of each frame."""

    size: int = 300
    """Vocabulary."""
    lie: str = ""
    """Which promise is broken: `ids` or `frames`."""


def make_song(index: int) -> Song:
    generator = np.random.default_rng(index)
    length = int(generator.integers(RATE // 2, 2 * RATE))
    tracks = {name: ArrayTrack(generator.uniform(-1, 1, (1, length)), RATE) for name in ("vocal", "accompaniment")}
    alignment = Alignment(sections=(Span("verse", 0.0, length / RATE),))
    section = Section("verse", (f"song number {index} – ü",))
    return Song(id=f"noise-{index}", sections=(section,), tracks=tracks, tempo=99.5, alignment=alignment)


class NoiseSource:
    def __init__(self, config: NoiseConfig) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.songs

    def __getitem__(self, index: int) -> Song:
        if self.config.bad and index == 3 and Path(self.config.bad).exists():
            raise RuntimeError("the fourth song cannot be made")
        if self.config.log:
            with Path(self.config.log).open("a") as file:
                file.write(f"{index}\n")
        return make_song(index)


def build_tokenizer(config: LoudnessConfig) -> nn.Module:
    import torch

    from songkit.interfaces import Tokenizer
    from songkit.types import Audio, Codes

    class Loudness(Tokenizer):
        layout = TokenLayout(12.5, tuple(Stream(track, 0, config.size) for track in ("mix", "vocal")))
        sample_rate, channels, tracks = 8000, 1, ("mix", "vocal")

        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.ParameterDict({"gain": torch.rand(()) + 1})
            self.decoder = torch.nn.Parameter(torch.zeros(()))

        def encoding_module(self) -> torch.nn.Module:
            return self.encoder

        def encode(self, audio: Audio) -> Codes:
            frames = -(-audio.lengths // 640)
            rows = []
            for track in self.tracks:
                samples = audio.tracks[track][:, 0]
                padded = torch.nn.functional.pad(samples, (0, -samples.shape[1] % 640))
                energy = padded.reshape(len(padded), -1, 640).square().mean(-1)
                rows.append((energy * 100 * self.encoder["gain"]).long().clamp(max=config.size - 1))
            ids = torch.stack(rows, 1)
            ids[torch.arange(ids.shape[2]).expand_as(ids) >= frames[:, None, None]] = 0
            ids = ids + config.size if config.lie == "ids" else ids
            return Codes(ids, frames + (config.lie == "frames"), self.layout)

    return Loudness()


@hookimpl
def songkit_components() -> list[Component]:
    return [
        Component(
            kind="source", name="noise", config=NoiseConfig, factory=f"{__name__}:NoiseSource", example=NoiseConfig()
        ),
        Component(
            kind="tokenizer",
            name="loudness",
            config=LoudnessConfig,
            factory=f"{__name__}:build_tokenizer",
            example=LoudnessConfig(),
        ),
    ]
