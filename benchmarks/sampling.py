"""Which sampling suits a model? The same lyrics sung with different settings, under the judges.

    python benchmarks/sampling.py --keep songs/sampling --out results/sampling.json
    python benchmarks/sampling.py --try temperature=0.8 temperature=1.0 --keep songs/sampling

Settings are chosen here, so the lyrics are of the validation split: those of the test split are for reporting. The
first setting is the one that the others are compared with, song by song. Songs and scores in --keep are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import finish, test_songs
from ladder import SCORES, judged, plain, shown

from songkit.recipe import load
from songkit.registry import Registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="levo2/mini/song", help="recipe of the model (default levo2/mini/song)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="changes to the recipe")
    parser.add_argument(
        "--try", dest="tried", nargs="+", metavar="KEY=VALUE", default=["guidance=1.5", "guidance=1.25", "guidance=1"]
    )
    parser.add_argument("--songs", type=int, default=50, help="number of lyrics (default 50)")
    parser.add_argument("--seed", type=int, default=2028, help="of the lyrics and of the songs (default 2028)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(10.0, 20.0), help="lengths of the originals")
    parser.add_argument("--keep", type=Path, required=True, help="folder for songs and scores")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    registry = Registry.discover()
    shortest, longest = args.seconds
    originals = test_songs(args.songs, split="valid", seed=args.seed, shortest=shortest, longest=longest, tracks=[])
    scores: dict[str, dict[str, np.ndarray]] = {}
    for text in args.tried:
        recipe = load(args.model, [*args.set, f"generate.{text}"], registry=registry)
        scores[text] = judged(recipe, originals, args.keep / text, args.seed, registry)
    first = scores[args.tried[0]]
    rows = []
    for column in SCORES:
        row = [column.split(" (")[0]]
        for own in scores.values():
            values, change = own[column], own[column] - first[column]
            row.append(shown(values[~np.isnan(values)]))
            if own is not first:
                row[-1] += f"; {shown(change[~np.isnan(change)], sign='+')}"
        rows.append(row)
    finish(
        f"{len(originals)} requests of the validation split; beside each mean its paired difference from the first",
        ["", *scores],
        rows,
        out=args.out,
        runs=1,
        record={"model": args.model, "set": args.set, "seed": args.seed}
        | {"scores": {text: plain(own) for text, own in scores.items()}},
    )


if __name__ == "__main__":
    main()
