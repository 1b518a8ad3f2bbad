"""Generated songs under the judges: the headline numbers of a model.

    python benchmarks/songs.py --songs 50 --keep songs/bench --out results/songs.json

Sings lyrics whose words are in no training song and asks: are they the right words (phoneme error rate, with another
song's words as the control), is the voice in a key, is it silent where there are no words, does a song end by itself?
The synthesiser's own recordings of the same songs are judged beside them: no model that learnt from it can do better.
Songs that are in --keep already are judged and not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from common import finish, interval, requests_of, test_songs
from tqdm import tqdm

from songkit.evaluate import Results, build_metrics, evaluate
from songkit.generate import generate
from songkit.generated import read_generated
from songkit.recipe import choose, load
from songkit.registry import Registry
from songkit.settings import GenerateSettings
from songkit.singing import SongModel

METRICS = {name: f"judges/{name}" for name in ("phoneme-errors", "pitch", "structure", "ensemble")}
ROWS = (
    ("phoneme error rate, own words", "phoneme-errors", "per"),
    ("phoneme error rate, other words (control)", "phoneme-errors", "control"),
    ("phones heard / asked for", "phoneme-errors", "length_ratio"),
    ("voiced frames in the best of 24 keys", "pitch", "in_best_key"),
    ("- the same by chance", "pitch", "best_key_chance"),
    ("cents from the nearest semitone (chance 25)", "pitch", "off_grid"),
    ("voiced frames in the band's key (chance .583)", "ensemble", "voice_in_band_key"),
    ("voice heard in sections with words", "structure", "sung"),
    ("silence in sections without words", "structure", "silent"),
    ("voice over band, dB", "ensemble", "vocal_level"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini/song", help="recipe of the model (default mini/song)")
    parser.add_argument("--songs", type=int, default=50, help="number of lyrics (default 50)")
    parser.add_argument("--seed", type=int, default=2026, help="of the lyrics and of the songs (default 2026)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(12.0, 30.0), help="lengths of the originals")
    parser.add_argument("--batch", type=int, default=4, help="songs that are sung together (default 4)")
    parser.add_argument("--keep", type=Path, required=True, help="folder for the songs")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="sampling, such as guidance=2")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    registry = Registry.discover()
    tracks = ["vocal", "accompaniment"]
    originals = test_songs(args.songs, seed=args.seed, shortest=args.seconds[0], longest=args.seconds[1], tracks=tracks)
    recipe = load(args.model, [f"generate.{text}" for text in args.set], registry=registry)
    sing(recipe, originals, args.keep, args.seed, args.batch)
    wanted = {song.id: song for song in originals}
    songs = [song for song in read_generated(args.keep) if song.id in wanted]

    nodes = choose("metric", METRICS, [], registry=registry)
    results = {
        "songs": evaluate(songs, build_metrics(nodes), nodes=nodes, progress=True),
        "originals": evaluate(originals, build_metrics(nodes), nodes=nodes, progress=True),
    }
    rows = [[title, *(pooled(result, metric, name) for result in results.values())] for title, metric, name in ROWS]
    rows.append(["ended by themselves", interval([float(s.provenance["finished"]) for s in songs], 2), "-"])
    ratios = [song.seconds / wanted[song.id].seconds for song in songs]
    rows.append(["seconds / seconds of the original", interval(ratios, 2), "1"])
    for name, result in results.items():
        for reason in result.reasons():
            print(f"{name}: {reason}")
    finish(
        f"{len(songs)} songs of {args.model} on lyrics of the test split",
        ["", "generated", "synthesiser"],
        rows,
        out=args.out,
        runs=1,
        record={
            "model": args.model,
            "sampling": dataclasses.asdict(recipe.generate),
            "seed": args.seed,
            **{name: result.record() for name, result in results.items()},
        },
    )


def sing(recipe: Any, originals: list[Any], folder: Path, seed: int, batch: int) -> None:
    """Makes the songs that are not in the folder yet."""
    settings: GenerateSettings = recipe.generate
    requests = [request for request in requests_of(originals) if not (folder / request.id).exists()]
    if not requests:
        return
    model = SongModel.load(recipe)
    made = generate(model, requests, out=folder, seed=seed, settings=settings, batch=batch)
    for _ in tqdm(made, total=len(requests), desc="sing", unit="song"):
        pass


def pooled(results: Results, metric: str, name: str) -> str:
    """Returns a pooled number with its interval as text."""
    values = results.pooled[metric]
    if name not in values:
        return "-"
    text = f"{values[name]:.3f}"
    return text + (f" [{values[f'{name}_low']:.3f}, {values[f'{name}_high']:.3f}]" if f"{name}_low" in values else "")


if __name__ == "__main__":
    main()
