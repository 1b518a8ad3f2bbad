"""`songkit merge`: models that come from one to one again."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songkit.errors import RecipeError, RequestError, shortened

if TYPE_CHECKING:
    from songkit._yaml import Item

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
    models, changes = _models(args.models)
    overrides = [*args.overrides, *changes, *([models] if args.models else [])]
    recipe = load(args.recipe, overrides, registry=Registry.discover())
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


def _models(words: list[str]) -> tuple[Item, list[str]]:
    """Turns `RUN=COEFFICIENT` into models of a recipe, named by their folders; changes among the words come second."""
    from songkit._yaml import Place, located

    models: dict[str, dict[str, str | float | None]] = {}
    changes = []
    for word in words:
        folder, _, share = ("", "", "") if Path(word).is_dir() else word.rpartition("=")
        run = Path(folder or word).absolute()
        if word.startswith("merge.") and folder and not run.is_dir():
            changes.append(word)
            continue
        try:
            coefficient = float(share) if folder else None
        except ValueError:
            raise RequestError(
                f"--models {shortened(word)}: expected RUN or RUN=COEFFICIENT with a number, found "
                f"'{shortened(share)}'. Changes to the recipe (key=value) stand before --models."
            ) from None
        if not run.is_dir():
            raise RequestError(
                f"--models {shortened(word)}: there is no folder {shortened(str(run))}. Name the folder of a finished "
                "training."
            )
        models[_name(run, models)] = {"run": str(run), "coefficient": coefficient}
    return located({"merge": {"models": models}}, Place(None, text=f"--models {' '.join(words)}")), changes


def _name(run: Path, taken: Mapping[str, Any]) -> str:
    """Returns a name for a run: that of its folder, with those of the folders around it if another has it."""
    parts = [re.sub(r"[^\w-]+", "-", part) for part in run.parts[1:]] or ["root"]
    longer = ("-".join(parts[-count:]) for count in range(1, len(parts) + 1))
    numbered = (f"{parts[-1]}-{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (*longer, *numbered) if name not in taken)
