"""`songkit recipes`: which there are, what they amount to, how they differ, and whether they are right."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from songkit.errors import RecipeError
from songkit.recipe import Recipe, dump, find, headline, load, read_text
from songkit.registry import Registry

__all__ = ["add_arguments", "run"]

_RECIPE = "a name or a .yaml file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    ls = actions.add_parser("ls", help="list recipes", description="List the recipes that are installed.")
    ls.add_argument("--all", action="store_true", help="also parts of recipes, whose names start with _")
    cat = actions.add_parser("cat", help="print a recipe's file", description="Print the file of a recipe as it is.")
    cat.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    show = actions.add_parser("show", help="print a recipe", description="Print a recipe with every default filled in.")
    show.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    show.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="changes to it")
    show.add_argument("--origins", action="store_true", help="say behind each value where it comes from")
    diff = actions.add_parser(
        "diff",
        help="compare two recipes",
        description="Print the values in which two recipes differ, defaults included.",
    )
    diff.add_argument("recipe", metavar="A", help=_RECIPE)
    diff.add_argument(
        "overrides",
        metavar="B KEY=VALUE",
        nargs="+",
        help="the other recipe, changes to it, or both; without B they are changes to A",
    )
    validate = actions.add_parser(
        "validate", help="check recipes", description="Check recipes; values left open by ??? are listed, not refused."
    )
    validate.add_argument("recipe", metavar="RECIPE", nargs="?", help=f"{_RECIPE}; all recipes by default")
    validate.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="changes to it")
    for action in (ls, cat, show, diff, validate):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Lists, prints, shows, compares or validates."""
    registry = Registry.discover()
    actions = {"ls": _ls, "cat": _cat, "show": _show, "diff": _diff, "validate": _validate}
    return actions[args.action](registry, args)


def _ls(registry: Registry, args: argparse.Namespace) -> int:
    recipes = {name: path for name, path in registry.recipes().items() if args.all or not _is_part(name)}
    rows = [{"name": name, "doc": headline(path), "path": str(path)} for name, path in recipes.items()]
    if args.json:
        _print_json(rows)
    else:
        _print_columns((row["name"], row["doc"]) for row in rows)
    return 0


def _cat(registry: Registry, args: argparse.Namespace) -> int:
    path = find(args.recipe, registry)
    text = read_text(path)
    if args.json:
        _print_json({"name": args.recipe, "path": str(path), "text": text})
    else:
        print(text, end="")
    return 0


def _show(registry: Registry, args: argparse.Namespace) -> int:
    recipe = load(args.recipe, args.overrides, registry=registry, allow_missing=True)
    values = _values(recipe)
    if args.json:
        origins = {"origins": {key: recipe.origin(key) for key in values}} if args.origins else {}
        _print_json({**recipe.resolved, **origins})
    elif args.origins:
        _print_columns((f"{key}: {_written(value)}", recipe.origin(key)) for key, value in values.items())
    else:
        print(dump(recipe), end="")
    return 0


def _diff(registry: Registry, args: argparse.Namespace) -> int:
    first, *rest = args.overrides
    other, changes = (args.recipe, args.overrides) if "=" in first else (first, rest)
    a = load(args.recipe, registry=registry, allow_missing=True)
    b = load(other, changes, registry=registry, allow_missing=True)
    left, right = _values(a), _values(b)
    # What both have stands in the order of A, what only B has comes last.
    keys = [key for key in {**left, **right} if (key in left, left.get(key)) != (key in right, right.get(key))]
    if args.json:
        sides = (("a", left, a), ("b", right, b))
        _print_json(
            {
                key: {s: {"value": values[key], "origin": r.origin(key)} for s, values, r in sides if key in values}
                for key in keys
            }
        )
    elif not keys:
        print("no differences")
    else:
        before, after = ({key: _written(side[key]) for key in keys if key in side} for side in (left, right))
        _print_columns((key, f"{before.get(key, '(none)')} -> {after.get(key, '(none)')}") for key in keys)
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
        _print_json(rows)
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


def _values(recipe: Recipe) -> dict[str, Any]:
    """Returns every value of a resolved recipe by its key path, without the record of components."""

    def leaves(values: Any, path: str) -> Iterable[tuple[str, Any]]:
        if not isinstance(values, dict) or not values:
            yield path, values
            return
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)

    return dict(leaves({key: value for key, value in recipe.resolved.items() if key != "_components"}, ""))


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_columns(rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    width = min(60, max((len(first) for first, _ in rows), default=0))
    for first, second in rows:
        print(f"{first:{width}}  {second}".rstrip())
