"""The speed of decoding: steps per second with guidance, side by side, and how near that is to the speed of memory.

    pip install -e '.[bench]'     # Hugging Face's transformers, to compare with; left out where it is not there
    python benchmarks/decoding.py --threads 2 --out results/decoding.json
    python benchmarks/decoding.py --only step batch --quick

Parts: `step` (one song: songkit in three precisions, Hugging Face, a plain loop), `batch` (one guidance row, eight
songs), `length` (a song of 4m30), `agree` (the same ids in bf16 and int8 as in fp32), `sizes` (each released size that
fits: load, first token, speed, peak memory; each in a process of its own). Systems take turns for a few steps at a
time; medians are shown. The bound of a step is its weights and keys and values over the read bandwidth of the same run.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import finish
from decoding_peers import EagerLoop, HuggingFace
from decoding_systems import BYTES, PREFIX, RELEASED, SMALL, Memory, Songkit, build, clocked, random_conditions

from songkit._drawn_song import StreamDrawing
from songkit.build import build_roles
from songkit.decoding import Stage, run
from songkit.interfaces import Sampling
from songkit.kernels import pack
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import read_requests
from songkit_levo2.planner import MixedLM

PEER = {**SMALL, "layers": 16, "streams": 3, "vocabulary": 16385}
PARTS = ("step", "batch", "length", "agree", "sizes")


def interleaved(systems: dict[str, Any], rounds: int, steps: int) -> dict[str, list[float]]:
    """Lets systems take turns; returns the seconds of each one's steps."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, system in systems.items():
            times[name] += system.burst(steps)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default all)")
    parser.add_argument("--threads", type=int, help="CPU threads (default torch's choice)")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each system takes (default 15)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: is it all there?")
    parser.add_argument("--sizes", nargs="+", choices=RELEASED, default=list(RELEASED), help="for the part `sizes`")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--child", nargs=2, metavar=("SIZE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        from decoding_sizes import child

        child(args.child[0], Path(args.child[1]), steps=3 if args.quick else 30)
        return
    if args.quick:
        args.rounds, args.sizes = 2, ["small"]
    rows: list[list[str]] = []
    record: dict[str, Any] = {}
    parts: dict[str, Callable[..., Any]] = {
        "step": step,
        "batch": batch,
        "length": length,
        "agree": agree,
        "sizes": sizes,
    }
    for name in args.only:
        record[name] = parts[name](args, rows)
    finish(
        "Decoding",
        ["part", "what", "ms", "steps/s", "of the bound", "note"],
        rows,
        out=args.out,
        runs=args.rounds,
        record=record,
    )


def compare(systems: dict[str, Any], args: argparse.Namespace, rows: list[list[str]], part: str) -> dict[str, Any]:
    """Measures systems beside the memory, writes their rows and returns medians."""
    systems = {"memory": Memory(100 if args.quick else 600), **systems}
    times = interleaved(systems, args.rounds, 2 if args.quick else 6)
    middle = {name: statistics.median(values) for name, values in times.items()}
    bandwidth = systems["memory"].bytes() / middle["memory"]
    rows.append([part, "read bandwidth", "", "", "", f"{bandwidth / 1e9:.1f} GB/s"])
    found: dict[str, Any] = {"bandwidth": bandwidth}
    for name, system in itertools.islice(systems.items(), 1, None):
        seconds, songs = middle[name], getattr(system, "songs", 1)
        bound = system.bytes() / bandwidth if hasattr(system, "bytes") else None
        found[name] = {"seconds": seconds, "quartile": statistics.quantiles(times[name], n=4)[0], "bound": bound}
        share = f"{bound / seconds:.2f}" if bound else ""
        rows.append([part, name, f"{1e3 * seconds:.2f}", f"{songs / seconds:.1f}", share, ""])
    return found


