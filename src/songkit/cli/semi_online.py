"""`songkit semi-online`: preferences in rounds, each mined of the policy that the last one made."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from songkit.recipe import Recipe

__all__ = ["add_arguments", "run"]

_EXAMPLES = """examples:
  songkit semi-online levo2/mini/semi-online --out runs/rounds --dry-run
  songkit semi-online levo2/mini/semi-online --out runs/rounds semi_online.rounds=2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog, parser.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a recipe with a model, judges, `mine`, a task and an objective"
    )
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes to the recipe, such as semi_online.rounds=2"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="the folder of the rounds; a loop in it is gone on with"
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where songs are sung: cpu, cuda, cuda:N, mps or auto (default: generate.device)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the recipe and show the plan")
    parser.add_argument("--json", action="store_true", help="print the plan, or what was found, as JSON")


def run(args: argparse.Namespace) -> int:
    """Mines and trains in rounds."""
    from songkit.recipe import load
    from songkit.registry import Registry

    recipe = load(args.recipe, args.overrides, registry=Registry.discover())
    if args.dry_run and args.device is not None:
        from songkit.devices import find_device  # imports torch, which a plan does not need otherwise

        find_device(args.device)
    if args.dry_run:
        plan = _plan(recipe, args.out)
        print(
            json.dumps(plan, indent=2) if args.json else "\n".join(f"{key:<10} {value}" for key, value in plan.items())
        )
        return 0

    from songkit._mine_inputs import score_of
    from songkit.evaluate import markdown
    from songkit.semi_online import semi_online

    outcome = semi_online(recipe, args.out, device=args.device, progress=True)
    if args.json:
        print(json.dumps(dataclasses.asdict(outcome), indent=2))
        return 0
    names = ("score", "entropy", "repetition", "seconds", "finished")
    rows = [
        [str(row["round"]), str(sum(row["pairs"].values())), *(f"{row[n]:.3f}" for n in names)]
        for row in outcome.rounds
    ]
    print(markdown(["round", "pairs", score_of(recipe), *names[1:]], rows))
    print(f"stopped: {outcome.reason}; the policy of round {outcome.best} is in {args.out / 'weights'}")
    return 0


def _plan(recipe: Recipe, out: Path) -> dict[str, str]:
    from songkit._mine_inputs import check_rounds
    from songkit.mine import plan

    check_rounds(recipe)
    settings, first = recipe.semi_online, plan(recipe, out / "round-00" / "mined")
    minings = settings.rounds + 1
    seconds = minings * first.candidates * recipe.generate.max_seconds
    there = len(list(out.glob("round-*/round.json")))
    return {
        "rounds": f"at most {settings.rounds} of {settings.steps} steps, and a last judgement; {there} are there",
        "songs": f"{first.requests} requests, {first.candidates} songs in each of {minings} minings",
        "cost": f"at most {seconds / 60:.1f} min of audio to sing and judge",
        "judges": ", ".join(first.judges),
        "policy": first.policy,
    }
