"""Where weights and data come from: what a recipe reads, by content, and which run made it. Imports no torch.

Weights are told apart by the SHA-256 that their files carry over tensors and description, so that a run folder that was
moved or copied is still found as the parent of what was made of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songkit._resolved import walk
from songkit.errors import CheckpointError, OutputError
from songkit.recipe import Node, Recipe
from songkit.weights_header import description

__all__ = [
    "MARK",
    "Input",
    "Run",
    "ancestry",
    "digest_of",
    "find_runs",
    "inputs_of",
    "outputs_of",
    "parents_of",
    "read_json",
    "run_of",
]

MARK = "stage.json"
"""File of a finished stage of a ladder, with its key and what it was made of."""

_log = logging.getLogger(__name__)
_SMALL = 16_000_000
"""Bytes up to which a file in somebody's folder is told apart by its content, above by size and time."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file or folder that a recipe reads."""

    key: str
    """Key path in the recipe: `planner.weights`, `data.root`."""
    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder in which something was made, as far as it tells."""

    folder: Path
    recipe: str
    task: str
    """Id of the task that was trained; empty where none was."""
    started: str
    """ISO time in UTC; empty where it is not known."""
    steps: int | None
    """Of the last line of metrics.jsonl."""
    losses: Mapping[str, float]
    """The last values of everything logged that has a loss in its name or was measured on validation data."""
    inputs: tuple[Input, ...]
    outputs: Mapping[str, str]
    """SHA-256 by role of the weights in it, and of the data set that it is, as `.`."""
    seconds_per_step: float | None


def inputs_of(recipe: Recipe) -> list[Input]:
    """Returns all files and folders that a recipe's components read, with the digests of their content.

    Raises:
        CheckpointError: If a weights file is damaged, or anything is missing, weights too: told is all that is.
        OutputError: If nothing but files or folders of data is missing.
    """
    reads = _reads(recipe)
    if missing := [(key, path) for key, path, _ in reads if not os.path.exists(path)]:
        raise _absent(recipe, missing)
    # Only these read codes; to the training of a codec, tokens beside the audio are nothing new.
    reads_codes = bool({"planner", "refiner", "objective"} & recipe.roles.keys())
    found = []
    for key, path, node in reads:
        digest = (_prepared_digest(path, node, reads_codes) if node is not None else None) or digest_of(path, key)
        found.append(Input(key=key, path=path, sha256=digest))
    return found


def outputs_of(folder: Path) -> dict[str, str]:
    """Returns the digests of the weights in a run's folder by role, and of the data set that it is as `.`."""
    found = {}
    for file in sorted((folder / "weights").glob("*.safetensors")):
        try:
            found[file.stem] = description(file)[1]
        except CheckpointError as error:
            _log.warning("%s", error)
    if (folder / MARK).is_file() or (folder / "pairs.parquet").is_file() or any(folder.glob("audio-*/index.json")):
        found["."] = digest_of(folder)
    return found


def digest_of(path: Path, key: str = "weights") -> str:
    """Returns the SHA-256 of a file, or one over all that a folder holds.

    songkit's weights files carry their own; the folder of a finished stage has its key. In any other folder, files of
    more than 16 MB are told apart by name, size and time.

    Args:
        path: A file or folder.
        key: Which value of a recipe names it, for messages.

    Raises:
        CheckpointError: If a weights file is missing or damaged.
        OutputError: If there is nothing at the path.
    """
    if path.suffix == ".safetensors":
        return description(path, key)[1]
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise OutputError(f"{key}: there is no {path}. Check the path, or make what belongs there first.")
    mark = read_json(path / MARK)
    if "key" in mark:
        return str(mark["key"])
    if (path / "pairs.parquet").is_file():  # beside the pairs, trainings keep what they compute of them
        return _digest([digest_of(path / f"{name}.parquet") for name in ("candidates", "pairs")])
    return _prepared_digest(path, None, reads_codes=True) or _digest([_state(file, path) for file in _files(path)])


