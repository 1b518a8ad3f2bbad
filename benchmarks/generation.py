"""Speed, memory and determinism of `songkit generate`.

    python benchmarks/generation.py --runs 5 --out results/generation.json

Sings a song of about 30 s in a fresh process, as a user does, several times with different seeds: real-time factor
(time / audio, at most 1 is the aim) of the whole command and of its stages, and peak memory. Then it makes one song
twice, to compare the files byte by byte, and four songs alone and together, to compare their codes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, interval, requests_of, test_songs

from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest, write_text
from songkit.singing import SongModel, sing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini/song", help="recipe of the model (default mini/song)")
    parser.add_argument("--runs", type=int, default=5, help="timed songs (default 5)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the original song (default 30)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    songs = test_songs(4, seed=3, shortest=args.seconds - 2, longest=args.seconds + 2)
    requests = requests_of(songs)
    with tempfile.TemporaryDirectory() as folder:
        runs = [command(args, requests[0], seed, Path(folder) / str(seed)) for seed in range(args.runs)]
        again = command(args, requests[0], 0, Path(folder) / "again")
    same_bytes = again["sha256"] == runs[0]["sha256"]
    same_codes = alone_or_together(args, requests)
    rows = [
        ["seconds of audio", interval([run["seconds"] for run in runs], 1)],
        ["RTF of the command (start, load, sing, write)", interval([run["wall"] / run["seconds"] for run in runs], 2)],
        ["RTF of singing alone", interval([run["rtf"] for run in runs], 2)],
        *([f"- {stage}", f"{statistics.mean(run['stages'][stage] / run['seconds'] for run in runs):.3f}"]
          for stage in runs[0]["stages"]),
        ["peak memory, MB", f"{max(run['peak'] for run in runs):.0f}"],
        ["same seed, same bytes of every file", "yes" if same_bytes else "NO"],
        ["four songs alone and as a batch, same codes", f"{same_codes} of 4"],
    ]  # fmt: skip
    finish(
        f"A song of about {args.seconds:.0f} s by {args.model}",
        ["", "value"],
        rows,
        out=args.out,
        runs=args.runs,
        record={"commands": runs, "same_bytes": same_bytes, "same_codes": same_codes},
    )


def command(args: argparse.Namespace, request: SongRequest, seed: int, out: Path) -> dict[str, Any]:
    """Runs `songkit generate` in a process of its own and returns what it took."""
    out.mkdir()
    text = out / "request.txt"
    write_text(text, request)
    words = [sys.executable, "-m", "songkit", "generate", str(text), "--out", str(out / "songs"), "--seed", str(seed)]
    words += ["--model", args.model, "--threads", str(args.threads), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # the peak memory of this child alone
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(words)} failed with status {os.waitstatus_to_exitcode(status)}")
    (song,) = json.loads(printed)["songs"]
    record = json.loads((Path(song["folder"]) / "song.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "seconds": song["seconds"],
        "finished": song["finished"],
        "wall": wall,
        "rtf": song["rtf"],
        "stages": song["wall_seconds"],
        "peak": usage.ru_maxrss / 1024,
        "sha256": record["sha256"],
    }


def alone_or_together(args: argparse.Namespace, requests: list[SongRequest]) -> int:
    """Returns how many of four songs have the same codes alone and in a batch."""
    import torch

    torch.set_num_threads(args.threads)
    model = SongModel.load(load(args.model, registry=Registry.discover()))
    together = list(sing(model, requests, seed=0, batch=len(requests)))
    alone = list(sing(model, requests, seed=0, batch=1))
    return sum(torch.equal(a.codes.ids, b.codes.ids) for a, b in zip(alone, together, strict=True))


if __name__ == "__main__":
    main()
