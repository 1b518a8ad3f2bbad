"""Runs the stages of a ladder in order, each in a folder of its own, and makes nothing twice.

    ladder/NAME-KEY/       the folder of a stage: what its verb writes, recipe.yaml, resolved.yaml, provenance.json
    ladder/NAME-KEY/stage.json  written when the stage is finished: its key, what the key was made of, and its weights
    ladder/.NAME-KEY.clock how long a stage that is not finished was worked on
    ladder/LADDER.json     the folder of each stage of the ladder that was run last under that name

A key is a digest of all that decides what a stage makes: the recipe as resolved, with the content of weights and data
in the place of their paths. A stage of the same key is reused, and ladders that differ in one stage share the others.
Planning imports no torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songkit._identity import identity_of, key_of, same_but_for_new_options
from songkit._stages import Stage
from songkit.atomic import write_atomically
from songkit.errors import OutputError, SongkitError, did_you_mean
from songkit.lineage import MARK, outputs_of, read_json
from songkit.recipe import Recipe, load
from songkit.registry import Registry

__all__ = ["Planned", "asked_for", "climb", "plan"]

_log = logging.getLogger(__name__)
_RECORD = {"ladder", "stages"}
"""Keys of LADDER.json, by which the folder of a ladder is known."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What is to be done about a stage."""

    stage: Stage
    recipe: Recipe
    folder: Path | None
    """Where it lies, or will lie; `None` while that depends on a stage that has not been run."""
    identity: Mapping[str, Any] | None
    """What its key is made of, by key path."""
    state: str
    """`finished`, `interrupted`, `new`, or `waits` for what it starts from."""
    why: str
    """Why it is not reused."""


def plan(ladder: Recipe, out: Path, *, registry: Registry) -> Iterator[Planned]:
    """Yields for each stage, in order, what there is to do; later ones see what was done about earlier ones.

    Args:
        ladder: A recipe with `stages`.
        out: The ladder's folder, which need not exist.
        registry: What is installed.

    Raises:
        OutputError: If the folder holds something else or is a file, or what a stage reads, or a finished one made, is
            not there.
        CheckpointError: If weights that a stage reads are missing or damaged.
    """
    out = Path(out).absolute()
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; a ladder is climbed in a folder. Choose another --out.")
    records = out.glob("*.json")
    if out.is_dir() and any(out.iterdir()) and not any(read_json(file).keys() >= _RECORD for file in records):
        raise OutputError(f"{out} holds something that is no ladder. Choose another --out.")
    finished: dict[str, Path] = {}
    for name, stage in ladder.stages.items():
        waits = [needed for needed in stage.needs if needed not in finished]
        folders = {needed: finished.get(needed, out / needed) for needed in stage.needs}
        recipe = load(stage.source, [stage.changes(folders)], registry=registry)
        planned = _waiting(stage, recipe, waits) if waits else _planned(stage, recipe, out)
        yield planned
        if planned.folder is not None and (planned.folder / MARK).is_file():
            finished[name] = planned.folder


def asked_for(ladder: Recipe, only: str | None) -> tuple[str, ...]:
    """Returns the names of the stages to do: the one that is named, or all.

    Raises:
        OutputError: If there is no stage `only`.
    """
    if only is None:
        return tuple(ladder.stages)
    if only not in ladder.stages:
        hint = did_you_mean(only, ladder.stages) or f" Its stages: {', '.join(ladder.stages)}."
        raise OutputError(f"the ladder '{ladder.name}' has no stage '{only}'.{hint}")
    return (only,)


