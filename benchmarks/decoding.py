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
from decoding_systems import BYTES, PREFIX, RELEASED, SMALL, LongSong, Memory, Songkit, build, random_conditions

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


Turns = dict[str, list[tuple[float, float]]]


def interleaved(systems: dict[str, Any], rounds: int, steps: int, memory: Memory) -> Turns:
    """Lets systems take turns; returns for each turn the median seconds of its steps, and bytes read per second.

    A virtual machine's memory is now fast, now slow: it is read before and after every turn.
    """
    turns: Turns = {name: [] for name in systems}
    for _ in range(rounds):
        for name, system in systems.items():
            read = memory.burst(2)
            seconds = statistics.median(system.burst(steps))
            turns[name].append((seconds, memory.bytes() / statistics.median(read + memory.burst(2))))
    return turns


def ratio(turns: Turns, one: str, other: str) -> float:
    """Returns how many times as long a step of one system takes, the median over rounds."""
    return statistics.median(a / b for (a, _), (b, _) in zip(turns[one], turns[other], strict=True))


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


def compare(
    systems: dict[str, Any], args: argparse.Namespace, rows: list[list[str]], part: str
) -> tuple[Turns, dict[str, Any]]:
    """Measures systems beside the memory and writes their rows; returns their turns and what is kept of them."""
    turns = interleaved(systems, args.rounds, 2 if args.quick else 6, Memory(100 if args.quick else 300))
    read = [bandwidth for all_of_it in turns.values() for _, bandwidth in all_of_it]
    low, middle, high = statistics.quantiles(read, n=4)
    note = f"{middle / 1e9:.1f} GB/s, quartiles {low / 1e9:.1f} and {high / 1e9:.1f}"
    rows.append([part, "read bandwidth", "", "", "", note])
    found: dict[str, Any] = {"bandwidth": middle, "quartiles": [low, high]}
    for name, system in systems.items():
        seconds, songs = statistics.median(time for time, _ in turns[name]), getattr(system, "songs", 1)
        found[name] = {"seconds": seconds, "turns": turns[name]}
        if hasattr(system, "bytes"):
            found[name] |= {"bytes": system.bytes(), "share": share_of(system.bytes(), turns[name])}
        share = f"{found[name]['share']:.2f}" if "share" in found[name] else ""
        rows.append([part, name, f"{1e3 * seconds:.2f}", f"{songs / seconds:.1f}", share, ""])
    return turns, found


def share_of(read: float, turns: list[tuple[float, float]]) -> float:
    """Returns the share of a step's time that reading so many bytes takes, each turn at the bandwidth beside it."""
    return statistics.median(read / bandwidth / seconds for seconds, bandwidth in turns)


def step(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """One song, everything beside everything."""
    systems: dict[str, Any] = {f"songkit {precision}": Songkit(precision) for precision in BYTES}
    systems["reading, in pages of 4 kB"] = Memory(100 if args.quick else 300, large_pages=False)
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        systems[f"plain loop {name}"] = EagerLoop(PEER, PREFIX, dtype)
        if find_spec("transformers"):
            systems[f"Hugging Face {name}"] = HuggingFace(PEER, PREFIX, dtype)
    if not find_spec("transformers"):
        rows.append(["step", "Hugging Face", "", "", "", "not run: transformers is not installed"])
    turns, found = compare(systems, args, rows, "step")
    for peer, aim in (("plain loop bf16", 3.5), ("plain loop fp32", 12.0)):
        faster = ratio(turns, peer, "songkit bf16")
        rows.append(["step", f"songkit bf16 against {peer}", "", f"{faster:.2f} ×", "", f"aim {aim}"])
    return found


def batch(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """What the guidance row costs, and what eight songs at once bring."""
    systems = {
        "songkit bf16": Songkit("bf16"),
        "songkit bf16, no guidance": Songkit("bf16", guidance=1.0),
        "songkit bf16, 8 songs": Songkit("bf16", songs=8),
        "songkit int8": Songkit("int8"),
        "songkit int8, 8 songs": Songkit("int8", songs=8),
    }
    turns, found = compare(systems, args, rows, "batch")
    row = ratio(turns, "songkit bf16", "songkit bf16, no guidance")
    rows.append(["batch", "guidance row", "", f"{row:.2f} ×", "", "aim at most 1.10"])
    for precision in ("bf16", "int8"):
        one, eight = f"songkit {precision}", f"songkit {precision}, 8 songs"
        bound = 8 * systems[one].bytes() / systems[eight].bytes()
        note = f"aim 5; bytes allow {bound:.2f}"
        rows.append(["batch", f"{eight} against 1", "", f"{8 * ratio(turns, one, eight):.2f} ×", "", note])
    return found


def length(args: argparse.Namespace, rows: list[list[str]]) -> dict[str, Any]:
    """The towers alone along a song of 4m30: room for all of it, more and more of it used."""
    planner, refiner = (part.eval().requires_grad_(False) for part in build(SMALL))
    frames, found = 6750, {}
    for precision in ("bf16", "int8"):
        song = LongSong([copy.deepcopy(part.tower) for part in (planner, refiner)], precision, frames)
        for used in (PREFIX, 2000, 4000, PREFIX + frames):
            song.grow(used)
            turns = interleaved({"": song}, args.rounds, 2, Memory(100 if args.quick else 300))[""]
            seconds, share = statistics.median(time for time, _ in turns), share_of(song.bytes(), turns)
            found[f"{precision} {used}"] = {"seconds": seconds, "bytes": song.bytes(), "share": share}
            numbers = [f"{1e3 * seconds:.2f}", f"{1 / seconds:.1f}", f"{share:.2f}"]
            rows.append(["length", f"towers {precision}, {used} positions", *numbers, ""])
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
        for precision in (*BYTES, "bf16 weights alone"):
            packed = copy.deepcopy(planner).eval().requires_grad_(False)
            if precision in BYTES:
                pack(packed, precision)
            else:  # how much of the difference no kernel for bf16 can avoid
                for layer in packed.modules():
                    if isinstance(layer, torch.nn.Linear):
                        layer.weight.data = layer.weight.data.bfloat16().float()
                pack(packed, "fp32")
            drawing = _Forced(packed, sampling, frames, chosen.get("fp32"))
            for _ in run(Stage(drawing, [drawing.add(conditions, 0, 0)])):
                pass
            chosen[precision] = drawing.likeliest
        found[name] = {}
        for precision in list(chosen)[1:]:
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
