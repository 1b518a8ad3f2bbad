"""What the musicality knob of the synthesiser does to the judges.

    python benchmarks/tiers.py --songs 40 --out results/tiers.json

The same songs (words, tune, singer, arrangement) are made at every tier and judged. Words should stay; tune, harmony
and balance should go from tier to tier. A judge whose intervals do not part cannot tell the tiers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import finish, test_songs
from songs import METRICS, pooled

from songkit.evaluate import build_metrics, evaluate
from songkit.recipe import choose
from songkit.registry import Registry
from songkit.types import TIERS

COLUMNS = (
    ("phoneme error rate", "phoneme-errors", "per"),
    ("notes in tune", "pitch", "in_tune"),
    ("in the song's key", "pitch", "in_key"),
    ("cents off the semitones", "pitch", "off_grid"),
    ("in the band's key", "ensemble", "voice_in_band_key"),
    ("band in its key", "ensemble", "band_in_key"),
    ("spread of voice over band, dB", "ensemble", "vocal_level_spread"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=40, help="songs of each tier (default 40)")
    parser.add_argument("--seed", type=int, default=77, help="of the songs (default 77)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(12.0, 24.0), help="their lengths")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    nodes = choose("metric", METRICS, [], registry=Registry.discover())
    rows, record = [], {}
    for tier in reversed(TIERS):
        songs = test_songs(
            args.songs,
            seed=args.seed,
            shortest=args.seconds[0],
            longest=args.seconds[1],
            tracks=["vocal", "accompaniment"],
            tiers={tier: 1.0},
        )
        results = evaluate(songs, build_metrics(nodes), nodes=nodes, progress=True)
        rows.append([tier, *(pooled(results, metric, name) for _, metric, name in COLUMNS)])
        record[tier] = results.record()
    heads = ["tier", *(title for title, _, _ in COLUMNS)]
    title = f"The same {args.songs} songs of the synthesiser at five tiers"
    finish(title, heads, rows, out=args.out, runs=1, record=record)


if __name__ == "__main__":
    main()