def step(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """One song, everything beside everything."""
    systems: dict[str, Any] = {f"songkit {precision}": Songkit(precision) for precision in BYTES}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        systems[f"plain loop {name}"] = EagerLoop(PEER, PREFIX, dtype)
        if find_spec("transformers"):
            systems[f"Hugging Face {name}"] = HuggingFace(PEER, PREFIX, dtype)
    if not find_spec("transformers"):
        rows.append(["step", "Hugging Face", "", "", "", "not run: transformers is not installed"])
    found = compare(systems, args, rows, "step")
    for peer, aim in (("plain loop bf16", 3.5), ("plain loop fp32", 12.0)):
        ratio = found[peer]["seconds"] / found["songkit bf16"]["seconds"]
        rows.append(["step", f"songkit bf16 against {peer}", "", f"{ratio:.2f} ×", "", f"aim {aim}"])
    return found


def batch(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """What the guidance row costs, and what eight songs at once bring."""
    systems = {
        "songkit bf16": Songkit("bf16"),
        "songkit bf16, no guidance": Songkit("bf16", guidance=1.0),
        "songkit bf16, 8 songs": Songkit("bf16", songs=8),
        "songkit int8, 8 songs": Songkit("int8", songs=8),
    }
    found = compare(systems, args, rows, "batch")
    one, bare, eight = (found[name]["seconds"] for name in list(systems)[:3])
    rows.append(["batch", "guidance row", "", f"{one / bare:.2f} ×", "", "aim at most 1.10"])
    bound = 8 * found["songkit bf16"]["bound"] / found["songkit bf16, 8 songs"]["bound"]
    rows.append(
        ["batch", "steps of 8 songs against 1", "", f"{8 * one / eight:.2f} ×", "", f"aim 5; bounds {bound:.2f}"]
    )
    return found


def length(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """The towers alone along a song of 4m30: room for all of it, more and more of it used."""
    planner, refiner = (part.eval().requires_grad_(False) for part in build(SMALL))
    towers, frames = [planner.tower, refiner.tower], 6750
    x, mask = 0.5 * torch.randn(2, PREFIX, SMALL["dim"]), torch.ones(2, PREFIX, dtype=torch.bool)
    caches: list[Any] = []
    for tower in towers:
        pack(tower, "bf16")
        with torch.no_grad():
            caches.append(tower.start(x, mask, frames + 100)[1])
    memory, found, row = Memory(100 if args.quick else 600), {}, torch.randn(2, SMALL["dim"])
    weights = sum(2 * p.packed.numel() for tower in towers for p in tower.modules() if hasattr(p, "packed"))
    for used in (PREFIX, 2000, 4000, PREFIX + frames):
        for cache in caches:
            cache.data[..., PREFIX:used, :].normal_()
            cache.used = used
        seconds, read = [], []
        for _ in range(3 if args.quick else 30):
            read += memory.burst(1)
            seconds.append(
                clocked(lambda: [tower.step(row, [cache]) for tower, cache in zip(towers, caches, strict=True)])
            )
        middle, bandwidth = statistics.median(seconds), memory.bytes() / statistics.median(read)
        total = weights + sum(cache.data[..., :used, :].numel() * 2 for cache in caches)
        found[str(used)] = {"seconds": middle, "bytes": total, "bound": total / bandwidth}
        share = f"{total / bandwidth / middle:.2f}"
        rows.append(["length", f"towers, {used} positions", f"{1e3 * middle:.2f}", f"{1 / middle:.1f}", share, ""])
    return found


def agree(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """How often bf16 and int8 find the same id most likely as fp32, along the greedy songs of fp32."""
    frames = 20 if args.quick else 600
    model = build_roles(load("mini/song", registry=Registry.discover()), ["conditioner", "planner"])
    (request,) = read_requests(Path(__file__).parents[1] / "examples" / "lyrics.txt")
    with torch.no_grad():
        trained = model["conditioner"]([request], prompts=[None], null=True, side="planner")
    untrained, _ = build(SMALL)
    cases = {
        "mini/song, trained": (model["planner"], trained),
        "176 M, random weights": (untrained, random_conditions(1, SMALL["dim"])),
    }
    sampling = Sampling(temperature=0.0, top_k=0, guidance=1.5, min_frames=frames)
    found: dict[str, dict[str, float]] = {}
    for name, (planner, conditions) in cases.items():
        chosen: dict[str, list[int]] = {}
        for precision in BYTES:
            pack(packed := copy.deepcopy(planner).eval().requires_grad_(False), precision)
            drawing = _Forced(packed, sampling, frames, chosen.get("fp32"))
            for _ in run(Stage(drawing, [drawing.add(conditions, 0, 0)])):
                pass
            chosen[precision] = drawing.likeliest
        found[name] = {}
        for precision in ("bf16", "int8"):
            same = sum(a == b for a, b in zip(chosen["fp32"], chosen[precision], strict=True))
            found[name][precision] = same / len(chosen["fp32"])
            rows.append(["agree", f"{precision} with fp32: {name}", "", f"{same / frames:.4f}", "", f"{frames} steps"])
    return found


class _Forced(StreamDrawing):
    """Draws greedily, and goes on with given ids instead, where there are some."""

    def __init__(self, planner: MixedLM, sampling: Sampling, frames: int, ids: list[int] | None) -> None:
        super().__init__(planner, sampling, frames)
        self.given, self.likeliest = ids, []

    def advance(self, songs: Any, states: torch.Tensor) -> torch.Tensor:
        before = len(self.songs[0].ids[0])
        following = super().advance(songs, states)
        drawn = self.songs[0].ids[0]
        if len(drawn) > before:
            self.likeliest.append(drawn[-1])
            if self.given is not None:
                drawn[-1] = self.given[before]
                following = self._embed([self.songs[0]])
        return following


def sizes(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """Each size in a process of its own: from the file of its weights to the first token, and on."""
    found = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.out.parent if args.out else None) as folder:
            words = [sys.executable, __file__, "--child", size, folder, "--threads", str(torch.get_num_threads())]
            lines = []
            for _ in range(2):  # the first call writes the weights, the second reads them
                done = subprocess.run(
                    [*words, *["--quick"] * args.quick], stdout=subprocess.PIPE, text=True, check=True
                )
                lines = done.stdout.splitlines()
            found[size] = one = json.loads(lines[-1])
        note = f"{one['parameters'] / 1e9:.2f} B, first token {one['first']:.1f} s, peak {one['peak_mb'] / 1e3:.1f} GB"
        share, seconds = f"{one['bound'] / one['seconds']:.2f}", one["seconds"]
        rows.append(["sizes", f"{size} bf16", f"{1e3 * seconds:.2f}", f"{1 / seconds:.1f}", share, note])
    return found


if __name__ == "__main__":
    main()