def climb(
    ladder: Recipe,
    out: Path,
    *,
    registry: Registry,
    only: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Path]:
    """Runs the stages that are not finished.

    Args:
        ladder: A recipe with `stages`.
        out: The ladder's folder.
        registry: What is installed.
        only: Name of the one stage to run, all when `None`; those it starts from must be finished.
        resume: Whether a stage that was interrupted goes on.
        progress: Whether to show progress bars.

    Returns:
        The folder of each finished stage.

    Raises:
        OutputError: If a stage was interrupted and `resume` is not asked for; if there is no stage `only`, or what it
            starts from is not finished.
        SystemExit: See `songkit.train.train`.
    """
    out = Path(out).absolute()
    wanted = asked_for(ladder, only)
    folders: dict[str, Path] = {}

    def record() -> None:
        values = {"ladder": str(ladder.path), "stages": {name: folder.name for name, folder in folders.items()}}
        _write(out / f"{ladder.name.replace('/', '-')}.json", values)

    for planned in plan(ladder, out, registry=registry):
        name, folder = planned.stage.name, planned.folder
        if planned.state == "finished" and folder is not None:
            _log.info("stage '%s' is finished in %s and is reused.", name, folder)
        elif name not in wanted:
            continue
        elif folder is None or planned.identity is None:
            missing = next(needed for needed in planned.stage.needs if needed not in folders)
            raise OutputError(
                f"stage '{name}' starts from '{missing}', which is not finished in {out}. Run 'songkit train "
                f"{ladder.path} --out {out} --stage {missing}' first, or leave --stage out."
            )
        else:
            if planned.state == "interrupted" and not resume:
                raise OutputError(f"stage '{name}' was interrupted in {folder}. Go on with it with --resume.")
            _log.info("stage '%s' (%s) begins in %s: %s.", name, planned.stage.settings.verb, folder, planned.why)
            record()  # before the first stage, too: it marks the folder as a ladder's
            _run(planned, folder, progress)
        folders[name] = folder
        record()
    return folders


def _waiting(stage: Stage, recipe: Recipe, needed: list[str]) -> Planned:
    why = f"it starts from {' and '.join(needed)}"
    return Planned(stage=stage, recipe=recipe, folder=None, identity=None, state="waits", why=why)


def _planned(stage: Stage, recipe: Recipe, out: Path) -> Planned:
    try:
        identity = identity_of(stage.settings.verb, recipe)
    except SongkitError as error:
        raise type(error)(f"stage '{stage.name}': {error}") from error
    key = key_of(identity)
    folder = out / f"{stage.name}-{key[:8]}"
    mark = read_json(folder / MARK)
    if not mark and (earlier := _earlier(stage.name, identity, recipe, out)) is not None:
        folder, mark = earlier
        key = key_of(mark["identity"])
    if mark:
        made = outputs_of(folder)
        gone = [name for name, digest in mark["outputs"].items() if made.get(name) != digest]
        if gone or mark["key"] != key:
            what = f"weights of {', '.join(gone)}" if gone else f"key in {MARK}"
            raise OutputError(
                f"{folder}: the {what} changed since the stage was finished. Restore or delete the folder."
            )
    begun = folder.is_dir() and any(folder.iterdir())
    state = "finished" if mark else "interrupted" if begun else "new"
    why = {"finished": "", "interrupted": "it was begun, but not finished", "new": _why(stage.name, identity, out)}
    return Planned(stage=stage, recipe=recipe, folder=folder, identity=identity, state=state, why=why[state])


def _earlier(name: str, identity: Mapping[str, Any], recipe: Recipe, out: Path) -> tuple[Path, dict[str, Any]] | None:
    """Returns the folder of a stage that was finished before options came that are at their defaults now."""
    for file in sorted(out.glob(f"{name}-????????/{MARK}")):
        mark = read_json(file)
        if same_but_for_new_options(mark.get("identity", {}), identity, recipe):
            return file.parent, mark
    return None


