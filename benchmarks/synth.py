"""How fast the synthesiser makes songs, how well its singers hit their notes, how well their words are understood.

    pip install 'songkit-synth[bench]'
    python benchmarks/synth.py speed --out results/synth-speed.json
    python benchmarks/synth.py notes --out results/synth-notes.json
    python benchmarks/synth.py words --out results/synth-words.json

A note is hit when the median pitch that a tracker hears while it lasts is within 50 cents of it; a note in which the
tracker hears no pitch is missed. The songs are of the test split: no setting of the singers was chosen on them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import finish
from tqdm import tqdm

from songkit.types import Song

MONO = {"sample_rate": 24000, "channels": 1, "tracks": ["vocal"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "notes", "words"))
    parser.add_argument("--songs", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=2024, help="of the songs (default 2024)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(10.0, 20.0), help="their lengths (default 10 20)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers
    {"speed": speed, "notes": notes, "words": words}[args.what](args)


def speed(args: argparse.Namespace) -> None:
    """All tracks at 48 kHz in stereo, written to disk, by warm processes."""
    folder = Path(tempfile.mkdtemp(prefix="songkit-synth-"))
    try:
        for title, options in (("all tracks, 48 kHz stereo", {}), ("vocal, 24 kHz mono", MONO)):
            with pool(args) as workers:
                warm = [workers.submit(write, options, args, i, folder) for i in range(4 * args.workers)]
                [future.result() for future in warm]
                start, busy = time.perf_counter(), os.times()
                lengths = run(workers, title, write, options, args, folder)
                wall = time.perf_counter() - start
            after = os.times()  # of the workers once they have ended
            used = after.children_user + after.children_system - busy.children_user - busy.children_system
            rows = [
                [
                    title,
                    str(len(lengths)),
                    f"{sum(lengths):.0f}",
                    f"{wall:.1f}",
                    f"{used:.1f}",
                    f"{sum(lengths) / wall:.1f}",
                ]
            ]
            heads = ["songs", "number", "seconds of song", "wall seconds", "processor seconds", "times real time"]
            out = args.out and args.out.with_stem(args.out.stem + ("-vocal" if options else ""))
            finish(f"Making songs with {args.workers} processes", heads, rows, out=out, runs=1,
                   record={"songs": len(lengths), "audio": sum(lengths), "wall": wall, "cpu": used})  # fmt: skip
    finally:
        shutil.rmtree(folder)


def notes(args: argparse.Namespace) -> None:
    """Share of notes within 50 cents, for each singer on its own and each tracker."""
    with pool(args) as workers:
        found = run(workers, "notes", hear, MONO, args, None)
    rows, record = [], []
    for singer in ["all", *sorted({name for name, _ in found})]:
        songs = [cents for name, cents in found if singer in (name, "all")]
        row = [singer, str(len(songs)), str(sum(len(c) for c in songs))]
        for k, tracker in enumerate(TRACKERS):
            hits = [np.abs(c[:, k]) < 50 for c in songs]  # NaN, where nothing was heard, is a miss
            low, high = bootstrap(hits)
            heard = np.concatenate([c[:, k] for c in songs])
            share = float(np.mean(np.concatenate(hits)))
            row += [f"{share:.3f} [{low:.3f}, {high:.3f}]", f"{np.nanmedian(np.abs(heard)):.1f}"]
            record.append({
                "singer": singer, "tracker": tracker, "share": share, "low": low, "high": high,
                "unheard": float(np.mean(np.isnan(heard))), "median_cents": float(np.nanmedian(np.abs(heard))),
                "octaves": float(np.mean(np.abs(np.abs(heard) - 1200) < 50)),
            })  # fmt: skip
        rows.append(row)
    heads = ["singer", "songs", "notes"]
    for tracker in TRACKERS:
        heads += [f"within 50 cents ({tracker})", "median error, cents"]
    finish("Notes that are hit", heads, rows, out=args.out, runs=1, record={"shares": record})


def words(args: argparse.Namespace) -> None:
    """Phoneme error rate of the vocals, for each singer on its own."""
    from songkit_judges.phonemes import phoneme_errors

    with pool(args) as workers:
        found = run(workers, "words", transcribe, MONO, args, None)
    rows, record = [], {}
    for singer in ["all", *sorted({name for name, *_ in found})]:
        own = [(text, heard) for name, text, heard in found if singer in (name, "all")]
        errors = phoneme_errors([text for text, _ in own], [heard for _, heard in own])
        per = f"{errors.per:.3f} [{errors.low:.3f}, {errors.high:.3f}]"
        control = f"{errors.control:.3f}" if len(own) > 1 else "-"
        rows.append([singer, str(len(own)), per, control, f"{errors.length_ratio:.2f}"])
        record[singer] = {"songs": len(own), "per": errors.per, "low": errors.low, "high": errors.high}
    heads = ["singer", "songs", "phoneme error rate", "against other words", "length ratio"]
    finish("Words that are understood", heads, rows, out=args.out, runs=1, record={"errors": record})


# --- in the workers ------------------------------------------------------------------------------------------


@cache
def source(**options: Any) -> Any:
    from songkit_synth.configs import SynthSongsConfig
    from songkit_synth.source import build

    return build(
        SynthSongsConfig(split="test", **{k: list(v) if isinstance(v, tuple) else v for k, v in options.items()})
    )


def song(options: dict[str, Any], args: argparse.Namespace, index: int) -> Song:
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    low, high = args.seconds
    return source(songs=args.songs + 64, seed=args.seed, seconds_min=low, seconds_max=high, **fixed)[index]


def write(options: dict[str, Any], args: argparse.Namespace, index: int, folder: Path) -> float:
    from songkit_synth.folders import write_song

    made = song(options, args, index)
    write_song(made, folder)
    return made.seconds


def hear(options: dict[str, Any], args: argparse.Namespace, index: int, _: None) -> tuple[str, np.ndarray]:
    """Returns the singer, and for each note [N, trackers] how many cents too high each tracker hears it."""
    made = song(options, args, index)
    sound = made.tracks["vocal"].read()[0]
    heard = [track(sound) for track in TRACKERS.values()]
    cents = []
    for note in made.alignment.notes:
        row = []
        for times, pitch in heard:
            inside = pitch[(times >= note.start) & (times <= note.end) & (pitch > 0)]
            wanted = 440.0 * 2 ** ((note.pitch - 69) / 12)
            row.append(1200 * np.log2(np.median(inside) / wanted) if len(inside) > 1 else np.nan)
        cents.append(row)
    return str(made.provenance["singer"]), np.array(cents)


def transcribe(options: dict[str, Any], args: argparse.Namespace, index: int, _: None) -> tuple[str, str, str]:
    from songkit_judges.whisper import transcribe as listen

    made = song(options, args, index)
    text = "\n".join(line for section in made.sections for line in section.lines)
    return str(made.provenance["singer"]), text, listen(made.tracks["vocal"].read(), 24000)


def harvest(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tracks pitch by WORLD's Harvest (Morise 2017)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyworld warns of its own import of pkg_resources
        import pyworld

    pitch, times = pyworld.harvest(sound.astype(np.float64), 24000, f0_floor=70.0, f0_ceil=900.0, frame_period=5.0)
    return times, pitch


def swift(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tracks pitch by SwiftF0, a small neural network."""
    found = swift_model().detect(sound, 24000)
    return found.timestamps, np.where(found.confidence >= 0.5, found.pitch_hz, 0.0)


@cache
def swift_model() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)


TRACKERS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {"harvest": harvest, "swift-f0": swift}


# --- in the main process -------------------------------------------------------------------------------------


def pool(args: argparse.Namespace) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(args.workers, mp_context=get_context("spawn"))


def run(
    workers: ProcessPoolExecutor,
    title: str,
    job: Callable[..., Any],
    options: dict[str, Any],
    args: argparse.Namespace,
    extra: Path | None,
) -> list[Any]:
    futures = [workers.submit(job, options, args, index, extra) for index in range(args.songs)]
    bar: Iterable[Any] = tqdm(futures, desc=title, unit="song", file=sys.stderr)
    return [future.result() for future in bar]


def bootstrap(hits: Sequence[np.ndarray], replicates: int = 2000) -> tuple[float, float]:
    """Returns the 95 % interval of a share of notes, drawing whole songs."""
    sums = np.array([[h.sum(), len(h)] for h in hits], dtype=np.float64)
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(replicates, len(sums)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
