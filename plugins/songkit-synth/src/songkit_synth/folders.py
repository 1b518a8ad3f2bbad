"""Songs to folders: `<folder>/<id>/{vocal,accompaniment,mix}.flac` and `song.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from songkit.atomic import write_atomically
from songkit.audio import write_flac
from songkit.errors import OutputError
from songkit.types import ArrayTrack, Song

__all__ = ["write_song"]


def write_song(song: Song, folder: Path) -> Path:
    """Writes a song's tracks as 16-bit FLAC, and everything else as `song.json`, which comes last.

    Args:
        song: With tracks in memory.
        folder: Where a folder named like the song's id is made; what that holds of the same names is replaced.

    Returns:
        The song's folder.

    Raises:
        OutputError: If the folder cannot be written.
    """
    place = folder / song.id
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {place}: {error.strerror}. Choose another folder.") from error
    for role, track in song.tracks.items():
        write_flac(place / f"{role}.flac", cast(ArrayTrack, track).data, track.sample_rate)
    record = json.dumps(song.record(), ensure_ascii=False, indent=1).encode()
    write_atomically(place / "song.json", lambda file: file.write(record))
    return place
