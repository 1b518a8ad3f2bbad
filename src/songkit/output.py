"""The folder of a generated song: checked beforehand, written whole, and readable as a request.

`DIR/<id>` appears in one move when everything in it is complete; until then it is a hidden folder beside it. It holds
the tracks as FLAC, a picture, and song.json, from which `songkit generate` makes the same song again. No file depends
on when, where or how fast it was written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songkit.errors import OutputError, RequestError
from songkit.request import SongRequest
from songkit.types import Section, Span

if TYPE_CHECKING:
    from songkit.recipe import Node, Recipe
    from songkit.settings import GenerateSettings
    from songkit.singing import SungSong

__all__ = [
    "SONG_FORMAT",
    "check_folders",
    "read_song_json",
    "request_from_record",
    "request_record",
    "song_folder",
    "write_song",
]

SONG_FORMAT = 1
"""Format number of song.json."""

_MODEL_ROLES = ("conditioner", "planner", "refiner", "codec")


def check_folders(out: Path, ids: Iterable[str]) -> None:
    """Raises `OutputError`, naming every problem, unless a folder for each id can be made in `out`.

    Nothing is left behind by the check itself.
    """
    ids = list(ids)
    problems = [
        f"the id '{name}' is that of {ids.count(name)} requests; each writes a folder of its own. Give each its own id."
        for name in dict.fromkeys(ids)
        if ids.count(name) > 1
    ]
    for name in dict.fromkeys(ids):
        target = out / name
        if target.is_dir() and not os.access(target, os.R_OK | os.X_OK):
            problems.append(f"{target} cannot be read. Choose another --out.")
        elif target.is_dir() and any(target.iterdir()):
            problems.append(
                f"{target} already holds something and is left as it is. Choose another --out, or remove it."
            )
        elif target.is_symlink() or (target.exists() and not target.is_dir()):
            problems.append(f"{target} exists and is not a folder. Choose another --out, or remove it.")
    if not problems:
        problems = _writing_problems(out)
    if problems:
        raise OutputError("\n".join(problems))


@contextlib.contextmanager
def song_folder(out: Path, name: str) -> Iterator[Path]:
    """Gives a hidden folder to write into, which becomes `out/<name>` if the block ends without an exception.

    Raises:
        OutputError: If it cannot be made, filled or moved into place; nothing is left behind.
    """
    partial = out / f".{name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.iterdir():
            _flush(path)
        _flush(partial)
        partial.rename(out / name)
        _flush(out)
    except OSError as error:
        raise _not_written(out / name, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already after the rename


def write_song(
    folder: Path,
    song: SungSong,
    recipe: Recipe | None,
    *,
    seed: int,
    settings: GenerateSettings,
    tracks: Sequence[str],
    threads: int,
    device: str = "cpu",
) -> None:
    """Writes a song's tracks, picture and song.json into an existing folder.

    Args:
        folder: Where to write.
        song: What `recipe`'s model has sung.
        recipe: Of the model.
        seed: What the song's own seed was made from.
        settings: How it was sampled.
        tracks: Which tracks are written.
        threads: CPU threads of the computation; another number may round otherwise.
        device: Where it was computed, which decides how it was rounded, too: a name, and in brackets what it is.
    """
    from songkit.audio import write_flac
    from songkit.picture import draw_song

    for track in tracks:
        write_flac(folder / f"{track}.flac", song.tracks[track], song.sample_rate)
    times = song.alignment
    picture = draw_song(
        {track: song.tracks[track] for track in ("mix", "vocal") if track in song.tracks} or song.tracks,
        song.sample_rate,
        title=" · ".join(filter(None, (song.request.id, song.request.description))),
        sections=() if times is None else times.sections,
        lines=() if times is None else times.lines,
    )
    (folder / "song.png").write_bytes(picture)
    values = {
        "format": SONG_FORMAT,
        "command": _command(recipe, seed, settings, tracks, threads, device),
        "request": request_record(song.request),
        "prompt_sha256": None if song.request.prompt_audio is None else _sha256(song.request.prompt_audio),
        "seed": seed,
        "song_seed": song.seed,
        "model": _model_record(recipe),
        "sampling": _sampling_record(settings),
        "tracks": list(tracks),
        "sample_rate": song.sample_rate,
        "seconds": round(song.seconds, 6),
        "finished": song.finished,
        "sections": None if times is None else [_span_record(span) for span in times.sections],
        "lines": None if times is None else [_span_record(span) for span in times.lines],
        "sha256": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
        "versions": _versions(recipe),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "threads": threads,
        "device": device,
    }
    text = json.dumps(values, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    (folder / "song.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def request_record(request: SongRequest) -> dict[str, Any]:
    """Returns a request as JSON values; `request_from_record` makes the same request of them."""
    record = {
        "id": request.id,
        "sections": [{"tag": section.tag, "lines": list(section.lines)} for section in request.sections],
        "description": request.description,
        "tier": request.tier,
        "prompt_audio": None if request.prompt_audio is None else str(request.prompt_audio),
    }
    return {**record, "pure_music": True} if request.pure_music else record


def read_song_json(path: Path) -> SongRequest | None:
    """Returns the request inside a song.json, or `None` if the file is something else.

    Raises:
        RequestError: If the file is a song.json of a later format, or its request is not valid.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # the readers of request files say what is wrong with it
    if not isinstance(values, dict) or "request" not in values:
        return None
    if values.get("format") != SONG_FORMAT:
        raise RequestError(
            f"{path}: song.json has format {values.get('format')!r}; this songkit reads format {SONG_FORMAT}. "
            "Install the songkit that wrote it (see 'versions' in the file)."
        )
    return request_from_record(values["request"], path)


