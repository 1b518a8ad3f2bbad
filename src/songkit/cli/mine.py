"""`songkit mine`: songs of a model, judged, to preference pairs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from songkit.errors import RecipeError

if TYPE_CHECKING:
    from songkit.mine import MinePlan, MineSummary

__all__ = ["add_arguments", "run"]

_EXAMPLES = """examples:
  songkit mine levo2/mini/mine --out runs/mined --dry-run     show what would be sung and judged
  songkit mine levo2/mini/mine --out runs/mined mine.limit=50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog, parser.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe with a model, judges and `mine`: a name or a file")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes to the recipe, such as mine.candidates=8"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="the mined folder; a mining in it is gone on with"
    )
    parser.add_argument("--workers", metavar="N", type=int, help="processes that sing (default: mine.workers)")
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where songs are sung: cpu, cuda, cuda:N, mps or auto (default: generate.device)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the recipe and show the plan without singing")
    parser.add_argument("--json", action="store_true", help="print the plan, or what was mined, as JSON")


def run(args: argparse.Namespace) -> int:
    """Mines; the status is 1 if a song was not judged, or a strategy found no pair."""
    from songkit.recipe import load
    from songkit.registry import Registry

    if args.workers is not None and not 1 <= args.workers <= 1024:
        raise RecipeError(f"--workers is {args.workers}; expected 1 to 1024.")
    recipe = load(args.recipe, args.overrides, registry=Registry.discover())

    from songkit.mine import mine, plan

    if args.dry_run and args.device is not None:
        from songkit.devices import find_device  # imports torch, which a plan does not need otherwise

        find_device(args.device)
    if args.dry_run:
        planned = plan(recipe, args.out)
        print(json.dumps(dataclasses.asdict(planned), indent=2) if args.json else _plan(planned, args.out))
        return 0
    summary = mine(recipe, args.out, workers=args.workers, device=args.device, progress=True)
    print(json.dumps(dataclasses.asdict(summary), indent=2) if args.json else _summary(summary, args.out))
    return 0 if summary.complete else 1


def _plan(planned: MinePlan, out: Path) -> str:
    left = planned.candidates - planned.done
    state = "finished" if planned.finished else f"{planned.done} are there, {left} are to be sung"
    return "\n".join(
        [
            f"songs       {planned.requests} requests, {planned.candidates} songs into {out}: {state}",
            f"cost        at most {planned.most_seconds / 60:.1f} min of audio to sing, and as much to judge",
            f"policy      {planned.policy}",
            f"judges      {', '.join(planned.judges)}",
            f"strategies  {', '.join(planned.strategies)}",
        ]
    )


def _summary(summary: MineSummary, out: Path) -> str:
    lines = [f"{out}: {summary.requests} requests, {summary.candidates} songs, {summary.seconds / 60:.1f} min"]
    lines += [f"{count} songs are not judged: {reason}" for reason, count in summary.not_ok.items()]
    for name, count in summary.pairs.items():
        lines.append(f"{name}: {count} pairs")
        lines += [f"  none of {requests} requests: {reason}" for reason, requests in summary.without[name].items()]
    return "\n".join(lines)
