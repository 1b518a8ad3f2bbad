"""The laws of sources."""

from __future__ import annotations

import numpy as np

from songkit.interfaces import DataSource
from songkit.testing.checks import law, require
from songkit.testing.subject import Subject
from songkit.types import TIERS, TRACKS, Song

__all__: list[str] = []

LOOKED_AT = 2
"""Songs whose audio is compared; of all others the id."""


@law("songs", "source")
def songs(subject: Subject) -> None:
    """Every item is a song whose tracks are known, of one rate and length, and whose tier is known."""
    source: DataSource = subject.build()
    require(len(source) > 0, "the example has no songs")
    for index in range(min(len(source), LOOKED_AT)):
        song = source[index]
        require(isinstance(song, Song), f"item {index} is a {type(song).__name__}")
        unknown = [name for name in song.tracks if name not in TRACKS]
        require(not unknown, f"song {song.id} has the tracks {unknown}; known are {', '.join(TRACKS)}")
        shapes = {(t.sample_rate, t.samples) for t in song.tracks.values()}
        require(len(shapes) <= 1, f"the tracks of song {song.id} differ in (rate, samples): {sorted(shapes)}")
        require(song.tier is None or song.tier in TIERS, f"song {song.id} has the tier '{song.tier}'")


@law("unique-ids", "source")
def unique_ids(subject: Subject) -> None:
    """No two songs have the same id."""
    source: DataSource = subject.build()
    ids = [source[index].id for index in range(min(len(source), 50))]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    require(not twice, f"the id {', '.join(twice)} is that of several songs")


@law("same-item", "source")
def same_item(subject: Subject) -> None:
    """Item i is the same at every call, in any order, and in another source of the same config."""
    first, again = subject.build(), subject.build(seed=1)
    count = min(len(first), LOOKED_AT)
    require(len(first) == len(again), f"the source has {len(first)} songs, and {len(again)} when it is built again")
    before = [_content(first[index]) for index in range(count)]
    for other, name in ((first, "at the second call"), (again, "in another source of the same config")):
        for index in reversed(range(count)):
            require(_content(other[index]) == before[index], f"song {index} is not the same {name}")


@law("ends", "source")
def ends(subject: Subject) -> None:
    """An index past the end is an `IndexError`, so that a `for` loop over the songs ends."""
    source: DataSource = subject.build()
    for index in (len(source), len(source) + 7):
        try:
            song = source[index]
        except IndexError:
            continue
        require(False, f"item {index} of {len(source)} is song {song.id}")


@law("parts-of-tracks", "source")
def parts_of_tracks(subject: Subject) -> None:
    """A track is finite float32 audio [C, T] as long as it says, and reading a part gives that part of the whole."""
    source: DataSource = subject.build()
    for name, track in source[0].tracks.items():
        whole = track.read()
        shape = (track.channels, track.samples)
        require(whole.dtype == np.float32, f"{name} is {whole.dtype}; expected float32")
        require(whole.shape == shape, f"{name} has the shape {whole.shape}; it promised {shape}")
        require(bool(np.isfinite(whole).all()), f"{name} holds samples that are not finite")
        start, stop = track.samples // 3, track.samples // 2
        require(
            np.array_equal(track.read(start, stop), whole[:, start:stop]), f"{name} read({start}, {stop}) is no part"
        )
        require(np.array_equal(track.read(start), whole[:, start:]), f"{name} read({start}) is not all from there on")


def _content(song: Song) -> tuple[object, ...]:
    return song.record(), *((name, track.read().tobytes()) for name, track in song.tracks.items())
