"""The ladder as a table: a row for each stage and each ablation, on the same requests, with paired differences.

    python benchmarks/ladder.py --ladder runs/ladder --songs 100 --keep songs/ladder --out results/ladder.json
    python benchmarks/ladder.py --ladder runs/ladder --only "pre-training" "+ SFT" --keep songs/ladder

Sings the same lyrics of the test split with what each stage has made (`songkit train levo2/mini/ladder` and the recipes
of levo2/mini/ablations and mini/ablations, all with --out LADDER), judges the songs, and compares each row song by song
with the row it is a change of. Rows that are not trained yet are left out and named. Songs and scores in --keep are not
made again.

--picture draws those differences, a panel for each judge.

Some judges also chose the pairs that the models were trained on. Their columns say `chosen by`, as far as a row's
training used them; `key`, `quality` and the lengths chose nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, mean_interval, requests_of, test_songs
from tqdm import tqdm

from songkit.evaluate import build_metrics, evaluate
from songkit.generate import generate
from songkit.generated import read_generated
from songkit.recipe import Recipe, choose, load
from songkit.registry import Registry
from songkit.singing import SongModel
from songkit.types import Song

LADDER, ABLATIONS, SHIPPED = "levo2/mini/ladder", "levo2/mini/ablations", "mini/ablations"


@dataclass(frozen=True)
class Row:
    """A model of the table."""

    name: str
    ladder: str
    """The recipe whose stages made it."""
    against: str = ""
    """The row that it is a change of."""
    paper: str = ""
    """What the papers report of that change."""
    parts: Mapping[str, str] | None = None
    """The stage of each role's weights; the ladder's own `song` where there is none."""


def heard(stage: str, conditioner: str = "") -> dict[str, str]:
    """Returns the parts of a stage's planner with the voice that all stages share."""
    return {"codec": "diffusion", "planner": stage, "conditioner": conditioner or stage, "refiner": "voice"}


ROWS = (
    Row("pre-training", LADDER, parts=heard("pretrain", "voice"), paper="OVL 4.61, PER 11.1"),
    Row("+ SFT", LADDER, "pre-training", "OVL 5.02, PER 10.6", heard("sft")),
    Row("+ offline DPO", LADDER, "+ SFT", "PER 9.2", heard("dpo")),
    Row("+ semi-online DPO", LADDER, "+ offline DPO", "OVL 5.37", heard("semi-online")),
    Row("+ extension", LADDER, "+ semi-online DPO", "OVL 5.48, PER 8.6"),
    Row("no preferences", f"{ABLATIONS}/no-dpo", "+ extension"),
    Row("no delay", f"{ABLATIONS}/no-delay", "no preferences", "PER 47.1"),
    Row("no track refiner", f"{ABLATIONS}/no-refiner", "no preferences", "PER 22.4"),
    Row("no tiers", f"{ABLATIONS}/no-tiers", "no preferences", "OVL 4.92"),
    Row("tiers that a judge hears", f"{ABLATIONS}/heard-tiers", "no preferences"),
    Row("pre-training, shipped codec", f"{SHIPPED}/pre-training"),
    Row("pre-training, no delay", f"{SHIPPED}/pre-training-no-delay", "pre-training, shipped codec", "PER 47.1"),
    Row("pre-training, no tiers", f"{SHIPPED}/pre-training-no-tiers", "pre-training, shipped codec", "OVL 4.92"),
    Row("LeVo, no DPO", f"{ABLATIONS}/levo-no-dpo", paper="PER 10.6, MuQ-T .31, CE 7.70"),
    Row("LeVo, strategy 1: lyrics", f"{ABLATIONS}/levo-strategy-1", "LeVo, no DPO", "PER 6.5, MuQ-T .30, CE 7.72"),
    Row("LeVo, strategy 2: prompt", f"{ABLATIONS}/levo-strategy-2", "LeVo, no DPO", "PER 10.3, MuQ-T .34, CE 7.75"),
    Row("LeVo, strategy 3: musicality", f"{ABLATIONS}/levo-strategy-3", "LeVo, no DPO", "PER 11.2, MuQ-T .32, CE 7.78"),
    Row("LeVo, joint", f"{ABLATIONS}/levo-joint", "LeVo, no DPO", "PER 7.5, MuQ-T .33, CE 7.76"),
    Row("LeVo, interpolation", "levo2/mini/levo-ladder", "LeVo, no DPO", "PER 7.2, MuQ-T .34, CE 7.78"),
)