def request_from_record(record: Any, path: Path) -> SongRequest:
    """Makes a request of what `request_record` returned.

    Args:
        record: JSON values.
        path: Where they were read, for messages.

    Raises:
        RequestError: If they are something else, or the request is not valid.
    """
    try:
        fields = dict(record)
        fields["sections"] = tuple(Section(s["tag"], tuple(s["lines"])) for s in fields["sections"])
        fields["prompt_audio"] = None if fields["prompt_audio"] is None else Path(fields["prompt_audio"])
        request = SongRequest(**fields)
        problems = request.validate()
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        request, problems = None, [f"not a request as songkit writes it ({type(error).__name__}: {error}). Restore it."]
    if problems or request is None:
        raise RequestError("\n".join(f"{path}: request: {problem}" for problem in problems))
    return request


def _command(
    recipe: Recipe | None, seed: int, settings: GenerateSettings, tracks: Sequence[str], threads: int, device: str
) -> str:
    """Returns the command line that makes the song again, to be run in its folder."""
    options: dict[str, Any] = {"model": _model_name(recipe), "seed": seed, "tracks": ",".join(tracks)}
    options.update(_sampling_record(settings), threads=threads, device=device.partition(" ")[0])
    words = ["songkit", "generate", "song.json", "--out", "again"]
    for name, value in options.items():
        if isinstance(value, dict):
            value = ",".join(f"{track}={of}" for track, of in value.items()) or None
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _sampling_record(settings: GenerateSettings) -> dict[str, Any]:
    """Returns the settings without threads and device, of which those that were used are written."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in ("threads", "device")}


def _model_name(recipe: Recipe | None) -> str | None:
    """Returns what `--model` takes: the name of a shipped recipe, which has a slash in it, or the file."""
    if recipe is None:
        return None
    return recipe.name if "/" in recipe.name else str(recipe.path)


def _model_record(recipe: Recipe | None) -> dict[str, Any] | None:
    if recipe is None:
        return None
    return {
        "name": _model_name(recipe),
        "components": {role: _node_record(recipe.roles[role]) for role in _MODEL_ROLES if role in recipe.roles},
    }


def _node_record(node: Node) -> dict[str, Any]:
    parts = {"ref", "refs"}
    fields = [f for f in dataclasses.fields(node.config) if f.init and not parts & set(f.metadata)]
    options = {f.name: getattr(node.config, f.name) for f in fields}
    record = {
        "use": node.id,
        "revision": node.revision,
        "options": json.loads(json.dumps(options, default=_plain)),
    }
    if node.weights is not None:
        files = node.weights if isinstance(node.weights, Mapping) else {"": node.weights}
        record["weights"] = {name: _weights_record(file) for name, file in files.items()}
    for name, part in node.children.items():
        named = {f"{name}.{key}": node for key, node in part.items()} if isinstance(part, Mapping) else {name: part}
        record.setdefault("parts", {}).update({key: _node_record(value) for key, value in named.items()})
    return record


def _weights_record(weights: Path | str) -> dict[str, str] | str:
    return {"file": weights.name, "sha256": _sha256(weights)} if isinstance(weights, Path) else weights


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def _versions(recipe: Recipe | None) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in ("songkit", "torch", "numpy", "matplotlib")}
    if recipe is not None:
        nodes = (recipe.roles[role] for role in _MODEL_ROLES if role in recipe.roles)
        versions.update({node.distribution: node.version for node in nodes})
    return versions


def _span_record(span: Span) -> dict[str, Any]:
    return {"label": span.label, "start": round(span.start, 6), "end": round(span.end, 6)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _writing_problems(out: Path) -> list[str]:
    """Tries whether a folder can be made in `out`, without leaving one, or `out` itself, behind."""
    parent = out
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        return [f"{parent} is not a folder, so nothing can be written to {out}. Choose another --out."]
    probe = parent / f".songkit.{os.getpid()}.probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return [str(_not_written(out, error))]
    return []


def _not_written(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "Free some space, or choose a folder on another disk, then run the command again."
    elif error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        advice = "Something appeared there meanwhile and is left as it is. Choose another --out."
    else:
        advice = "Choose a folder that can be written, with --out."
    return OutputError(f"cannot write {path}: {reason}. {advice}")


def _flush(path: Path) -> None:
    """Makes the content of a file or folder durable."""
    if os.name != "posix" and path.is_dir():
        return  # folders cannot be opened for this there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
