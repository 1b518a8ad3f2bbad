"""Decoding on a GPU: steps per second of the released shapes with random weights, as a share of its bandwidth.

    python benchmarks/decoding_device.py --device cuda --out results/decoding-cuda.json
    python benchmarks/decoding_device.py --device cpu --quick      # does it run?

songkit in bf16 (planner and refiner in lockstep, with guidance) and a plain loop with a growing cache take turns. The
bound of a step is its weights, keys and values over the bandwidth at which a buffer of the device is read in the same
turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import finish
from decoding_peers import EagerLoop
from decoding_systems import BYTES, PREFIX, RELEASED, build, random_conditions, weight_bytes

from songkit.decoding import Stage, run
from songkit.devices import describe_device, find_device
from songkit.interfaces import Sampling
from songkit.kernels import pack
from songkit.testing.exercise import on

WARM_UP = 300
"""Steps before the first turn: past the frames by which the refiner runs behind, so that every step moves both."""


class Songkit:
    """Planner and refiner of a size, with songs of random conditions."""

    def __init__(self, size: dict[str, int], device: torch.device, songs: int, steps: int) -> None:
        self.size, self.songs, self.used = size, songs, PREFIX
        with device:
            self.parts = [part.eval().requires_grad_(False) for part in build(size)]
        planner, refiner = self.parts
        self.weights = weight_bytes(planner, refiner, "bf16")
        for part in self.parts:
            pack(part, "bf16", None if device.type == "cpu" else "plain")
        sampling = Sampling(temperature=0.0, top_k=0, guidance=1.5, min_frames=steps)
        conditions = on(random_conditions(songs, size["dim"]), str(device))
        plans, tracks = planner.drawing(sampling=sampling, max_frames=steps), refiner.drawing(sampling=sampling)
        for song in range(songs):
            plans.add(conditions, song, song)
            tracks.add(plans.songs[song], conditions, song, song)
        self._rounds = run(*(Stage(drawing, range(songs), places=songs) for drawing in (plans, tracks)))

    @torch.no_grad()
    def steps(self, count: int) -> None:
        """Moves all songs on."""
        for _ in range(count):
            next(self._rounds)
        self.used += count

    def bytes(self) -> float:
        """Returns what a step has to read."""
        layers = self.size["layers"] + self.size["refiner_layers"]
        return self.weights + 2 * self.songs * self.used * layers * 2 * self.size["dim"] * BYTES["bf16"]


class Loop:
    """The same number of layers in a plain loop."""

    def __init__(self, size: dict[str, int], device: torch.device) -> None:
        layers = size["layers"] + size["refiner_layers"]
        self.device, self.songs = device, 1
        with device:
            self.loop = EagerLoop({**size, "layers": layers, "streams": 3, "vocabulary": 16385}, PREFIX, torch.bfloat16)

    def steps(self, count: int) -> None:
        """Moves its song on."""
        with self.device:
            self.loop.burst(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="as of songkit generate (default cuda)")
    parser.add_argument("--sizes", nargs="+", choices=RELEASED, default=["v2-medium", "v2-large"])
    parser.add_argument("--songs", nargs="+", type=int, default=[1, 8], help="songs at once (default 1 and 8)")
    parser.add_argument("--rounds", type=int, default=9, help="turns that each system takes (default 9)")
    parser.add_argument("--quick", action="store_true", help="a few steps of the small size")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    device = find_device(args.device)
    torch.manual_seed(0)
    steps, warm_up = (2, 3) if args.quick else (20, WARM_UP)
    args.rounds, args.sizes, args.songs = (2, ["small"], [1]) if args.quick else (args.rounds, args.sizes, args.songs)
    buffer = torch.ones(2**24 if args.quick else 2**30, device=device)  # 4 GB: no cache holds it
    rows: list[list[str]] = []
    record: dict[str, Any] = {"device": describe_device(device)}
    for size in args.sizes:
        systems: dict[str, Any] = {"plain loop": Loop(RELEASED[size], device)}
        for songs in args.songs:
            total = warm_up + steps * (args.rounds + 1)
            systems[f"songkit, {songs} at once"] = Songkit(RELEASED[size], device, songs, total)
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
        for name, system in systems.items():
            system.steps(warm_up if name != "plain loop" else 3)
        for _ in range(args.rounds):
            for name, system in systems.items():
                read = buffer.nbytes / clocked(buffer.sum, device)
                turns[name].append((clocked(lambda own=system: own.steps(steps), device) / steps, read))
        for name, system in systems.items():
            seconds = statistics.median(taken for taken, _ in turns[name])
            row = [size, name, f"{1e3 * seconds:.2f}", f"{system.songs / seconds:.1f}", ""]
            record[f"{size} {name}"] = {"seconds": seconds, "turns": turns[name]}
            if isinstance(system, Songkit):
                share = statistics.median(system.bytes() / read / taken for taken, read in turns[name])
                faster = statistics.median(
                    a / b for (a, _), (b, _) in zip(turns["plain loop"], turns[name], strict=True)
                )
                row[4] = f"{share:.2f} of the bound, {system.songs * faster:.2f} x the plain loop"
                record[f"{size} {name}"] |= {"share": share, "bytes": system.bytes()}
            rows.append(row)
        read = statistics.median(read for own in turns.values() for _, read in own)
        rows.append([size, "read bandwidth", "", "", f"{read / 1e9:.0f} GB/s of {describe_device(device)}"])
        del systems
    heads = ["size", "system", "ms a step", "steps/s", "note"]
    finish(f"Decoding on {device}", heads, rows, out=args.out, runs=args.rounds, record=record)


def clocked(call: Callable[[], Any], device: torch.device) -> float:
    """Returns the seconds that a call takes until the device has done its work."""
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.mps.synchronize if device.type == "mps" else None
    begin = time.perf_counter()
    with torch.no_grad():
        call()
    if wait is not None:
        wait()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
