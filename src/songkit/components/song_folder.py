"""Real music as songs: a folder, or a manifest, of audio with optional stems, lyrics and descriptions."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from songkit._request_formats import parse_text
from songkit.audio import SUFFIXES, SumTrack, open_audio, too_long
from songkit.components.configs import SongFolderConfig
from songkit.errors import AudioError, RequestError, did_you_mean
from songkit.request import SongRequest, read_requests
from songkit.types import TRACKS, Alignment, Song, Span, Track

__all__ = ["SongFolder", "build"]

_log = logging.getLogger(__name__)
_LYRICS = (".txt", ".lrc", ".jsonl")
_NOT_READ = (".aac", ".aif", ".aiff", ".m4a", ".opus", ".wma")
_FIELDS = ("id", *TRACKS, "lyrics", "description")
_DERIVED = {
    "mix": (("vocal", "accompaniment"), (1.0, 1.0)),
    "vocal": (("mix", "accompaniment"), (1.0, -1.0)),
    "accompaniment": (("mix", "vocal"), (1.0, -1.0)),
}
"""How a missing track follows from the two others."""


class SongFolder:
    """A `DataSource` over audio files, which are opened when a song, and read when its audio, is asked for.

    A folder may hold

    - a folder for each song, named by its id, with any of `mix`, `vocal` and `accompaniment` as .wav, .flac, .mp3 or
      .ogg; and `song.json` (a `Song.record()`, or what `songkit generate` writes), or lyrics in `lyrics.txt`,
      `lyrics.lrc` or `lyrics.jsonl` (one request as in `songkit generate`) and tags in `description.txt`;
    - audio files, each the mix of a song named by the file's stem, with `<stem>.txt`, `.lrc` or `.jsonl` as its lyrics.

    A manifest is a JSON Lines file; a line has `id`, at least one of `mix`, `vocal` and `accompaniment` (paths from
    the manifest's folder), and may have `lyrics` (a path, or the text itself if it has a [section] or more lines) and
    `description`.

    Where two of the three tracks are there, the third is their sum or difference.
    """

    def __init__(self, root: Path, *, max_seconds: float = 1800.0) -> None:
        """Lists the songs; no audio is opened.

        Args:
            root: The folder or manifest.
            max_seconds: Longest song; asking for a longer one is an error.

        Raises:
            AudioError: There is no song, or what is there is ambiguous.
        """
        self.root, self.max_seconds = Path(root), max_seconds
        if self.root.is_dir():
            entries = _list_folder(self.root)
        elif self.root.is_file():
            entries = _list_manifest(self.root)
        else:
            raise AudioError(f"{root} is neither a folder of songs nor a manifest. Check the path.")
        if not entries:
            raise AudioError(
                f"{root} holds no songs: expected folders with {', '.join(TRACKS)}, or audio files, as "
                f"{', '.join(SUFFIXES)}."
            )
        self._entries = sorted(entries, key=lambda entry: entry.id)
        for entry, following in zip(self._entries, self._entries[1:], strict=False):
            if entry.id == following.id:
                raise AudioError(f"two songs are named '{entry.id}': {entry.place} and {following.place}. Rename one.")

    def __len__(self) -> int:
        """Number of songs."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Song:
        """Returns a song, in alphabetical order of ids.

        Raises:
            AudioError: One of its files is damaged or too long, or its tracks do not fit together.
            RequestError: Its lyrics or its song.json cannot be read.
        """
        entry = self._entries[index]
        return dataclasses.replace(_read_text(entry), id=entry.id, tracks=self._tracks(entry))

    def _tracks(self, entry: _Entry) -> dict[str, Track]:
        tracks: dict[str, Track] = {}
        for name, path in entry.audio.items():
            track = open_audio(path)
            if track.samples > self.max_seconds * track.sample_rate:
                raise too_long(path, track.samples / track.sample_rate, self.max_seconds)
            tracks[name] = track
        shapes = {(track.sample_rate, track.channels, track.samples) for track in tracks.values()}
        if len(shapes) > 1:
            found = "; ".join(
                f"{entry.audio[name].name}: {track.sample_rate} Hz, {track.channels} channels, {track.samples} samples"
                for name, track in tracks.items()
            )
            raise AudioError(
                f"song '{entry.id}' ({entry.place}): its tracks differ ({found}). Give all of them the same rate, "
                "number of channels and length."
            )
        for name, (parts, weights) in _DERIVED.items():
            if name not in tracks and all(part in entry.audio for part in parts):
                tracks[name] = SumTrack(tuple(tracks[part] for part in parts), weights)
        return {name: tracks[name] for name in TRACKS if name in tracks}


def build(config: SongFolderConfig) -> SongFolder:
    """Builds the component `songkit/song-folder`."""
    return SongFolder(Path(config.root), max_seconds=config.max_hours * 3600)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """A song before its files are opened."""

    id: str
    place: str
    audio: Mapping[str, Path]
    record: Path | None = None
    """Its song.json; then there is no other text."""
    lyrics: Path | str | None = None
    """A file, or the text itself."""
    description: Path | str = ""
    """A file, or the text itself."""


def _list_folder(root: Path) -> list[_Entry]:
    entries = []
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            entries += _list_song(path)
        elif path.suffix.lower() in SUFFIXES:
            lyrics = _only(root, path.stem, _LYRICS)
            entries.append(_Entry(id=path.stem, place=str(path), audio={"mix": path}, lyrics=lyrics))
        elif path.suffix.lower() in _NOT_READ:
            _log.warning("%s is left out: convert it to one of %s", path, ", ".join(SUFFIXES))
    return entries


def _list_song(folder: Path) -> list[_Entry]:
    audio = {track: file for track in TRACKS if (file := _only(folder, track, SUFFIXES)) is not None}
    if not audio:
        others = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (*SUFFIXES, *_NOT_READ))
        if others:
            raise AudioError(
                f"{folder} holds {', '.join(others)} but none of {', '.join(TRACKS)} as {', '.join(SUFFIXES)}. Rename "
                "or convert the file of the whole song to 'mix' and its ending."
            )
        return []
    record, description = folder / "song.json", folder / "description.txt"
    return [
        _Entry(
            id=folder.name,
            place=str(folder),
            audio=audio,
            record=record if record.is_file() else None,
            lyrics=_only(folder, "lyrics", _LYRICS),
            description=description if description.is_file() else "",
        )
    ]


