"""`songkit evaluate`: songs to numbers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songkit.errors import RecipeError, RequestError, did_you_mean, shortened

if TYPE_CHECKING:
    from songkit.interfaces.source import DataSource
    from songkit.recipe import Node
    from songkit.types import Song

__all__ = ["add_arguments", "run"]

DEFAULT_METRICS = ("judges/phoneme-errors", "judges/pitch", "judges/structure", "judges/ensemble")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "songs",
        metavar="SONGS",
        help="folder of `songkit generate`, folder of recordings, or a recipe with `data` (and `metrics`)",
    )
    parser.add_argument(
        "--metrics",
        metavar="ID",
        nargs="+",
        help=f"what to measure (default: the recipe's metrics, else {' '.join(DEFAULT_METRICS)})",
    )
    parser.add_argument(
        "--set", metavar="NAME.KEY=VALUE", action="append", default=[], help="an option, such as phoneme-errors.beam=5"
    )
    parser.add_argument("--limit", metavar="N", type=int, help="judge the first N songs only")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write all results to a JSON file")
    parser.add_argument("--json", action="store_true", help="print all results as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Judges songs; the status is 1 if a judge failed on some of them."""
    from songkit.registry import Registry

    if args.limit is not None and args.limit < 1:
        raise RequestError(f"--limit is {args.limit}; expected 1 or more.")
    _check_out(args.out)
    songs, nodes = _open(args.songs, args.metrics, args.set, Registry.discover())

    from songkit.evaluate import build_metrics, evaluate

    count = len(songs) if args.limit is None else min(args.limit, len(songs))
    results = evaluate(_First(songs, count), build_metrics(nodes), nodes=nodes, progress=sys.stderr.isatty())
    text = json.dumps(results.record(), ensure_ascii=False, indent=2, allow_nan=False)
    if args.out is not None:
        from songkit.atomic import write_atomically

        write_atomically(args.out, lambda file: file.write(f"{text}\n".encode()))
    print(text if args.json else results.table())
    if args.json:  # the table says it itself
        for reason in results.reasons():
            print(reason, file=sys.stderr)
    return 0 if results.complete else 1


class _First:
    """The first songs of a source."""

    def __init__(self, songs: DataSource | Sequence[Song], count: int) -> None:
        self.songs, self.count = songs, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Song:
        return self.songs[index]


def _open(
    source: str, metrics: Sequence[str] | None, options: Sequence[str], registry: Any
) -> tuple[DataSource | Sequence[Song], Mapping[str, Node]]:
    """Returns the songs to judge and the metrics, which are checked before the songs are looked at."""
    from songkit.generated import read_generated
    from songkit.recipe import choose

    folder = Path(source)
    nodes: Mapping[str, Node] = {}
    if metrics or folder.is_dir():
        ids = {id_.rpartition("/")[2]: id_ for id_ in metrics or DEFAULT_METRICS}
        for option in options:
            name, dot, _ = option.partition("=")[0].partition(".")
            if dot and name not in ids:
                hint = did_you_mean(name, ids) or f" Options can be set of: {', '.join(ids)}."
                raise RequestError(f"--set {shortened(option)}: '{shortened(name)}' is not among --metrics.{hint}")
        nodes = choose("metric", ids, options, registry=registry)
    if folder.is_dir():
        if any(folder.glob("*/song.json")) or (folder / "song.json").is_file():
            return read_generated(folder), nodes
        data = choose(
            "source", {"songs": "songkit/song-folder"}, [f"songs.root={json.dumps(source)}"], registry=registry
        )
        return _built(data["songs"]), nodes

    from songkit.recipe import find, load

    try:
        find(source, registry)
    except RecipeError as error:
        raise RequestError(f"'{shortened(source)}' is neither a folder of songs nor a recipe: {error}") from error
    recipe = load(source, [] if nodes else [f"metrics.{text}" for text in options], registry=registry)
    absent = "data" if "data" not in recipe.roles else "metrics"
    if "data" not in recipe.roles or not (nodes or recipe.metrics):
        raise RequestError(
            f"{recipe.path}: the recipe has no {absent} to evaluate; add it, "
            "or name metrics with --metrics. To judge generated songs, name their folder."
        )
    return _built(recipe.roles["data"]), nodes or recipe.metrics


def _built(node: Node) -> Any:
    from songkit.build import build

    return build(node)


def _check_out(out: Path | None) -> None:
    """Finds out before the work, not after it, that the result cannot be written."""
    if out is None:
        return
    from songkit.errors import OutputError

    if out.is_dir():
        raise OutputError(f"--out {out} is a folder; name a file, such as {out / 'results.json'}.")
    if out.exists():
        raise OutputError(f"--out {out} exists already; delete it or choose another name.")
