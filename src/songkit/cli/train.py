"""`songkit train`: a recipe to trained weights, or a ladder stage by stage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from songkit.recipe import Node, Recipe
    from songkit.registry import Registry

__all__ = ["add_arguments", "run"]

_EXAMPLES = """examples:
  songkit train levo2/mini/vae --out runs/vae trainer.max_minutes=60
  songkit train levo2/mini/vae --out runs/vae --resume     go on with an interrupted training
  songkit train my.yaml --out runs/mine --dry-run          show what would be done
  songkit train levo2/mini/ladder --out runs/ladder        every stage of a ladder; what is finished is reused
"""

_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
_STARTED = "SONGKIT_ALLOCATOR_SET"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.epilog, parser.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `songkit recipes ls`) or a .yaml file")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes to the recipe, such as trainer.max_steps=500"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="run directory; must be new or empty")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted training in DIR")
    parser.add_argument("--stage", metavar="NAME", help="only this stage of a ladder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the recipe and show plan and cost, no more; status 2 if weights or data are not there",
    )
    parser.add_argument(
        "--allow-revision", action="store_true", help="accept components newer than those of a resolved recipe"
    )
    parser.add_argument("--json", action="store_true", help="print the plan, or what was trained, as JSON")


def run(args: argparse.Namespace) -> int:
    """Trains a recipe. What is wrong with it is said before torch is imported.

    The status of a dry run is 2 if weights or data are not there.
    """
    from songkit.cli._ladders import run_ladder, show_ladder
    from songkit.errors import RecipeError
    from songkit.recipe import load
    from songkit.registry import Registry

    registry = Registry.discover()
    recipe = load(args.recipe, args.overrides, registry=registry, allow_revision=args.allow_revision)
    _check_given(recipe, args.overrides, registry)
    if args.stage is not None and not recipe.stages:
        raise RecipeError(f"--stage '{args.stage}': the recipe '{recipe.name}' has no stages. Leave --stage out.")
    if recipe.stages and args.dry_run:
        return show_ladder(recipe, args, registry)
    if args.dry_run:
        plan = _plan(recipe, args.out, args.resume)
        print(json.dumps(plan, indent=2) if args.json else _shown(plan))
        return 2 if any(role["not_there"] for role in plan["roles"].values()) else 0
    _set_allocator()
    if recipe.stages:
        return run_ladder(recipe, args, registry)

    from songkit.train import train

    weights = train(recipe, args.out, resume=args.resume, progress=not args.json)
    files = sorted(str(path) for path in weights.glob("*.safetensors"))
    print(json.dumps({"run": str(args.out), "weights": files}, indent=2) if args.json else "\n".join(files))
    return 0


def _check_given(recipe: Recipe, overrides: Sequence[str], registry: Registry) -> None:
    """Refuses `paths` and `vars` of the command line that nothing reads; those of a ladder go to its stages."""
    from songkit._compose import Composer, find
    from songkit._references import names_of
    from songkit.errors import RecipeError, did_you_mean

    composer = Composer(registry)
    known = names_of(composer.compose(recipe.path), overrides)
    for stage in recipe.stages.values():
        known["vars"] |= names_of(composer.compose(find(stage.source, registry)))["vars"]
    problems = []
    for key, origin in recipe.origins.items():
        section, _, name = key.partition(".")
        if section in known and origin.startswith("command line") and name not in known[section]:
            hint = did_you_mean(name, known[section]) or f" It has: {', '.join(sorted(known[section])) or 'none'}."
            problems.append(f"{origin}: nothing in '{recipe.name}' reads `{key}`.{hint}")
    if problems:
        raise RecipeError(problems)


def _plan(recipe: Recipe, out: Path, resume: bool) -> dict[str, Any]:
    from songkit.cli._ladders import earlier_runs, minutes_of_training
    from songkit.errors import RecipeError
    from songkit.run_folder import check_run

    if "task" not in recipe.roles:  # `songkit.train.train` says so too, but imports torch
        raise RecipeError(f"{recipe.path}: the recipe '{recipe.name}' has no task, so there is nothing to train.")
    goes_on = check_run(recipe, out, resume)
    states = sorted((out / "checkpoints").glob("step-*.pt")) if goes_on else []
    done = int(states[-1].stem.partition("-")[2]) if states else 0
    settings = recipe.trainer
    return {
        "recipe": recipe.name,
        "file": str(recipe.path),
        "seed": recipe.seed,
        "out": str(out),
        "from_step": done,
        "max_steps": settings.max_steps,
        "max_minutes": settings.max_minutes,
        "examples_per_step": settings.batch_size * settings.accumulate,
        "minutes": minutes_of_training(recipe, earlier_runs(out), done),
        "freeze": list(settings.freeze),
        "roles": {role: _node_plan(role, node) for role, node in recipe.roles.items()},
    }


def _node_plan(role: str, node: Node) -> dict[str, Any]:
    reads = {key.removeprefix(f"{role}."): path for key, path in _read_by(role, node)}
    return {
        "use": node.id,
        "revision": node.revision,
        "reads": {key: str(path) for key, path in reads.items()},
        "not_there": [key for key, path in reads.items() if isinstance(path, Path) and not path.exists()],
    }


def _read_by(role: str, node: Node) -> Iterator[tuple[str, Path | str]]:
    """Yields the weights and data that a component and its parts read, by key path; weights may be `random`."""
    from songkit._resolved import walk

    for where, part in walk({role: node}):
        weights = part.weights if isinstance(part.weights, Mapping) else {"": part.weights}
        for name, file in weights.items():
            if file is not None:
                yield f"{where}.weights.{name}".rstrip("."), file
        for option in dataclasses.fields(part.config):
            value = getattr(part.config, option.name)
            if option.metadata.get("path") and not option.metadata.get("made") and value:
                yield f"{where}.{option.name}", Path(value)


def _shown(plan: dict[str, Any]) -> str:
    limits = [f"{plan[key]} {unit}" for key, unit in (("max_steps", "steps"), ("max_minutes", "minutes")) if plan[key]]
    start = f"from step {plan['from_step']} " if plan["from_step"] else ""
    lines = [
        f"recipe  {plan['recipe']} ({plan['file']}), seed {plan['seed']}",
        f"train   {start}until {' or '.join(limits)}, into {plan['out']}",
        f"cost    {_cost(plan)}",
    ]
    for role, node in plan["roles"].items():
        reads = [f", {key} {path}{' (NOT THERE)' * (key in node['not_there'])}" for key, path in node["reads"].items()]
        lines.append(f"{role:<12} {node['use']}, revision {node['revision']}{''.join(reads)}")
    return "\n".join(lines)


def _cost(plan: dict[str, Any]) -> str:
    each, steps = plan["examples_per_step"], plan["max_steps"]
    total = f", {each * (steps - plan['from_step']):,} in all" if steps else ""
    time = "no earlier run tells how long" if plan["minutes"] is None else f"about {plan['minutes']:.1f} min"
    return f"{each:,} examples a step{total}: {time}"


def _set_allocator() -> None:
    """Starts this command once more with glibc told to keep the memory it has.

    Training allocates and frees the same large blocks in each step; by default glibc maps and unmaps them and the
    kernel clears every page again. Without that a step of the codec took 0.81 of the time. glibc reads these
    variables only when a process starts.
    """
    # Whoever calls `main` from a program of their own keeps their process.
    script = Path(sys.argv[0])
    ours = script.stem == "songkit" or script.parts[-2:] == ("songkit", "__main__.py")
    if not ours or platform.system() != "Linux" or platform.libc_ver()[0] != "glibc" or _STARTED in os.environ:
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in _ALLOCATOR.items()}, **{_STARTED: "1"})
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