METRICS = {name: f"judges/{name}" for name in ("phoneme-errors", "style", "ensemble", "musicality", "voice-quality")}
SCORES = {
    "PER ↓ (chosen by: lyrics)": ("phoneme-errors", "per"),
    "style ↑ (chosen by: prompt)": ("style", "agreement"),
    "key ↑": ("ensemble", "voice_in_band_key"),
    "musicality ↑ (chosen by: musicality, semi-online, heard tiers)": ("musicality", "musicality"),
    "quality ↑": ("voice-quality", "background"),
    "ended ↑": ("", "ended"),
    "length": ("", "length"),
}
"""Columns: a judge and one of its numbers for a song; or what the song itself tells."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, required=True, help="folder that the ladders were climbed in")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", choices=[row.name for row in ROWS], help="rows (default all)"
    )
    parser.add_argument("--songs", type=int, default=100, help="number of lyrics (default 100)")
    parser.add_argument("--seed", type=int, default=2027, help="of the lyrics and of the songs (default 2027)")
    parser.add_argument("--seconds", type=float, nargs=2, default=(10.0, 20.0), help="lengths of the originals")
    parser.add_argument("--keep", type=Path, required=True, help="folder for songs and scores")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--picture", type=Path, help="SVG file for the paired differences")
    args = parser.parse_args()

    registry = Registry.discover()
    originals = test_songs(args.songs, seed=args.seed, shortest=args.seconds[0], longest=args.seconds[1], tracks=[])
    scores: dict[str, dict[str, np.ndarray]] = {}
    missing = []
    for row in ROWS:
        if args.only and row.name not in args.only:
            continue
        recipe = model(row, args.ladder, registry)
        if recipe is None:
            missing.append(row.name)
            continue
        scores[row.name] = judged(recipe, originals, args.keep / row.name.replace(" ", "-"), args.seed, registry)
    if missing:
        print(f"not trained in {args.ladder}, and left out: {', '.join(missing)}\n")
    if args.picture:
        draw([row for row in ROWS if row.name in scores and row.against in scores], scores, args.picture)
    table = [cells(row, scores) for row in ROWS if row.name in scores]
    finish(
        f"{len(originals)} requests of the test split; below each mean its paired difference from the row it changes",
        ["row", "against", *SCORES, "the papers"],
        table,
        out=args.out,
        runs=1,
        record={"seed": args.seed, "scores": {name: plain(own) for name, own in scores.items()}},
    )


def model(row: Row, folder: Path, registry: Registry) -> Recipe | None:
    """Returns the model of a row, or `None` while its stages are not finished."""
    record = folder / f"{row.ladder.replace('/', '-')}.json"
    stages = json.loads(record.read_text())["stages"] if record.is_file() else {}
    if set(row.parts.values() if row.parts else ["song"]) - stages.keys():
        return None
    if row.parts is None:
        return load(folder / stages["song"] / "resolved.yaml", registry=registry)
    paths = [f"paths.{role}={folder / stages[stage]}/weights/{role}.safetensors" for role, stage in row.parts.items()]
    return load("levo2/mini/song", paths, registry=registry)


def judged(recipe: Recipe, originals: list[Song], folder: Path, seed: int, registry: Registry) -> dict[str, np.ndarray]:
    """Returns the scores of a model's songs by column, one for each request; those that are there are read."""
    kept = folder / "scores.json"
    if not kept.is_file():
        requests = [r for r in requests_of(originals) if not (folder / r.id / "song.json").is_file()]
        if requests:
            made = generate(SongModel.load(recipe), requests, out=folder, seed=seed, settings=recipe.generate, batch=16)
            for _ in tqdm(made, total=len(requests), desc=folder.name, unit="song"):
                pass
        nodes = choose("metric", METRICS, [], registry=registry)
        songs = {song.id: song for song in read_generated(folder)}
        results = evaluate([songs[o.id] for o in originals], build_metrics(nodes), nodes=nodes, progress=True)
        for reason in results.reasons():
            print(f"{folder.name}: {reason}")
        own: dict[tuple[str, str], dict[str, Any]] = {}
        own.update({(cell.song, cell.metric): dict(cell.values) for cell in results.cells})
        for original in originals:
            song = songs[original.id]
            length = song.seconds / planned_seconds(original)
            own[song.id, ""] = {"ended": float(song.provenance["finished"]), "length": length}
        rows = {title: [own[o.id, m].get(n) for o in originals] for title, (m, n) in SCORES.items()}
        kept.write_text(json.dumps(rows) + "\n")
    read = json.loads(kept.read_text())
    return {title: np.array([np.nan if v is None else v for v in read[title]]) for title in SCORES}


def planned_seconds(song: Song) -> float:
    """Returns how long the original is, of which no audio is made."""
    assert song.alignment is not None
    return song.alignment.sections[-1].end


def cells(row: Row, scores: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Returns a line of the table: means with intervals, and the paired differences."""
    out = [row.name, row.against]
    for title in SCORES:
        own = scores[row.name][title]
        text = shown(own[~np.isnan(own)])
        if row.against in scores:
            text += f"; {shown(changes(row, scores, title), sign='+')}"
        out.append(text)
    return [*out, row.paper]


def changes(row: Row, scores: Mapping[str, Mapping[str, np.ndarray]], title: str) -> np.ndarray:
    """Returns how far a row's songs are from those of the row it changes, of requests that both were judged for."""
    change: np.ndarray = scores[row.name][title] - scores[row.against][title]
    return change[~np.isnan(change)]


def plain(scores: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Returns scores as JSON has them: null where a song could not be judged."""
    return {title: [None if np.isnan(v) else v for v in values.tolist()] for title, values in scores.items()}


def draw(rows: Sequence[Row], scores: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Draws the paired differences with their intervals: coloured where they do not reach over zero."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    titles = [title for title in SCORES if title not in ("ended ↑", "length")]
    figure = Figure(figsize=(2.0 * len(titles) + 2.0, 0.32 * len(rows) + 1.0), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.axvline(0, color="#b5b8c0", linewidth=1)
        for place, row in enumerate(rows):
            mean, low, high = mean_interval(changes(row, scores, title).tolist())
            better = (mean < 0) == ("↓" in title)
            colour = "#b5b8c0" if low <= 0 <= high else "#2f8f5b" if better else "#e07a3f"
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot([mean], [place], "o", color=colour, markersize=5)
        axes.set_title(title.split(" (")[0], fontsize=9)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(rows)), [f"{row.name}  (from {row.against})" for row in rows])
    panels[0].invert_yaxis()
    # Neither date nor random ids: the same scores are the same file. Text stays text, not outlines.
    with matplotlib.rc_context({"svg.hashsalt": "songkit", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def shown(values: np.ndarray, sign: str = "") -> str:
    mean, low, high = mean_interval(values.tolist())
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
