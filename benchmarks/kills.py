"""Kills a training at random points and lets it go on, until it has been killed often enough.

    python benchmarks/kills.py --kills 200 --folder results/kills --out results/kills.json

A small planner is trained on songs made on the spot, with worker processes and accumulated gradients, and a training
state every other step. First nobody interrupts it, and all its states are kept. Then each process is killed (SIGKILL,
workers included) at a random point: after some states, and a random part of the time that one takes. Half of the kills
have TMPDIR on the run's own file system, half on another. After each kill every file that is visible under its name is
checked, and the states are compared, value by value, with those of the uninterrupted training; at the end of each
training so are its weights, byte by byte. What was counted is kept in FOLDER: run again, the command goes on with the
kills that are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import finish

from songkit import checkpoint, cli
from songkit.build import build_roles
from songkit.checkpoint import load_state, load_weights
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
    "trainer={max_steps: 40, batch_size: 2, accumulate: 2, workers: 2, validate_every: 0, checkpoint_every: 2}",
    "trainer={log_every: 1, accelerator: cpu, ema_decay: 0.9, weights_dtype: float32, threads: 1}",
    "seed=7",
]
MOST_STATES = 8
"""A process is killed before it has written more, so that a training is killed several times."""
COUNTED = {
    "kills": "kills",
    "writing": "in the middle of writing a file",
    "corrupt": "corrupt files visible",
    "resumed": "of trainings that had gone on before",
    "states": "states compared",
    "unequal_states": "unequal ones",
    "finished": "trainings finished",
    "unequal_ends": "unequal ends",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many processes are killed in all")
    parser.add_argument("--seed", type=int, default=1, help="of the times")
    parser.add_argument("--folder", type=Path, default=Path("results/kills"), help="where to train and to count")
    parser.add_argument("--other", type=Path, default=Path("/dev/shm"), help="folder on another file system")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a forked process cannot use the threads of this one
    root: Path = args.folder.resolve()
    recipe = prepared(root)
    (root / "tmp").mkdir(exist_ok=True)
    temporary = {"the same file system": root / "tmp"}
    if args.other.is_dir() and args.other.stat().st_dev != root.stat().st_dev:
        temporary["another file system"] = args.other
    else:
        print(f"WARNING: {args.other} is on no other file system than {root}: only one kind of TMPDIR is tried")
    uninterrupted(recipe, root)
    rows = []
    for number, (name, path) in enumerate(temporary.items()):
        events = tried(recipe, root / f"runs-{number}", path, args.kills // len(temporary), args.seed)
        rows.append([name, *({key: sum(e.get(key, 0) for e in events) for key in COUNTED}.values())])
    heads = ["TMPDIR", *COUNTED.values()]
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
    if not (root / "prepared").exists():
        few = ["data.songs=4", "data.seconds_min=8", "data.seconds_max=12", "prepare.workers=1"]
        assert cli.main(["prepare", "levo2/mini/songs", "--out", str(data), *few]) == 0
        codes = [*CODEC, f"paths.data={data}", "prepare.workers=1", "paths.tokens=none"]
        assert cli.main(["prepare", "levo2/mini/tokenize", "--out", str(data), *codes]) == 0
        (root / "prepared").touch()
    paths = [f"paths.data={data}", f"paths.validation={data}", "paths.tokens=none"]
    return load("levo2/mini/planner", [*PLANNER, *paths], registry=Registry.discover())


def uninterrupted(recipe: Recipe, root: Path) -> None:
    """Trains once without a kill, and keeps every state."""
    if (root / "uninterrupted").exists():
        return
    shutil.rmtree(root / "whole", ignore_errors=True)
    kept, checkpoint._KEPT_STATES = checkpoint._KEPT_STATES, 10**6
    train(recipe, root / "whole", progress=False)
    checkpoint._KEPT_STATES = kept
    (root / "uninterrupted").touch()


def tried(recipe: Recipe, folder: Path, temporary: Path, kills: int, seed: int) -> list[dict[str, Any]]:
    """Kills and goes on; returns what was found after each kill and at each end, also by calls before."""
    folder.mkdir(exist_ok=True)
    journal = folder / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    whole = folder.parent / "whole"
    while True:
        killed, finished = (sum(event.get(key, 0) for event in events) for key in ("kills", "finished"))
        run = folder / f"run-{finished}"
        if killed >= kills and not run.exists():
            return events
        known = set(states_of(run))
        process = started(recipe, run, temporary)
        if killed < kills:
            wait(process, run, random.Random(f"{seed}/{temporary}/{len(events)}"))
        else:  # the last training is left alone in the end, so that what all its kills left behind is compared too
            process.join()
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            event = {"kills": 1, "resumed": int(bool(known)), "writing": int(any(run.rglob(".*.partial")))}
        elif process.exitcode == 0:
            event = {"finished": 1, "unequal_ends": int(not equal_weights(run, whole))}
        else:
            raise SystemExit(f"the training in {run} ended with status {process.exitcode}: it could not go on")
        new = [file for file in states_of(run) if file not in known]
        event |= {"corrupt": corrupt(run, recipe), "states": len(new)}
        event["unequal_states"] = sum(not equal_state(file, whole) for file in new)
        events.append(event)
        with journal.open("a") as file:
            file.write(json.dumps(event) + "\n")
        print(f"{temporary}: {len(events)} processes, {event}", flush=True)


def wait(process: Any, run: Path, draw: random.Random) -> None:
    """Waits for a random number of states, and then a random part of the time that one takes."""
    took = 5.0  # about what it takes to begin
    for _ in range(draw.randrange(MOST_STATES)):
        began, seen = time.monotonic(), states_of(run)[-1:]
        while states_of(run)[-1:] == seen and process.is_alive():
            time.sleep(0.01)
        took = time.monotonic() - began
    process.join(draw.uniform(0, took))


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


def states_of(run: Path) -> list[Path]:
    return sorted(run.glob("checkpoints/step-*.pt"))


def corrupt(run: Path, recipe: Recipe) -> int:
    """Returns how many of the files that are visible under their names are not whole."""
    damaged = sum(state_alone(file) is None for file in states_of(run))
    parts = build_roles(recipe, {"planner", "conditioner"}) if any(run.glob("weights/*.safetensors")) else {}
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


def state_alone(file: Path) -> dict[str, Any] | None:
    """Reads a state without the others that could stand in for it; None if it is not whole."""
    with tempfile.TemporaryDirectory(dir=file.parents[2]) as folder:
        for part in (file, file.with_suffix(".sha256")):
            if part.is_file():
                os.link(part, Path(folder) / part.name)
        try:
            return load_state(Path(folder))
        except SongkitError:
            return None


def equal_state(file: Path, whole: Path) -> bool:
    """Whether all values of a state but the clock are those of the uninterrupted training at that step."""
    one, other = (dict(state_alone(path) or {}) for path in (file, whole / "checkpoints" / file.name))
    return bool(one) and all(same(a, b) for a, b in zip(values(one), values(other), strict=True))


def equal_weights(run: Path, whole: Path) -> bool:
    """Whether the bytes of the weights are those of the uninterrupted training."""
    files = sorted(file.name for file in (whole / "weights").iterdir())
    return all((run / "weights" / name).read_bytes() == (whole / "weights" / name).read_bytes() for name in files)


def values(state: Any) -> Iterator[Any]:
    """Yields all keys and values of a state but the clock, in their order."""
    if isinstance(state, dict):
        for key, value in state.items():
            if key != "elapsed":
                yield key
                yield from values(value)
    elif isinstance(state, list):
        for value in state:
            yield from values(value)
    else:
        yield state


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


if __name__ == "__main__":
    main()
