"""Songs a minute by how many are sung together, and how soon a stream is heard.

    python benchmarks/batches.py [--model mini/song] [--batches 1,4,8] [--songs 8] [--runs 3] [--precision bf16]

All batch sizes once, then all again, in one process. The processor's time is told beside the wall's: on a
machine that does other things only that compares. Codes must not depend on the batch: the script fails if they do.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from common import finish, requests_of, test_songs

from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.singing import SongModel, sing


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini/song")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--songs", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"])
    parser.add_argument("--max-seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = load(args.model, registry=Registry.discover())
    # Versions of songkit that are compared with this one know no precision.
    model = SongModel.load(recipe, precision=args.precision) if args.precision else SongModel.load(recipe)
    settings = dataclasses.replace(model.settings(), max_seconds=args.max_seconds)
    requests = requests_of(test_songs(args.songs, seed=3, shortest=8, longest=max(12.0, args.max_seconds)))

    def run(batch: int) -> dict[str, float]:
        wall, busy = time.perf_counter(), time.process_time()
        songs = list(sing(model, requests, seed=0, settings=settings, batch=batch))
        codes = [song.codes.ids.tolist() for song in songs]
        if seen.setdefault("codes", codes) != codes:
            raise SystemExit(f"the songs of a batch of {batch} have other codes than those before")
        seconds = sum(song.seconds for song in songs)
        stages = {name: sum(song.wall_seconds[name] for song in songs) for name in songs[0].wall_seconds}
        times = {"wall": time.perf_counter() - wall, "processor": time.process_time() - busy, **stages}
        return {name: value / seconds for name, value in times.items()} | {"seconds": seconds / len(songs)}

    seen: dict[str, object] = {}
    runs = defaultdict(list)
    for _, batch in itertools.product(range(args.runs), args.batches):
        runs[batch].append(run(batch))
    rows = [row(str(batch), measured) for batch, measured in runs.items()]
    heads = ["songs together", "songs a minute", "RTF", "of it plan", "refine", "decode", "processor time / length"]
    title = f"{args.songs} songs of {args.model}, {statistics.mean(r['seconds'] for r in runs[args.batches[0]]):.1f} s"
    first = first_audio(model, requests[:3], args.runs)
    if first is not None:
        print(f"A stream's first audio: {first:.2f} s after the request (median).\n")
    record = {"runs": dict(runs), "first_audio_seconds": first}
    finish(title, heads, rows, out=args.out, runs=args.runs, record=record)


def row(name: str, measured: Sequence[dict[str, float]]) -> list[str]:
    """Returns a row of the table: medians."""
    medians = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    parts = [medians.get(key, float("nan")) for key in ("wall", "plan", "refine", "decode", "processor")]
    return [name, f"{60 / medians['wall'] / medians['seconds']:.1f}", *(f"{part:.3f}" for part in parts)]


def first_audio(model: SongModel, requests: Sequence[SongRequest], runs: int) -> float | None:
    """Returns seconds until the first piece of a stream, or `None` where songkit is too old to stream."""
    try:
        from songkit.streaming import stream
    except ImportError:
        return None
    waits = []
    for request in [*requests] * runs:
        begin = time.perf_counter()
        next(stream(model, request, seed=0))
        waits.append(time.perf_counter() - begin)
    return statistics.median(waits)


if __name__ == "__main__":
    main()
