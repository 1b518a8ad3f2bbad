"""Kills a training at random points and lets it go on, until it has been killed often enough.

    python benchmarks/kills.py --kills 200 --out results/kills.json

A small planner is trained on songs made on the spot, with worker processes and accumulated gradients, and a training
state every other step. Each process is killed (SIGKILL, workers included) after a random time. Then every file that is
visible under its name is checked; at the end of each training its weights and its state are compared, byte for byte,
with those of one that nobody interrupted. Half of the kills have TMPDIR on the run's own file system, half on another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from common import finish

from songkit.build import build_roles
from songkit.checkpoint import load_state, load_weights
from songkit.cli import main as songkit
from songkit.errors import SongkitError
from songkit.recipe import Recipe, load
from songkit.registry import Registry
from songkit.train import train

CODEC = [
    "codec.vae={mels: 20, encoder_dims: [16, 16], encoder_depths: [1, 1]}",
    "codec.vae={decoder_dims: [16, 16], decoder_depths: [1, 1]}",
    "codec.semantic={mels: 20, dims: [16, 16], depths: [1, 2], codebook_dim: 4, feature_depth: 1, codebook_size: 64}",
    "codec.semantic.taps={mix: 2, vocal: 2, accompaniment: 1}",
    "codec.diffusion={dim: 16, depth: 1, heads: 2, steps: 2}",
    "codec.weights=random",
]
PLANNER = [
    *CODEC,
    "vars={codebook_size: 64, width: 32}",
    "planner.tower={layers: 2, heads: 2, feed_forward: 64}",
    "trainer={max_steps: 60, batch_size: 2, accumulate: 2, workers: 2, validate_every: 0, checkpoint_every: 2}",
    "trainer={log_every: 1, accelerator: cpu, ema_decay: 0.9, weights_dtype: float32}",
    "seed=7",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many processes are killed")
    parser.add_argument(
        "--longest", type=float, default=3.0, help="seconds after which a process is killed at the latest"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the times")
    parser.add_argument("--folder", type=Path, help="where to train; a temporary folder by default")
    parser.add_argument(
        "--other", type=Path, default=Path("/dev/shm"), help="folder on another file system, for TMPDIR"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        recipe = prepared(root)
        temporary = {"the same file system": root / "tmp"}
        if args.other.is_dir() and args.other.stat().st_dev != root.stat().st_dev:
            temporary["another file system"] = args.other
        else:
            print(f"WARNING: {args.other} is on no other file system than {root}: only one kind of TMPDIR is tried")
        (root / "tmp").mkdir()
        began = time.monotonic()
        train(recipe, root / "whole", progress=False)
        whole = time.monotonic() - began
        print(f"uninterrupted: {whole:.1f} s")
        args.longest = args.longest or whole
        rows = [
            [name, *tried(recipe, root, path, args.kills // len(temporary), args).values()]
            for name, path in temporary.items()
        ]
    heads = [
        "TMPDIR",
        "kills",
        "corrupt files visible",
        "states on disk when killed",
        "trainings finished",
        "unequal ends",
    ]
    finish(
        f"{args.kills} kills of a training",
        heads,
        [[str(cell) for cell in row] for row in rows],
        out=args.out,
        runs=args.kills,
        record={"rows": [dict(zip(heads, row, strict=True)) for row in rows], "seed": args.seed},
    )


def prepared(root: Path) -> Recipe:
    """Makes four songs with the codes of an untrained codec, and returns the recipe that trains on them."""
    data = root / "data"
    few = ["data.songs=4", "data.seconds_min=8", "data.seconds_max=12", "prepare.workers=1"]
    assert songkit(["prepare", "levo2/mini/songs", "--out", str(data), *few]) == 0
    codes = [*CODEC, f"paths.data={data}", "prepare.workers=1", "paths.tokens=none"]
    assert songkit(["prepare", "levo2/mini/tokenize", "--out", str(data), *codes]) == 0
    paths = [f"paths.data={data}", f"paths.validation={data}", "paths.tokens=none"]
    return load("levo2/mini/planner", [*PLANNER, *paths], registry=Registry.discover())


def tried(recipe: Recipe, root: Path, temporary: Path, kills: int, args: argparse.Namespace) -> dict[str, Any]:
    """Kills and goes on; returns what was counted."""
    draw = random.Random(f"{args.seed}/{temporary}")
    counted: Counter[str] = Counter(kills=0, corrupt=0, states=0, finished=0, unequal=0)
    run = root / f"{temporary.name}-0"
    while counted["kills"] < kills or run.exists():
        process = started(recipe, run, temporary)
        # The last training is left alone in the end, so that what all its kills left behind is compared too.
        process.join(draw.uniform(0.05, args.longest) if counted["kills"] < kills else None)
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            counted["kills"] += 1
            counted["states"] += len(list((run / "checkpoints").glob("step-*.pt")))
            counted["corrupt"] += corrupt(run, recipe)
            continue
        if process.exitcode != 0:
            raise SystemExit(f"the training in {run} ended with status {process.exitcode}: it could not go on")
        counted["finished"] += 1
        counted["unequal"] += not equal(run, root / "whole")
        run = root / f"{temporary.name}-{counted['finished']}"
        print(f"{counted['kills']} of {kills} kills, {counted['finished']} trainings finished", flush=True)
    return dict(counted)


def started(recipe: Recipe, run: Path, temporary: Path) -> Any:
    """Starts a process group that trains; it has torch imported already."""

    def work() -> None:
        os.setsid()
        os.environ["TMPDIR"] = str(temporary)
        tempfile.tempdir = None
        train(recipe, run, resume=True, progress=False)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def corrupt(run: Path, recipe: Recipe) -> int:
    """Returns how many of the files that are visible under their names are not whole."""
    damaged = 0
    for file in run.glob("checkpoints/step-*.pt"):
        if not load_alone(file):
            damaged += 1
    planner = {"planner", "conditioner"}
    parts = build_roles(recipe, planner) if any(run.glob("weights/*.safetensors")) else {}
    for file in run.glob("weights/*.safetensors"):
        try:
            load_weights(file, parts[file.stem])
        except SongkitError:
            damaged += 1
    for file in run.glob("provenance.json"):
        try:
            json.loads(file.read_text())
        except ValueError:
            damaged += 1
    return damaged


def load_alone(file: Path) -> bool:
    """Whether a state is whole, seen without the others that could stand in for it."""
    with tempfile.TemporaryDirectory(dir=file.parents[2]) as folder:
        for part in (file, file.with_suffix(".sha256")):
            if part.is_file():
                os.link(part, Path(folder) / part.name)
        try:
            return load_state(Path(folder)) is not None
        except SongkitError:
            return False


def equal(run: Path, whole: Path) -> bool:
    """Whether the bytes of the weights, and all values of the last state but the clock, are the same."""
    files = sorted(file.name for file in (whole / "weights").iterdir())
    same = all((run / "weights" / name).read_bytes() == (whole / "weights" / name).read_bytes() for name in files)
    states = [load_state(folder / "checkpoints") or {} for folder in (run, whole)]
    return same and same_values(*({k: v for k, v in state.items() if k != "elapsed"} for state in states))


def same_values(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_values(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_values, one, other))
    return bool(one == other)


if __name__ == "__main__":
    main()
