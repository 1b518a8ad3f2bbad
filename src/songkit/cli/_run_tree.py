"""`songkit runs tree`: each run once, below one that its weights or data come from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from songkit.cli._run_records import state_of
from songkit.lineage import Input, Run, parents_of

__all__ = ["draw_tree", "name_of"]


def draw_tree(runs: list[Run], root: Path) -> Iterator[str]:
    """Yields the lines of a tree of runs.

    A run with several parents is drawn below the first and named below the others. The rounds of a semi-online loop
    are a line of it. What comes from outside of `root` is told in full once.

    Args:
        runs: The runs within `root`, oldest first.
        root: The folder that names are relative to.
    """
    yield from _Tree(runs, root).lines()


def name_of(run: Run, root: Path) -> str:
    """Returns the folder of a run as it is called within `root`."""
    return str(run.folder.relative_to(root)) if run.folder != root else root.name


class _Tree:
    def __init__(self, runs: list[Run], root: Path) -> None:
        self._root = root
        self._runs, self._rounds = _folded(runs, root)
        self._parents = {run.folder: parents_of(run, self._runs) for run in self._runs}
        self._children: dict[Path, list[tuple[Run, str]]] = {run.folder: [] for run in self._runs}
        for child in self._runs:
            for parent, sources in self._parents[child.folder]:
                keys = ", ".join(source.key for source in sources)
                self._children[parent.folder].append((child, f"({keys})"))
        self._own: dict[Path, list[tuple[Run, str]]] = {}
        self._above: dict[Path, dict[str, list[str]]] = {}
        self._told: set[str] = set()

    def lines(self) -> Iterator[str]:
        # Those without a parent first; a run that is left is part of a circle of copies.
        tops = [run for run in self._runs if not self._parents[run.folder]]
        for run in [*tops, *self._runs]:
            if run.folder not in self._own:
                self._assign(run)
                yield from self._draw(run, "", "", "")

    def _assign(self, run: Run) -> None:
        """Shares out children: a run is drawn where it is met first, and named where it is met again."""
        own = self._own[run.folder] = []
        above = self._above[run.folder] = {}
        for child, keys in self._children[run.folder]:
            if child.folder in self._own:
                above.setdefault(keys, []).append(name_of(child, self._root))
            else:
                own.append((child, keys))
                self._assign(child)

    def _draw(self, run: Run, link: str, below: str, by: str) -> Iterator[str]:
        own, above = self._own[run.folder], self._above[run.folder]
        state = state_of(run)
        steps = f"{run.steps:,} steps" if run.steps else ""
        far = state if state.startswith("unfinished") else steps
        yield link + "  ".join(filter(None, [name_of(run, self._root), by, far]))
        for text in [*self._rounds_of(run), *self._outside(run)]:
            yield f"{below}{'│' if own or above else ' '}  {text}"
        for index, (child, keys) in enumerate(own):
            last = index == len(own) - 1 and not above
            yield from self._draw(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), keys)
        for index, (keys, names) in enumerate(above.items()):
            yield f"{below}{'└─ ' if index == len(above) - 1 else '├─ '}above: {', '.join(names)}  {keys}"

    def _rounds_of(self, run: Run) -> Iterator[str]:
        rounds = self._rounds.get(run.folder, [])
        if rounds:
            yield rounds[0] if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"

    def _outside(self, run: Run) -> Iterator[str]:
        """Yields what a run was made of that no run has made."""
        known = [source for _, sources in self._parents[run.folder] for source in sources]
        again: list[Input] = []
        for source in run.inputs:
            if source.sha256 in self._told and source not in known:
                again.append(source)
            elif source not in known:
                self._told.add(source.sha256)
                yield f"{source.key} from {source.path}, {source.sha256[:12]}"
        if again:
            yield f"as above: {', '.join(f'{source.key} {source.sha256[:12]}' for source in again)}"


def _folded(runs: list[Run], root: Path) -> tuple[list[Run], dict[Path, list[str]]]:
    """Returns the runs but those in rounds of others, which get their outputs; and the names of the rounds."""
    folders = {run.folder for run in runs} - {root}
    outputs: dict[Path, dict[str, str]] = {}
    rounds: dict[Path, list[str]] = {}
    kept = []
    for run in runs:
        places = [run.folder, *run.folder.parents]
        place = next((p for p in places if re.fullmatch(r"round-\d+", p.name) and p.parent in folders), None)
        if place is None:
            kept.append(run)
            continue
        made = {f"{run.folder.relative_to(place.parent)}/{role}": digest for role, digest in run.outputs.items()}
        outputs.setdefault(place.parent, {}).update(made)
        rounds[place.parent] = sorted({*rounds.get(place.parent, []), place.name})
    return [dataclasses.replace(run, outputs={**run.outputs, **outputs.get(run.folder, {})}) for run in kept], rounds
