"""Does a song find its way through its lyrics, and to an end?

    python benchmarks/endings.py --out results/endings.json
    python benchmarks/endings.py --set planner.weights=RUN/weights/planner.safetensors

Plans the same lyrics with many seeds; no audio is made, so a song costs a second or two. A planner that waits for the
rest of the song at some place of the lyrics, or goes on after them, shows in how many end, and in how long the longest
of each section is.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from common import finish, interval

from songkit._lockstep import plan_sampling
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import read_requests
from songkit.singing import check_requests, song_seed
from songkit.song_model import SongModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini/song", help="recipe of the model (default mini/song)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="changes to the recipe")
    parser.add_argument("--lyrics", type=Path, default=Path("examples/lyrics.txt"), help="the first request counts")
    parser.add_argument("--seeds", type=int, default=32, help="seeds from 1 on (default 32)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    recipe = load(args.model, args.set, registry=Registry.discover())
    model, request, settings = SongModel.load(recipe), read_requests(args.lyrics)[0], recipe.generate
    check_requests(model, [request], settings)
    seeds = [song_seed(seed, request.id) for seed in range(1, args.seeds + 1)]
    with torch.inference_mode():
        plan = model.planner.generate(
            model.conditioner([request] * len(seeds), null=settings.guidance != 1, side="planner"),
            sampling=plan_sampling(settings, model.frame_rate),
            max_frames=math.ceil(settings.max_seconds * model.frame_rate),
            seeds=seeds,
        )
    if plan.cursor is None or plan.finished is None:
        raise SystemExit(f"the planner of {args.model} does not say where in the lyrics it is, or when it ends")
    songs = []
    for i, frames in enumerate(plan.codes.lengths.tolist()):
        alignment = model.conditioner.align(request, plan.cursor[i, :frames].numpy(), model.frame_rate)
        assert alignment is not None
        sections = [[span.label, round(span.end - span.start, 2)] for span in alignment.sections]
        song = {"seed": i + 1, "ended": bool(plan.finished[i]), "seconds": frames / model.frame_rate}
        songs.append({**song, "sections": sections})
    ended = [float(song["ended"]) for song in songs]
    rows = [
        ["ended by themselves", interval(ended, 2)],
        ["seconds", interval([song["seconds"] for song in songs], 1)],
    ]
    for number, section in enumerate(request.sections):
        seconds = [song["sections"][number][1] for song in songs if len(song["sections"]) > number]
        if seconds:
            median, most = np.median(seconds), max(seconds)
            reached = f"{len(seconds)} of {len(songs)}"
            rows.append(
                [f"section {number + 1}, {section.tag}", f"{median:.1f} s, at most {most:.1f}; reached by {reached}"]
            )
    finish(
        f"{request.id}, planned with {len(songs)} seeds",
        ["", args.model],
        rows,
        out=args.out,
        runs=len(songs),
        record={"model": args.model, "set": args.set, "songs": songs},
    )


if __name__ == "__main__":
    main()
