"""`songkit merge`: models that come from one to one again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from songkit.errors import RecipeError

__all__ = ["add_arguments", "run"]

_EXAMPLES = """examples:
  songkit merge --models runs/lyrics=0.5 runs/prompt=0.3 runs/musicality=0.2 --out runs/merged
  songkit merge levo2/mini/merge --out runs/merged            the models that a recipe names
  songkit merge levo2/mini/merge --out runs/merged --sweep    also judge points between two of them
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog, parser.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default="merge", help="a recipe with `merge`")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes to the recipe")
    parser.add_argument(
        "--models",
        metavar="RUN=COEFFICIENT",
        nargs="+",
        default=[],
        help="folders of trainings with coefficients that add up to 1; without one: an equal share of the rest",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="gets `weights`")
    parser.add_argument("--sweep", action="store_true", help="sing, judge and draw the points of `merge.sweep`")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(args: argparse.Namespace) -> int:
    """Merges models."""
    from songkit.recipe import load
    from songkit.registry import Registry

    if "=" in args.recipe:  # a change, and no recipe is named
        args.recipe, args.overrides = "merge", [args.recipe, *args.overrides]
    recipe = load(args.recipe, [*args.overrides, *_models(args.models)], registry=Registry.discover())
    if args.sweep and not any(recipe.merge.sweep.between):
        raise RecipeError(f"{recipe.path}: the recipe names no sweep. Give it `merge.sweep.between: [NAME, NAME]`.")

    from songkit.merge import merge

    weights = sorted(str(file) for file in merge(recipe, args.out).glob("*.safetensors"))
    made = {"weights": weights}
    if args.sweep:
        from songkit.sweep import sweep

        sweep(recipe, args.out, progress=True)
        made |= {"sweep": [str(args.out / name) for name in ("sweep.json", "sweep.png")]}
    print(json.dumps(made, indent=2) if args.json else "\n".join(file for files in made.values() for file in files))
    return 0


def _models(words: list[str]) -> list[str]:
    """Turns `RUN=COEFFICIENT` into changes to a recipe."""
    changes = []
    for number, word in enumerate(words):
        run, _, coefficient = word.rpartition("=") if "=" in word else (word, "", "null")
        name = f"merge.models.m{number}"
        changes += [f"{name}.run={json.dumps(str(Path(run).absolute()))}", f"{name}.coefficient={coefficient}"]
    return changes
