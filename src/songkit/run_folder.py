"""The folder of a training: checked, begun, gone on with, and never overwritten by another run.

Needs no torch until a run is begun, so that `songkit train --dry-run` answers at once.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from songkit._resolved import walk
from songkit._yaml import Place, parse, plain, read_yaml
from songkit.atomic import write_atomically
from songkit.errors import OutputError, RecipeError
from songkit.lineage import ancestry, inputs_of, read_json
from songkit.recipe import Recipe, dump

__all__ = ["check_run", "described", "forget_metrics_after", "open_run", "record_run"]

_log = logging.getLogger(__name__)
_MAY_CHANGE = ("trainer", "prepare", "generate", "mine", "merge", "semi_online", "_components")
"""Keys of a recipe that may differ when a training goes on: limits and intervals, and what training does not read."""


def check_run(recipe: Recipe, run: Path, resume: bool) -> bool:
    """Returns whether there is a training in `run` to go on with.

    Raises:
        OutputError: If the folder is in use and `resume` is not asked for, or holds something else.
    """
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return False
    if resume and _killed_at_its_beginning(run):
        return False
    if not resume:
        raise OutputError(
            f"{run} already holds something, and a run is never overwritten. Choose another --out, or go on with the "
            "training in it with --resume."
        )
    if not (run / "resolved.yaml").is_file():
        raise OutputError(f"{run} is not the folder of a training: it has no resolved.yaml. Choose another --out.")
    try:
        before = _comparable(plain(read_yaml(run / "resolved.yaml")))
    except (RecipeError, TypeError, AttributeError, KeyError) as error:
        raise OutputError(
            f"{run / 'resolved.yaml'} is damaged ({error}). Restore it, or choose another --out."
        ) from error
    after = _comparable(plain(parse(dump(recipe), Place(None))))
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        raise OutputError(
            f"the training in {run} was begun with another recipe: {', '.join(changed)} differ. Go on with "
            f"'songkit train {run / 'resolved.yaml'} --out {run} --resume', or choose another --out."
        )
    return True


def open_run(recipe: Recipe, run: Path, resume: bool) -> bool:
    """Does the same as `check_run` and writes the recipe and the provenance of a new run or of a resumption.

    Raises:
        OutputError: Also if the folder cannot be written.
    """
    goes_on = check_run(recipe, run, resume)
    for partial in run.rglob(".*.partial"):  # what a killed process was writing
        partial.unlink(missing_ok=True)
    record_run(recipe, run)
    return goes_on


def record_run(recipe: Recipe, run: Path) -> None:
    """Writes the recipe and the provenance of something that is made in a folder, or that it goes on.

    Raises:
        OutputError: If the folder cannot be written.
        CheckpointError: If weights that the recipe names are missing or damaged.
    """
    goes_on = (run / "resolved.yaml").is_file()
    begun = {"started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **_provenance(recipe)}
    record = run / "provenance.json"
    if goes_on and record.is_file():
        first = json.loads(record.read_text(encoding="utf-8"))
        begun = {**first, "resumed": [*first.get("resumed", []), begun]}
    _write(record, json.dumps(begun, indent=2) + "\n")
    if not goes_on:
        _warn_of_another_singer(begun["inputs"])
        _write(run / "recipe.yaml", recipe.path.read_text(encoding="utf-8"))
    # Written last, because a folder that has it counts as a run.
    _write(run / "resolved.yaml", dump(recipe))


def forget_metrics_after(run: Path, step: int) -> None:
    """Removes what was logged after the state from which the training goes on; it will be logged again."""
    path = run / "metrics.jsonl"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a killed process may leave half a line
        _write(path, "".join(line for line in whole if json.loads(line)["step"] <= step))


def described(recipe: Recipe, name: str, *, steps: int, consumed: float, unit: str) -> dict[str, Any]:
    """Returns what the weights file of a role, or of a part inside one (`codec.vae`), says of itself.

    No times and no folders, so that the same training gives the same bytes anywhere.
    """
    known, owner, part = recipe.resolved["_components"], name, ""
    while owner and owner not in known:  # codec.vae may be a module of the codec and no component of its own
        owner, _, last = owner.rpartition(".")
        part = f"{last}.{part}" if part else last
    config: Any = recipe.resolved
    for key in filter(None, owner.split(".")):
        config = config[key]
    component = known.get(owner, {})
    return {
        "component": component.get("id"),
        "part": part or None,
        "revision": component.get("revision"),
        "config": _portable(config) if owner else {},
        "recipe": recipe.name,
        "seed": recipe.seed,
        "ancestors": list(_ancestors(recipe, name)),
        "steps": steps,
        "consumed": {"amount": round(consumed, 3), "unit": unit},
    }


def _killed_at_its_beginning(run: Path) -> bool:
    """Whether a folder holds only what is written before `resolved.yaml`."""
    names = [file.name for file in run.iterdir()] if run.is_dir() else [""]
    return all(name in ("provenance.json", "recipe.yaml") or name.endswith(".partial") for name in names)


def _ancestors(recipe: Recipe, name: str) -> dict[str, None]:
    """Returns the digests of the weights that a role, or a part inside one, began with, and of theirs; each once."""
    found: dict[str, None] = {}
    for owner, node in walk(recipe.roles):
        files = node.weights if isinstance(node.weights, Mapping) else {"": node.weights}
        for part, file in files.items():
            key = f"{owner}.{part}" if part else owner
            if isinstance(file, Path) and (f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")):
                found |= dict.fromkeys(ancestry(file))
    return found


def _comparable(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a resolved recipe that decides what is trained."""
    revisions = {path: (part["id"], part["revision"]) for path, part in resolved["_components"].items()}
    kept = {key: value for key, value in resolved.items() if key not in _MAY_CHANGE}
    return {**kept, "revisions of components": revisions}


