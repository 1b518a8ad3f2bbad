"""The first step of `songkit prepare`: songs from worker processes, appended in order to flat files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from songkit._workers import in_order, worker_pool
from songkit.components.prepared import FORMAT, offsets
from songkit.errors import AudioError, OutputError
from songkit.types import Song

if TYPE_CHECKING:
    from songkit.interfaces import DataSource

__all__ = ["begun", "finish", "progress_bar", "sync", "write_audio", "write_json", "writing"]

_log = logging.getLogger(__name__)
_SYNC_EVERY = 64
"""Songs between fsyncs: what a power cut can cost."""

_source: DataSource
_wanted: dict[str, Any]
"""What a worker process keeps between songs."""


def write_audio(
    make_source: Callable[[], DataSource], folder: Path, index: dict[str, Any], *, workers: int, progress: bool
) -> None:
    """Writes the audio of all songs of a source, and their records.

    Args:
        make_source: Makes the source in each worker process; must be picklable.
        folder: `audio-<key>` of the prepared set; appears only when everything is written.
        index: Goes into `index.json`: `key`, `source`, `sample_rate`, `channels`, `tracks`.
        workers: Processes that make songs.
        progress: Whether to show a progress bar.
    """
    root, partial = folder.parent, folder.parent / f".partial-{folder.name}"
    _refuse_other_songs(root, index)
    with (
        begun(partial / "lengths.i64"),
        _Journal(partial, tuple(index["tracks"])) as journal,
        worker_pool(_start, (make_source, index), workers) as pool,
    ):
        count = pool.submit(_count).result()
        if journal.songs:
            _log.info("%s: %d of %d songs are there already", root, journal.songs, count)
        with progress_bar("songs", count, journal.songs, progress) as bar:
            began, seconds = time.monotonic(), 0.0
            for record, tracks in in_order(pool, _song, range(journal.songs, count), window=2 * workers + 2):
                journal.append(record, tracks)
                seconds += len(next(iter(tracks.values()))) / index["sample_rate"]
                bar.set_postfix_str(f"{seconds / (time.monotonic() - began):.1f} x real time", refresh=False)
                bar.update()
        samples, records = journal.lengths()
    values = {
        "format": FORMAT,
        **index,
        "samples": [int(n) // index["channels"] for n in samples],
        "records": [int(n) for n in records],
    }
    with writing(root):
        write_json(partial / "index.json", values)
        finish(partial, folder, songs=root / "songs.jsonl")


@contextlib.contextmanager
def begun(journal: Path) -> Iterator[None]:
    """Removes the folder of a journal after a failure, if the journal says that nothing in it is finished."""
    try:
        yield
    except BaseException:
        if not journal.exists() or journal.stat().st_size == 0:
            shutil.rmtree(journal.parent, ignore_errors=True)  # the failure is the one to tell
        raise


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turns what goes wrong in writing to a prepared set into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to {root}: {error.strerror or error}. Make room there and run the same command again, which "
            "goes on after what is finished; or choose another folder with --out."
        ) from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes JSON to a file and makes it durable."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())


def finish(partial: Path, folder: Path, songs: Path | None = None) -> None:
    """Gives a finished folder its name; its `songs.jsonl` becomes `songs`."""
    for journal in ("lengths.i64", "done"):
        (partial / journal).unlink(missing_ok=True)
    if songs is not None:
        temporary = songs.with_name(f".{songs.name}.partial")
        shutil.copyfile(partial / "songs.jsonl", temporary)
        sync(temporary)
        temporary.replace(songs)
    partial.rename(folder)
    (folder / "songs.jsonl").unlink(missing_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def progress_bar(name: str, songs: int, done: int, show: bool) -> tqdm[Any]:
    """Returns a bar over songs; where nobody watches, a line every half minute."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(total=songs, initial=done, unit="song", desc=name, disable=not show, mininterval=interval)


