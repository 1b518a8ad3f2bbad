"""`songkit runs`: which runs a folder holds, what each made, and of what."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from songkit.errors import OutputError
from songkit.lineage import Input, Run, find_runs, parents_of, read_json

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
    runs = find_runs(args.dir)
    if not runs:
        raise OutputError(f"{args.dir} holds no run (no provenance.json). `songkit train` makes them.")
    {"ls": _ls, "show": _show, "tree": _tree}[args.action](runs, args)
    return 0


def _ls(runs: list[Run], args: argparse.Namespace) -> None:
    if args.json:
        _print_json([_values(run) for run in runs])
        return
    rows = [(_name(run, args.dir), run.recipe, _steps(run), _losses(run), _weights(run)) for run in runs]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip())


def _show(runs: list[Run], args: argparse.Namespace) -> None:
    shown = next((run for run in runs if run.folder == args.dir), None)
    if shown is None:
        inside = ", ".join(str(run.folder) for run in runs[:5])
        raise OutputError(f"{args.dir} is not the folder of a run. Within it are: {inside}.")
    facts = read_json(args.dir / "provenance.json")
    if args.json:
        _print_json({**_values(shown), "provenance": facts})
        return
    print(f"recipe   {shown.recipe}, seed {facts.get('seed')}\nstarted  {shown.started}")
    print(f"steps    {_steps(shown) or 'none'}\nlosses   {_losses(shown) or 'none'}")
    for source in shown.inputs:
        print(f"input    {source.key}  {source.path}  {source.sha256}")
    for name, digest in shown.outputs.items():
        print(f"output   {'the folder' if name == '.' else name}  {digest}")


def _tree(runs: list[Run], args: argparse.Namespace) -> None:
    parents = {run.folder: parents_of(run, runs) for run in runs}
    if args.json:
        edges = [
            {"parent": str(parent.folder), "child": str(folder), "inputs": [source.key for source in sources]}
            for folder, found in parents.items()
            for parent, sources in found
        ]
        _print_json({"runs": [_values(run) for run in runs], "edges": edges})
        return
    children: dict[Path, list[tuple[Run, list[Input]]]] = {run.folder: [] for run in runs}
    for child in runs:
        for parent, sources in parents[child.folder]:
            children[parent.folder].append((child, sources))
    drawn: set[Path] = set()

    def draw(run: Run, link: str, below: str, by: str) -> None:
        found, again = children[run.folder], run.folder in drawn
        more = "(see above)" if again and found else ""
        print(f"{link}{'  '.join(filter(None, [_name(run, args.dir), by, _steps(run), more]))}")
        if again:
            return
        drawn.add(run.folder)
        known = [source for _, sources in parents[run.folder] for source in sources]
        for source in run.inputs:
            if source not in known:
                print(f"{below}{'│' if found else ' '}  {source.key} from {source.path}, {source.sha256[:12]}")
        for index, (child, sources) in enumerate(found):
            last = index == len(found) - 1
            keys = ", ".join(source.key for source in sources)
            draw(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), f"({keys})")

    for run in runs:
        if not parents[run.folder]:
            draw(run, "", "", "")


def _values(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "recipe": run.recipe,
        "started": run.started,
        "steps": run.steps,
        "losses": dict(run.losses),
        "inputs": [{"key": i.key, "path": str(i.path), "sha256": i.sha256} for i in run.inputs],
        "outputs": dict(run.outputs),
    }


def _name(run: Run, root: Path) -> str:
    return str(run.folder.relative_to(root)) if run.folder != root else root.name


def _steps(run: Run) -> str:
    return f"{run.steps:,} steps" if run.steps else ""


def _losses(run: Run) -> str:
    shown = [name for name in ("loss", "valid_loss") if name in run.losses] or list(run.losses)[:2]
    return ", ".join(f"{name} {run.losses[name]:.4g}" for name in shown)


def _weights(run: Run) -> str:
    return " ".join(f"{name}:{digest[:12]}" for name, digest in run.outputs.items() if name != ".")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
