"""The songs that `songkit generate` wrote, read back with what was asked for and what is known of the result."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songkit.audio import AudioFile, open_audio
from songkit.errors import RequestError
from songkit.output import read_song_json
from songkit.types import TRACKS, Alignment, Song, Span

__all__ = ["read_generated"]


def read_generated(folder: Path) -> list[Song]:
    """Finds generated songs: those of `folder/<id>/song.json`, or the one of `folder/song.json`.

    Returns:
        The songs in order of id, with the sections and lines of their requests, the times at which they are sung (where
        song.json has them), and the tracks that are there; audio is read when asked for.

    Raises:
        RequestError: If there is no such song, or a song.json is damaged.
    """
    files = [folder / "song.json"] if (folder / "song.json").is_file() else sorted(folder.glob("*/song.json"))
    if not files:
        raise RequestError(
            f"no generated songs in {folder}: expected {folder}/<id>/song.json, as `songkit generate` writes it. "
            "Check the folder."
        )
    return [_generated(path) for path in files]


@dataclass(frozen=True)
class _LaterFile:
    """A `Track` of a file that is opened when it is first used, so that one damaged song does not stop the others."""

    path: Path

    @functools.cached_property
    def file(self) -> AudioFile:
        return open_audio(self.path)

    @property
    def sample_rate(self) -> int:
        return self.file.sample_rate

    @property
    def channels(self) -> int:
        return self.file.channels

    @property
    def samples(self) -> int:
        return self.file.samples

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.file.read(start, stop)


def _generated(path: Path) -> Song:
    request = read_song_json(path)
    if request is None:
        raise RequestError(f"{path} is not a song.json as `songkit generate` writes it; make the song again")
    values = json.loads(path.read_bytes())

    def spans(name: str) -> tuple[Span, ...]:
        return tuple(Span(s["label"], s["start"], s["end"]) for s in values.get(name) or ())

    files = {role: path.parent / f"{role}.flac" for role in TRACKS}
    return Song(
        id=request.id,
        sections=request.sections,
        description=request.description,
        tier=request.tier,
        tracks={role: _LaterFile(file) for role, file in files.items() if file.is_file()},
        alignment=Alignment(sections=spans("sections"), lines=spans("lines")) if values.get("sections") else None,
        provenance={key: values[key] for key in ("model", "seed", "finished", "seconds") if key in values},
    )