def ancestry(file: Path) -> tuple[str, ...]:
    """Returns the digest of a weights file, then those of the weights that it was made of, nearest first.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    if file.suffix != ".safetensors":
        return (digest_of(file),)
    metadata, digest = description(file)
    return (digest, *metadata.get("ancestors", ()))


def find_runs(root: Path) -> list[Run]:
    """Returns all runs in a folder and the folders within it, oldest first.

    Raises:
        OutputError: If there is no such folder.
    """
    if not root.is_dir():
        raise OutputError(f"there is no folder {root}. Name the folder that holds your runs.")
    folders = {file.parent for file in root.rglob("provenance.json")} | {file.parent for file in root.rglob(MARK)}
    return sorted((run_of(folder) for folder in folders), key=lambda run: (run.started, str(run.folder)))


def parents_of(run: Run, runs: list[Run]) -> list[tuple[Run, list[Input]]]:
    """Returns the runs that made what a run reads, each with the inputs that came from it."""
    found = []
    for other in runs:
        shared = [i for i in run.inputs if other.folder != run.folder and i.sha256 in other.outputs.values()]
        if shared:
            found.append((other, shared))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object, empty where there is no such file.

    Raises:
        OutputError: If the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path} is damaged: it is not JSON ({error}). Restore it, or delete its folder.") from error
    return values if isinstance(values, dict) else {}


def run_of(folder: Path) -> Run:
    """Returns what a run's folder tells of itself."""
    facts = read_json(folder / "provenance.json")
    last: dict[str, Any] = {}
    for row in _rows(folder / "metrics.jsonl"):
        last.update(row)
    losses = {n: v for n, v in last.items() if ("loss" in n or n.startswith("valid_")) and isinstance(v, float | int)}
    steps, seconds = last.get("step"), last.get("seconds")
    return Run(
        folder=folder,
        recipe=str(facts.get("recipe", "")),
        task=str(facts.get("components", {}).get("task", {}).get("id", "")),
        started=str(facts.get("started", "")),
        steps=steps,
        losses=losses,
        inputs=tuple(
            Input(key=i["key"], path=Path(i["path"]), sha256=i["sha256"])
            for i in facts.get("inputs", [])
            if {"key", "path", "sha256"} <= i.keys()
        ),
        outputs=outputs_of(folder),
        seconds_per_step=seconds / steps if steps and seconds else None,
    )


def _reads(recipe: Recipe) -> list[tuple[str, Path, Node | None]]:
    """Returns key path and path of all that a recipe reads; of what a component's option names, that component too."""
    named = {**recipe.roles, **{f"metrics.{name}": node for name, node in recipe.metrics.items()}}
    found: list[tuple[str, Path, Node | None]] = []
    for where, node in walk(named):
        weights = node.weights if isinstance(node.weights, Mapping) else {"": node.weights}
        for name, file in weights.items():
            if isinstance(file, Path):
                found.append((f"{where}.weights.{name}" if name else f"{where}.weights", file, None))
        for option in dataclasses.fields(node.config):
            # An option may stand for a file of its plugin when it is left empty: another one gives other results.
            value = getattr(node.config, option.name) or option.metadata.get("shipped")
            if option.metadata.get("path") and not option.metadata.get("made") and value:
                found.append((f"{where}.{option.name}", Path(value), node))
    if recipe.mine.requests is not None and Path(recipe.mine.requests).is_file():
        found.append(("mine.requests", Path(recipe.mine.requests), None))
    for name, model in recipe.merge.models.items():
        files = sorted(Path(model.run).glob("weights/*.safetensors"))
        wanted = [file for file in files if not recipe.merge.roles or file.stem in recipe.merge.roles]
        found += [(f"merge.models.{name}.{file.stem}", file, None) for file in wanted]
    return found


def _absent(recipe: Recipe, missing: list[tuple[str, Path]]) -> CheckpointError | OutputError:
    """Returns the error that files or folders are not there, with the values of the recipe that name them."""
    named = {str(path): f"paths.{name}" for name, path in recipe.resolved.get("paths", {}).items()}
    lines = [f"{key}, from {named.get(str(path)) or recipe.origin(key)}: there is no {path}" for key, path in missing]
    key, path = missing[0]
    kind = CheckpointError if any(path.suffix == ".safetensors" for _, path in missing) else OutputError
    return kind(
        f"the recipe '{recipe.name}' reads what is not there:\n" + "\n".join(lines) + "\nMake it first (weights with "
        "'songkit train', data with 'songkit prepare' or 'songkit mine'), or say where it is, as with "
        f"`{named.get(str(path), key)}=PATH` on the command line."
    )


def _prepared_digest(root: Path, node: Node | None, reads_codes: bool) -> str | None:
    """Returns the digest of a set that `songkit prepare` wrote by hand: its keys stand for all numbers in it."""
    if (root / MARK).is_file():
        return None
    wanted = getattr(node.config, "audio", "") if node is not None else ""
    indices = sorted(root.glob(f"audio-{wanted or '*'}/index.json"))
    if not indices:
        return None
    layouts = sorted(root.glob("codes-*/layout.json")) if reads_codes else []
    return _digest([[file.parent.name, digest_of(file)] for file in (*indices, *layouts)])


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("[!.]*")) if file.is_file())


def _state(file: Path, folder: Path) -> list[Any]:
    state, name = file.stat(), str(file.relative_to(folder))
    if state.st_size <= _SMALL:
        return [name, hashlib.sha256(file.read_bytes()).hexdigest()]
    return [name, state.st_size, state.st_mtime_ns]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the whole lines of metrics.jsonl; a killed process may have left half a line."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
