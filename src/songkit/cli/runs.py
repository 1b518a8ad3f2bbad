"""`songkit runs`: which runs a folder holds, what each made, and of what."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from songkit.cli._run_records import records_of, state_of, told
from songkit.cli._run_tree import draw_tree, name_of
from songkit.errors import OutputError
from songkit.lineage import Run, find_runs, parents_of, read_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    ls = actions.add_parser("ls", help="list runs", description="List the runs in a folder, oldest first.")
    show = actions.add_parser("show", help="show one run", description="Show recipe, steps, losses, hashes.")
    tree = actions.add_parser(
        "tree",
        help="show what came from what",
        description="Draw the runs in a folder below those whose weights or data they were made of, by hash.",
    )
    for action, what in ((ls, "folder that holds runs"), (show, "folder of a run"), (tree, "folder that holds runs")):
        action.add_argument("dir", metavar="DIR", type=Path, help=what)
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Lists, shows or draws."""
    if args.action == "show" and not args.dir.is_dir():
        raise OutputError(f"there is no folder {args.dir}. Name that of one run; `songkit runs ls DIR` lists runs.")
    runs = find_runs(args.dir)
    if not runs:
        raise OutputError(f"{args.dir} holds no run (no provenance.json). `songkit train` makes them.")
    {"ls": _ls, "show": _show, "tree": _tree}[args.action](runs, args)
    return 0


def _ls(runs: list[Run], args: argparse.Namespace) -> None:
    if args.json:
        _print_json([_values(run) for run in runs])
        return
    rows = [("RUN", "RECIPE", "STATE", "STEPS", "LOSSES", "WEIGHTS")]
    for run in runs:
        steps = f"{run.steps:,}" if run.steps else ""
        rows.append((name_of(run, args.dir), run.recipe, state_of(run), steps, _losses(run), _weights(run)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip())


def _show(runs: list[Run], args: argparse.Namespace) -> None:
    shown = next((run for run in runs if run.folder == args.dir), None)
    if shown is None:
        inside = ", ".join(str(run.folder) for run in runs[:5])
        more = f" and {len(runs) - 5:,} more (`songkit runs ls {args.dir}` lists them)" if len(runs) > 5 else ""
        raise OutputError(f"{args.dir} is not the folder of a run. Within it are: {inside}{more}. Name one of them.")
    facts, records = read_json(args.dir / "provenance.json"), records_of(shown)
    if args.json:
        _print_json({**_values(shown), **records, "provenance": facts})
        return
    print(f"recipe   {shown.recipe}, seed {facts.get('seed')}\nstarted  {shown.started}")
    print(f"state    {state_of(shown) or 'not told by its records'}")
    trained = [f"steps    {_steps(shown) or 'none'}", f"losses   {_losses(shown) or 'none'}"]
    for line in told(records) if records else trained:
        print(line)
    for source in shown.inputs:
        print(f"input    {source.key}  {source.path}  {source.sha256}")
    for name, digest in shown.outputs.items():
        print(f"output   {'the folder' if name == '.' else name}  {digest}")


def _tree(runs: list[Run], args: argparse.Namespace) -> None:
    if args.json:
        parents = {run.folder: parents_of(run, runs) for run in runs}
        edges = [
            {"parent": str(parent.folder), "child": str(folder), "inputs": [source.key for source in sources]}
            for folder, found in parents.items()
            for parent, sources in found
        ]
        _print_json({"runs": [_values(run) for run in runs], "edges": edges})
        return
    for line in draw_tree(runs, args.dir):
        print(line)


def _values(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "recipe": run.recipe,
        "started": run.started,
        "state": state_of(run),
        "steps": run.steps,
        "losses": dict(run.losses),
        "inputs": [{"key": i.key, "path": str(i.path), "sha256": i.sha256} for i in run.inputs],
        "outputs": dict(run.outputs),
    }


def _steps(run: Run) -> str:
    return f"{run.steps:,} steps" if run.steps else ""


def _losses(run: Run) -> str:
    shown = [name for name in ("loss", "valid_loss") if name in run.losses] or list(run.losses)[:2]
    return ", ".join(f"{name} {run.losses[name]:.4g}" for name in shown)


def _weights(run: Run) -> str:
    return " ".join(f"{name}:{digest[:12]}" for name, digest in run.outputs.items() if name != ".")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
