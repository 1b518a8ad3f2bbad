"""`songkit train` with a ladder: its plan with what it costs, and its climbing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from songkit.ladder import Planned, asked_for, climb, plan
from songkit.lineage import MARK, Run, read_json, run_of
from songkit.recipe import Recipe
from songkit.registry import Registry

__all__ = ["earlier_runs", "minutes_of_training", "run_ladder", "show_ladder"]


def show_ladder(ladder: Recipe, args: argparse.Namespace, registry: Registry) -> int:
    """Prints what would be done about each stage, why, and how long it may take."""
    wanted = asked_for(ladder, args.stage)
    known = earlier_runs(args.out)
    rows = [
        _row(planned, known, args.out)
        for planned in plan(ladder, args.out, registry=registry)
        if planned.stage.name in wanted
    ]
    to_do = [row for row in rows if row["state"] != "finished"]
    minutes = sum(row["minutes"] or 0.0 for row in to_do)
    unknown = sum(row["minutes"] is None for row in to_do)
    summary = {"ladder": ladder.name, "file": str(ladder.path), "out": str(args.out), "stages": rows}
    if args.json:
        print(json.dumps({**summary, "minutes": minutes, "stages_of_unknown_cost": unknown}, indent=2))
        return 0
    print(f"ladder  {ladder.name} ({ladder.path}), into {args.out}")
    width = max(len(row["stage"]) for row in rows) if rows else 0
    for row in rows:
        print(f"{row['stage']:{width}}  {row['verb']:<11} {row['state']:<11} {_told(row)}".rstrip())
    costs = [f"about {minutes:.0f} min as far as known"] if unknown < len(to_do) else []
    costs += [f"{unknown} of unknown cost"] if unknown else []
    print(f"{len(to_do)} of {len(rows)} stages to do{': ' if costs else ''}{', and '.join(costs)}")
    return 0


def run_ladder(ladder: Recipe, args: argparse.Namespace, registry: Registry) -> int:
    """Climbs the ladder and prints the folder of each stage."""
    folders = climb(ladder, args.out, registry=registry, only=args.stage, resume=args.resume, progress=not args.json)
    weights = {name: sorted(str(file) for file in (f / "weights").glob("*.safetensors")) for name, f in folders.items()}
    if args.json:
        stages = {name: {"folder": str(f), "weights": weights[name]} for name, f in folders.items()}
        print(json.dumps({"out": str(args.out), "stages": stages}, indent=2))
    else:
        print("\n".join(f"{name}  {folder}" for name, folder in folders.items()))
    return 0


def earlier_runs(out: Path) -> list[Run]:
    """Returns the runs in a ladder's folder and beside it, or beside that of a single run, oldest first."""
    beside = {
        file.parent for pattern in ("*", "*/*") for file in out.absolute().parent.glob(f"{pattern}/metrics.jsonl")
    }
    return sorted((run_of(folder) for folder in beside), key=lambda run: run.started)


def minutes_of_training(recipe: Recipe, known: list[Run], done: int) -> float | None:
    """Returns how long a training may take from a step on: by the pace of the last run of its recipe, or of its task.

    Args:
        recipe: With a task.
        known: Runs, oldest first.
        done: Steps that are done.
    """
    settings, task = recipe.trainer, recipe.roles["task"].id
    timed = [run for run in known if run.task == task and run.seconds_per_step]
    paces = [run.seconds_per_step for run in [r for r in timed if r.recipe == recipe.name] or timed]
    by_steps = ((settings.max_steps or 0) - done) * (paces[-1] or 0.0) / 60 if paces and settings.max_steps else None
    limits = [limit for limit in (by_steps, settings.max_minutes) if limit is not None]
    return min(limits) if limits else None


def _row(planned: Planned, known: list[Run], out: Path) -> dict[str, Any]:
    settings, verb = planned.recipe.trainer, planned.stage.settings.verb
    trains = verb == "train"
    return {
        "stage": planned.stage.name,
        "verb": verb,
        "recipe": planned.recipe.name,
        "state": planned.state,
        "why": planned.why,
        "folder": None if planned.folder is None else str(planned.folder),
        "steps": settings.max_steps if trains else None,
        "minutes": _minutes(planned, known, out, trains=trains),
        "starts_from": dict(planned.stage.settings.starts_from),
        "freeze": list(settings.freeze),
    }


def _minutes(planned: Planned, known: list[Run], out: Path, *, trains: bool) -> float | None:
    """Returns what is left to do in minutes: by earlier steps of the recipe or its task, or the stage's last time."""
    if planned.state == "finished":
        return 0.0
    if trains:
        done = next((run.steps or 0 for run in known if run.folder == planned.folder), 0)
        return minutes_of_training(planned.recipe, known, done)
    marks = sorted(out.glob(f"{planned.stage.name}-????????/{MARK}"), key=lambda file: file.stat().st_mtime)
    times = [seconds for file in marks if (seconds := read_json(file).get("seconds")) is not None]
    return times[-1] / 60 if times else None


def _told(row: dict[str, Any]) -> str:
    if row["state"] == "finished":
        return f"reused from {row['folder']}"
    steps = f"{row['steps']:,} steps, " if row["steps"] else ""
    cost = "cost unknown" if row["minutes"] is None else f"about {row['minutes']:.1f} min"
    return f"{steps}{cost}: {row['why']}"