def _why(name: str, identity: Mapping[str, Any], out: Path) -> str:
    """Says in what a stage differs from the finished one of the same name that is nearest to it."""
    others = [read_json(file).get("identity", {}) for file in out.glob(f"{name}-????????/{MARK}")]
    differing = [
        [
            f"{key} was {_shown(other.get(key))}, is {_shown(identity.get(key))}"
            for key in sorted({*other, *identity})
            if other.get(key) != identity.get(key)
        ]
        for other in others
    ]
    if not differing:
        return "it was not run before"
    nearest = min(differing, key=len)
    return "; ".join(nearest[:4]) + (f"; and {len(nearest) - 4} more" if len(nearest) > 4 else "")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text[1:15] if text.startswith('"sha256:') else text if len(text) <= 60 else f"{text[:57]}..."


# --- running -------------------------------------------------------------------------------------------------


def _run(planned: Planned, folder: Path, progress: bool) -> None:
    assert planned.identity is not None
    clock = folder.with_name(f".{folder.name}.clock")
    before, began = _worked(folder, clock) if planned.state == "interrupted" else 0.0, time.time()
    _write(clock, {"seconds_before": before, "began": began})
    _RUNS[planned.stage.settings.verb](planned.recipe, folder, progress)
    key = key_of(planned.identity)
    weights = {name: digest for name, digest in outputs_of(folder).items() if name != "."}
    seconds = round(before + time.time() - began, 1)
    mark = {"stage": planned.stage.name, "key": key, "seconds": seconds, "outputs": weights}
    _write(folder / MARK, {**mark, "identity": planned.identity})
    clock.unlink()


def _worked(folder: Path, clock: Path) -> float:
    """Returns the seconds that a stage was worked on before, each time until the last file was written.

    A process that is killed cannot tell when; its files do.
    """
    told = {"seconds_before": 0.0, "began": math.inf, **read_json(clock)}
    last = max((file.stat().st_mtime for file in folder.rglob("*")), default=0.0)
    return float(told["seconds_before"] + max(0.0, last - told["began"]))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, default=str) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _train(recipe: Recipe, out: Path, progress: bool) -> None:
    from songkit.train import train

    train(recipe, out, resume=True, progress=progress)  # a run that has not begun is begun


def _prepare(recipe: Recipe, out: Path, progress: bool) -> None:
    from songkit.prepare import prepare
    from songkit.run_folder import record_run

    record_run(recipe, out)
    data = recipe.roles.get("data")
    if data is not None and data.id == "songkit/prepared" and not recipe.prepare.audio:
        _share_audio(Path(data.config.root), out)
    prepare(recipe, out, progress=progress)


def _share_audio(source: Path, out: Path) -> None:
    """Gives a stage that adds codes the audio of the set that it reads, whose folder stays as it is."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:  # on another file system
            shutil.copy2(old, new)

    try:
        for folder in source.glob("audio-*"):
            if not (out / folder.name).exists():
                partial = out / f".partial-{folder.name}"
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(folder, partial, copy_function=link)
                (out / "songs.jsonl").unlink(missing_ok=True)
                link(str(source / "songs.jsonl"), str(out / "songs.jsonl"))
                partial.rename(out / folder.name)  # last: a folder that has it counts as a prepared set
    except OSError as error:
        raise OutputError(f"cannot share the audio of {source} with {out}: {error}.") from error


def _model(recipe: Recipe, out: Path, progress: bool) -> None:
    from songkit.run_folder import record_run

    record_run(recipe, out)


def _mine(recipe: Recipe, out: Path, progress: bool) -> None:
    from songkit.mine import mine

    mine(recipe, out, progress=progress)


def _merge(recipe: Recipe, out: Path, progress: bool) -> None:
    from songkit.merge import merge

    merge(recipe, out)


def _semi_online(recipe: Recipe, out: Path, progress: bool) -> None:
    from songkit.semi_online import semi_online

    semi_online(recipe, out, progress=progress)


_RUNS: Mapping[str, Callable[[Recipe, Path, bool], None]] = {
    "train": _train,
    "prepare": _prepare,
    "mine": _mine,
    "merge": _merge,
    "semi-online": _semi_online,
    "model": _model,
}
