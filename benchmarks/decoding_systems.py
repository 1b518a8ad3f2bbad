"""What `decoding.py` measures: models of the released shapes with random weights, and the memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.decoding import Stage, run
from songkit.interfaces import Sampling
from songkit.kernels import Precision, large, pack
from songkit.types import Conditions
from songkit_levo2.configs import MixedLMConfig, TrackLMConfig
from songkit_levo2.planner import MixedLM
from songkit_levo2.refiner import TrackLM

__all__ = [
    "BYTES",
    "PREFIX",
    "RELEASED",
    "SMALL",
    "Memory",
    "Songkit",
    "build",
    "clocked",
    "random_conditions",
    "weight_bytes",
]

PREFIX = 602
SMALL = {"dim": 768, "layers": 12, "refiner_layers": 4, "heads": 6, "feed_forward": 2688}
RELEASED = {
    "small": SMALL,
    "v2-medium": {"dim": 1536, "layers": 28, "refiner_layers": 12, "heads": 12, "feed_forward": 8960},
    "v2-large": {"dim": 2048, "layers": 36, "refiner_layers": 12, "heads": 16, "feed_forward": 11008},
}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


class Songkit:
    """Planner and refiner in lockstep over songs, as `songkit generate` runs them, without conditioner and codec."""

    def __init__(self, precision: Precision, *, songs: int = 1, guidance: float = 1.5, frames: int = 2000) -> None:
        self.precision, self.songs, self.rows = precision, songs, songs * (1 if guidance == 1 else 2)
        self.planner, self.refiner = (part.eval().requires_grad_(False) for part in build(SMALL))
        self.weights = weight_bytes(self.planner, self.refiner, precision)
        for part in (self.planner, self.refiner):
            pack(part, precision)
        self.used = PREFIX
        self._rounds = self._decode(songs, guidance, frames)
        self.burst(12)  # past the prefixes, and the frames by which the refiner runs behind

    @torch.inference_mode()  # as `sing` does
    def burst(self, steps: int) -> list[float]:
        """Returns the seconds that each of some steps of all songs takes."""
        times = []
        for _ in range(steps):
            begin = time.perf_counter()
            next(self._rounds)
            times.append(time.perf_counter() - begin)
        self.used += steps
        return times

    def bytes(self) -> float:
        """Returns what a step has to read: weights, and the keys and values so far."""
        layers = SMALL["layers"] + SMALL["refiner_layers"]
        return self.weights + self.rows * self.used * layers * 2 * SMALL["dim"] * BYTES[self.precision]

    def _decode(self, songs: int, guidance: float, frames: int) -> Iterator[Any]:
        sampling = Sampling(temperature=0.0, top_k=0, guidance=guidance, min_frames=frames)
        conditions = random_conditions(songs, SMALL["dim"])
        plans, tracks = (
            self.planner.drawing(sampling=sampling, max_frames=frames),
            self.refiner.drawing(sampling=sampling),
        )
        stages = [Stage(plans, range(songs)), Stage(tracks, range(songs))]
        for song in range(songs):
            plans.add(conditions, song, song)
            tracks.add(plans.songs[song], conditions, song, song)
        return run(*stages)


class LongSong:
    """Towers alone, with room for a long song of which more and more is used."""

    def __init__(self, towers: list[Transformer], precision: Precision, frames: int) -> None:
        self.towers, self.caches = towers, list[Any]()
        self.weights = sum(weight_bytes(tower, tower, precision) // 2 for tower in towers)
        prefix, mask = 0.5 * torch.randn(2, PREFIX, SMALL["dim"]), torch.ones(2, PREFIX, dtype=torch.bool)
        for tower in towers:
            pack(tower, precision)
            with torch.no_grad():
                self.caches.append(tower.start(prefix, mask, frames + 200)[1])
        self.row = torch.randn(2, SMALL["dim"])

    def grow(self, used: int) -> None:
        """Fills the caches up to a position."""
        for cache in self.caches:
            while cache.room <= used:
                cache.used = cache.room
                cache.grow()
            for layer in (*cache.data, *(cache.scales or ())):
                layer[:, :, :, PREFIX:used] = layer[:, :, :, :1]
            cache.used = used

    def burst(self, steps: int) -> list[float]:
        """Returns the seconds of some steps, all at the same position."""
        return [clocked(self._step) for _ in range(steps)]

    def bytes(self) -> float:
        """Returns what a step has to read."""
        return self.weights + sum(cache.nbytes * cache.used / cache.room for cache in self.caches)

    def _step(self) -> None:
        for tower, cache in zip(self.towers, self.caches, strict=True):
            tower.step(self.row, [cache])
            cache.used -= 1


def build(size: dict[str, int]) -> tuple[MixedLM, TrackLM]:
    """Makes planner and refiner of a size with random weights."""

    def tower(layers: int) -> Transformer:
        options = {name: size[name] for name in ("dim", "heads", "feed_forward")}
        return Transformer(TransformerConfig(layers=layers, rope_base=5e5, **options))

    refiner = TrackLMConfig(codebook_size=16384, source_codebook_size=16384, source_width=size["dim"], ends=True)
    planner = MixedLM(MixedLMConfig(codebook_size=16384, cursor=False), tower(size["layers"]))
    return planner, TrackLM(refiner, tower(size["refiner_layers"]))


def weight_bytes(planner: torch.nn.Module, refiner: torch.nn.Module, precision: Precision) -> int:
    """Returns the size of the weights that every step reads: all linear layers, no embeddings."""
    modules = itertools.chain(planner.modules(), refiner.modules())
    return sum(BYTES[precision] * m.weight.numel() for m in modules if isinstance(m, torch.nn.Linear))


def random_conditions(songs: int, width: int) -> Conditions:
    """Returns prefixes of the released model's length, with their null branch."""
    branches = [
        Conditions(0.5 * torch.randn(songs, PREFIX, width), torch.ones(songs, PREFIX, dtype=torch.bool))
        for _ in range(2)
    ]
    branches[0].null = branches[1]
    return branches[0]


class Memory:
    """Reads a buffer that no cache holds, with all threads: in large pages it is the bound of everything else."""

    def __init__(self, megabytes: int, *, large_pages: bool = True) -> None:
        shape = [megabytes * 250_000]
        self.buffer = (large(shape, torch.float32) if large_pages else torch.empty(shape)).fill_(1.0)

    def burst(self, steps: int) -> list[float]:
        """Returns the seconds of some readings."""
        return [clocked(self.buffer.sum) for _ in range(steps)]

    def bytes(self) -> float:
        """Returns how much is read."""
        return self.buffer.nbytes


def clocked(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    with torch.no_grad():
        call()
    return time.perf_counter() - begin
