"""Sequence length, speed and size of LeVo 2's language model and of every baseline, in the sizes of the miniature.

Weights are random: neither size nor speed depends on them. A song of `--seconds` is drawn with guidance, as `songkit
generate` does, the systems taking turns.

    python benchmarks/planners.py --out results/planners.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import finish, interval

from songkit.build import build
from songkit.interfaces import Sampling
from songkit.patterns import delayed
from songkit.recipe import Recipe, load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.types import Section

LYRICS = SongRequest(id="song", description="female, pop", sections=(Section("verse", ("golden river",) * 4),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the song (default 10)")
    parser.add_argument("--runs", type=int, default=3, help="songs of each system (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--out", type=Path, help="also write everything as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    registry = Registry.discover()
    names = [n for n in registry.recipes() if n.startswith("baselines/") and "/_" not in n]
    recipes = {name: load(name, registry=registry, allow_missing=True) for name in ("levo2/mini/_model", *names)}
    systems = {name: System(recipe) for name, recipe in recipes.items() if "planner" in recipe.roles}
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for run in range(args.runs + 1):
        for name, system in systems.items():
            seconds = system.draw(args.seconds, seed=run)
            if run:  # the first one warms up
                taken[name].append(seconds / args.seconds)
    rows = [
        [
            "LeVo 2, planner and refiner" if name == "levo2/mini/_model" else f"`{name}`",
            f"{system.longest(270.0):,}",
            f"{system.rate:g}",
            f"{system.ids:g}",
            f"{system.parameters / 1e6:.2f}",
            interval(taken[name], 2),
        ]
        for name, system in systems.items()
    ]
    heads = [
        "system",
        "sequence for 270 s",
        "steps a second",
        "ids a second",
        "parameters, M",
        "CPU seconds to draw one",
    ]
    record = {"song_seconds": args.seconds, "taken": taken}
    finish("Planners", heads, rows, out=args.out, runs=args.runs, record=record)


class System:
    """The language model of a recipe: a planner, and the refiner behind it if there is one."""

    def __init__(self, recipe: Recipe) -> None:
        roles = ("conditioner", "planner", "refiner")
        made = {role: build(recipe.roles[role]).eval() for role in roles if role in recipe.roles}
        self.conditioner, self.planner, self.refiner = (made.get(role) for role in roles)
        # The cursor stays where it is, so that the song goes on to its limit.
        self.planner.move.bias.data[0] = 50.0

    @property
    def parameters(self) -> int:
        """Trained ones, without the conditioner, which is the same everywhere."""
        modules = [module for module in (self.planner, self.refiner) if module is not None]
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    @property
    def ids(self) -> float:
        """Ids that are decided in a second of audio, the plan's included."""
        streams = len(self.planner.layout) + (0 if self.refiner is None else len(self.refiner.layout))
        return streams * self.planner.layout.frame_rate

    @property
    def rate(self) -> float:
        """Steps of all towers for a second of audio."""
        rate = self.planner.layout.frame_rate
        return self.planner.pattern.stride * rate + (0 if self.refiner is None else rate)

    def longest(self, seconds: float) -> int:
        """The longest sequence that a tower sees for a song, without the prefix of conditions."""
        frames = round(seconds * self.planner.layout.frame_rate)
        refining = 0 if self.refiner is None else delayed([self.refiner.config.delay]).steps(frames)
        return max(self.planner.pattern.steps(frames), refining)

    @torch.inference_mode()
    def draw(self, seconds: float, seed: int) -> float:
        """Returns the CPU seconds that a song takes: on one thread other work on the machine hardly changes them."""
        frames = round(seconds * self.planner.layout.frame_rate)
        sampling = Sampling(temperature=1.0, guidance=1.5)
        start = time.process_time()
        conditions = self.conditioner([LYRICS], null=True)
        plan = self.planner.generate(conditions, sampling=sampling, max_frames=frames, seeds=[seed])
        if self.refiner is not None:
            conditions = self.conditioner([LYRICS], null=True, side="refiner")
            self.refiner.generate(plan, conditions, sampling=sampling, seeds=[seed])
        assert int(plan.codes.lengths[0]) == frames
        return time.process_time() - start


if __name__ == "__main__":
    main()
