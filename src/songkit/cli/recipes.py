"""`songkit recipes`: which there are, what they amount to, and whether they are right."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from songkit.errors import RecipeError
from songkit.recipe import Recipe, dump, find, headline, load
from songkit.registry import Registry

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    ls = actions.add_parser("ls", help="list recipes", description="List the recipes that are installed.")
    ls.add_argument("--all", action="store_true", help="also parts of recipes, whose names start with _")
    show = actions.add_parser("show", help="print a recipe", description="Print a recipe with every default filled in.")
    show.add_argument("recipe", metavar="RECIPE", help="a name or a .yaml file")
    show.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="changes to it")
    show.add_argument("--origins", action="store_true", help="say behind each value where it comes from")
    show.add_argument("--raw", action="store_true", help="print the file as it is")
    validate = actions.add_parser(
        "validate", help="check recipes", description="Check recipes; values left open by ??? are listed, not refused."
    )
    validate.add_argument("recipe", metavar="RECIPE", nargs="?", help="a name or a .yaml file; all recipes by default")
    validate.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="changes to it")
    for action in (ls, show, validate):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Lists, shows or validates."""
    registry = Registry.discover()
    return {"ls": _ls, "show": _show, "validate": _validate}[args.action](registry, args)


def _ls(registry: Registry, args: argparse.Namespace) -> int:
    recipes = {name: path for name, path in registry.recipes().items() if args.all or not _is_part(name)}
    rows = [{"name": name, "doc": headline(path), "path": str(path)} for name, path in recipes.items()]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['doc']}".rstrip())
    return 0


def _show(registry: Registry, args: argparse.Namespace) -> int:
    if args.raw:
        print(find(args.recipe, registry).read_text(encoding="utf-8"), end="")
        return 0
    recipe = load(args.recipe, args.overrides, registry=registry, allow_missing=True)
    if args.json:
        origins = {"origins": dict(recipe.origins)} if args.origins else {}
        print(json.dumps({**recipe.resolved, **origins}, indent=2))
    elif args.origins:
        values = dict(_leaves(recipe.resolved))
        width = min(60, max(len(f"{key}: {value}") for key, value in values.items()))
        for key, value in values.items():
            print(f"{f'{key}: {value}':{width}}  {_origin(recipe, key)}")
    else:
        print(dump(recipe), end="")
    return 0


def _validate(registry: Registry, args: argparse.Namespace) -> int:
    names = [args.recipe] if args.recipe else [name for name in registry.recipes() if not _is_part(name)]
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    for name in names:
        row: dict[str, Any] = {"name": name, "missing": [], "problems": []}
        try:
            recipe = load(name, args.overrides, registry=registry, allow_missing=True)
            row["missing"] = list(recipe.missing)
        except RecipeError as error:
            row["problems"] = list(error.problems)
            problems += error.problems
        rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 2 if problems else 0
    for row in rows:
        if not row["problems"]:
            to_give = f"; to be given: {', '.join(row['missing'])}" if row["missing"] else ""
            print(f"{row['name']}: valid{to_give}")
    sys.stdout.flush()
    if problems:
        raise RecipeError(problems)
    return 0


def _is_part(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("/"))


def _leaves(values: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, dict) or not values:
        return [(path, json.dumps(values, ensure_ascii=False))]
    below = [_leaves(value, f"{path}.{key}" if path else key) for key, value in values.items() if key != "_components"]
    return [leaf for leaves in below for leaf in leaves]


def _origin(recipe: Recipe, key: str) -> str:
    short = key.removesuffix(".use")  # `codec: levo2/music-codec` is short for `codec: {use: ...}`
    return recipe.origins.get(key) or recipe.origins.get(short) or "default"