class _Journal:
    """The flat files while they grow. What counts is the last file, `lengths.i64`; the others are cut to it."""

    def __init__(self, folder: Path, tracks: tuple[str, ...]) -> None:
        self._folder, self._tracks = folder, tracks
        self._files: dict[str, IO[bytes]] = {}
        self.songs = 0

    def __enter__(self) -> _Journal:
        with writing(self._folder.parent):
            self._folder.mkdir(parents=True, exist_ok=True)
            names = [*(f"{track}.i16" for track in self._tracks), "songs.jsonl", "lengths.i64"]
            self._files = {name: (self._folder / name).open("ab") for name in names}
            samples, records = self.lengths()
            ends = {f"{track}.i16": 2 * offsets(samples) for track in self._tracks}
            ends |= {"songs.jsonl": offsets(records), "lengths.i64": 16 * np.arange(len(samples) + 1)}
            sizes = {name: (self._folder / name).stat().st_size for name in self._files}
            self.songs = min(int(np.searchsorted(ends[name], size, side="right")) - 1 for name, size in sizes.items())
            for name, file in self._files.items():
                file.truncate(int(ends[name][self.songs]))
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        # After a failure what could not be flushed cannot be closed either; the first error is the one to tell.
        with contextlib.suppress(OSError) if failure else writing(self._folder.parent):
            self._flush()
        for file in self._files.values():
            with contextlib.suppress(OSError) if failure else writing(self._folder.parent):
                file.close()

    def append(self, record: bytes, tracks: dict[str, np.ndarray]) -> None:
        """Adds a song: its record and int16 samples [T, C] of each track."""
        with writing(self._folder.parent):
            for track, samples in tracks.items():
                self._files[f"{track}.i16"].write(samples.tobytes())
            self._files["songs.jsonl"].write(record)
            size = next(iter(tracks.values())).size
            self._files["lengths.i64"].write(np.array([size, len(record)], "<i8").tobytes())
            self.songs += 1
            self._flush(durable=self.songs % _SYNC_EVERY == 0)

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the number of values in each song's tracks, and the bytes of its record."""
        self._flush()
        data = (self._folder / "lengths.i64").read_bytes()
        pairs = np.frombuffer(data[: len(data) // 16 * 16], "<i8").reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _flush(self, durable: bool = True) -> None:
        for file in self._files.values():
            file.flush()
            if durable:
                os.fsync(file.fileno())


def _refuse_other_songs(root: Path, index: dict[str, Any]) -> None:
    for path in root.glob("audio-*/index.json"):
        if json.loads(path.read_text("utf-8"))["source"] != index["source"]:
            raise OutputError(
                f"{root} already holds songs of another source, or with other options or files ({path.parent.name}). "
                "Choose another folder with --out."
            )
    for path in root.glob(".partial-audio-*"):
        if path.name != f".partial-audio-{index['key']}":
            _log.warning("%s is left of an interrupted run with other options. Delete it if you need it no more.", path)


# --- in the worker processes -----------------------------------------------------------------------------------


def _start(make_source: Callable[[], DataSource], index: dict[str, Any]) -> None:
    global _source, _wanted
    _source, _wanted = make_source(), index


def _count() -> int:
    return len(_source)


def _song(index: int) -> tuple[bytes, dict[str, np.ndarray]]:
    song = _source[index]
    tracks = {track: _samples(song, track) for track in _wanted["tracks"]}
    if len({len(samples) for samples in tracks.values()}) > 1:
        lengths = ", ".join(f"{track} {len(samples)}" for track, samples in tracks.items())
        raise AudioError(f"song '{song.id}': its tracks differ in length ({lengths} samples); expected one length.")
    return json.dumps(song.record(), ensure_ascii=False).encode() + b"\n", tracks


def _samples(song: Song, name: str) -> np.ndarray:
    from songkit.audio import convert

    if name not in song.tracks:
        raise AudioError(
            f"song '{song.id}' has no track '{name}'; it has {', '.join(song.tracks) or 'none'}. "
            "Name only tracks that all songs have in 'prepare.tracks'."
        )
    track = song.tracks[name]
    audio = convert(track.read(), track.sample_rate, _wanted["sample_rate"], _wanted["channels"])
    return np.clip(np.rint(audio.T * 32768.0), -32768, 32767).astype("<i2")
