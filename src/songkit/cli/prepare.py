"""`songkit prepare`: the songs of a source, and their codes, to memory-mapped files."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from songkit.errors import RecipeError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe with `data`: a name or a .yaml file")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes to the recipe, such as prepare.sample_rate=24000"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="the prepared set; what is there already is kept"
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, help="processes that make or read songs (default: prepare.workers)"
    )
    parser.add_argument("--json", action="store_true", help="print what is there as JSON")


def run(args: argparse.Namespace) -> int:
    """Prepares the songs of a recipe."""
    from songkit.recipe import load
    from songkit.registry import Registry

    if args.workers is not None and not 1 <= args.workers <= 1024:
        raise RecipeError(f"--workers is {args.workers}; expected 1 to 1024.")
    recipe = load(args.recipe, args.overrides, registry=Registry.discover())

    from songkit.prepare import prepare

    summary = prepare(recipe, args.out, workers=args.workers, progress=True)
    if args.json:
        print(json.dumps(dataclasses.asdict(summary), indent=2))
        return 0
    codes = f", codes {summary.codes}" if summary.codes else ""
    print(
        f"{summary.root}: {summary.songs} songs, {summary.seconds / 60:.1f} min, {summary.bytes / 1e6:.0f} MB "
        f"(audio {summary.audio}{codes}) in {summary.wall_seconds:.0f} s"
    )
    return 0