def _portable(config: Any) -> Any:
    """Leaves out where weights came from and the folders of files."""
    if isinstance(config, Mapping):
        return {key: _portable(value) for key, value in config.items() if key != "weights"}
    if isinstance(config, list):
        return [_portable(value) for value in config]
    return PurePath(config).name if isinstance(config, str) and PurePath(config).is_absolute() else config


def _provenance(recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "command": sys.argv,
        "components": dict(recipe.resolved["_components"]),
        "inputs": [{"key": i.key, "path": str(i.path), "sha256": i.sha256} for i in inputs_of(recipe)],
        "versions": _versions(),
        "source": _commit(),
        "hardware": _hardware(),
    }


def _warn_of_another_singer(inputs: Sequence[Mapping[str, str]]) -> None:
    """Tells when a training starts from another policy than the one that sang its pairs.

    LeVo and LeVo 2 mine with the policy that is tuned; pairs of another one are allowed, and worse data.
    """
    own = {i["key"]: i["sha256"] for i in inputs if i["key"].partition(".")[0] in ("planner", "refiner")}
    for pairs in inputs:
        sung = (
            read_json(Path(pairs["path"]) / "provenance.json").get("inputs", []) if pairs["key"] == "data.root" else []
        )
        for singer in sung:
            if singer["sha256"] != own.get(singer["key"], singer["sha256"]):
                _log.warning(
                    "the pairs in %s were sung with other weights than %s starts from: %s. Songs that a policy "
                    "would not sing teach it less; mine with its own weights for pairs of its own.",
                    pairs["path"],
                    singer["key"].removesuffix(".weights"),
                    singer["path"],
                )


def _versions() -> dict[str, str]:
    wanted = {"torch", "lightning", "numpy", "safetensors"}
    names = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    found = {name: version for name, version in names.items() if name in wanted or name.startswith("songkit")}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def _commit() -> dict[str, Any] | None:
    """Returns the commit of the source tree that runs, or `None` for an installed package."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not (Path(git("rev-parse", "--show-toplevel")) / "src" / "songkit").is_dir():
            return None  # installed inside some other project's tree
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware() -> dict[str, Any]:
    import torch

    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