def _list_manifest(manifest: Path) -> list[_Entry]:
    entries = []
    fields = ", ".join(_FIELDS)
    try:
        lines = manifest.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"manifest {manifest} cannot be read ({error}). Expected JSON Lines in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{manifest}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise AudioError(f"{place}: not JSON ({error}). Expected an object a line, with {fields}.") from error
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise AudioError(f"{place}: expected an object whose values are strings, with {fields}.")
        for key in values:
            if key not in _FIELDS:
                raise AudioError(f"{place}: unknown field '{key}'.{did_you_mean(key, _FIELDS)} It may have {fields}.")
        audio = {track: manifest.parent / values[track] for track in TRACKS if track in values}
        if not values.get("id") or not audio:
            raise AudioError(f"{place}: expected 'id' and at least one of {', '.join(TRACKS)}.")
        text = values.get("lyrics", "")
        lyrics = text if "[" in text or "\n" in text else manifest.parent / text if text else None
        description = values.get("description", "")
        entries.append(_Entry(id=values["id"], place=place, audio=audio, lyrics=lyrics, description=description))
    return entries


def _read_text(entry: _Entry) -> Song:
    """Returns all of a song but its audio."""
    if entry.record is not None:
        return _read_song_json(entry.record)
    description = entry.description
    if isinstance(description, Path):
        try:
            description = " ".join(description.read_text("utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{description} cannot be read ({error}). Expected tags in UTF-8.") from error
    if entry.lyrics is None:
        return Song(id=entry.id, description=description)
    if isinstance(entry.lyrics, Path):
        return _song(_only_request(entry.lyrics), description)
    return _song(parse_text(entry.lyrics, Path(entry.place)), description)


def _song(request: SongRequest, description: str = "") -> Song:
    # A request without a tier asks for the highest one: that says nothing about this recording's.
    return Song(id=request.id, sections=request.sections, description=description or request.description)


def _only_request(path: Path) -> SongRequest:
    requests = read_requests(path)
    if len(requests) != 1:
        raise RequestError(f"{path} holds the lyrics of {len(requests)} songs; expected those of one song.")
    return requests[0]


def _read_song_json(path: Path) -> Song:
    from songkit.output import read_song_json

    request = read_song_json(path)
    try:
        values = json.loads(path.read_text("utf-8"))
        if request is None:
            return Song.from_record(values)
        sections, lines = (
            tuple(Span(span["label"], span["start"], span["end"]) for span in values.get(name) or ())
            for name in ("sections", "lines")
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(
            f"{path} holds no song ({type(error).__name__}: {error}). Expected a song's record, or what 'songkit "
            "generate' writes."
        ) from error
    alignment = Alignment(sections=sections, lines=lines)
    return dataclasses.replace(_song(request), tier=request.tier, alignment=alignment)


def _only(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    """Returns the one file of a stem with one of the endings, in small letters or capitals."""
    candidates = [folder / f"{stem}{ending}" for suffix in suffixes for ending in (suffix, suffix.upper())]
    found = [path for path in candidates if path.is_file()]
    if len(found) > 1 and not found[0].samefile(found[1]):
        raise AudioError(f"{folder} holds {' and '.join(path.name for path in found)}. Keep one of them.")
    return found[0] if found else None
