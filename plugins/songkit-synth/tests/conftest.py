from collections.abc import Callable
from pathlib import Path

import pytest

from songkit.types import Song
from songkit_synth.configs import SynthSongsConfig
from songkit_synth.source import SynthSongs

LINES = (
    "The golden trees are standing in the storm",
    "And all the little birds have gone away",
    "I saw the river running to the sea",
    "My heart is like a singing bird",
    "The moon was bright above the hill",
    "We walked together in the rain",
    "She never came back home again",
    "A lonely light is burning still",
    "They dance around the fire at night",
    "The morning comes with silver wings",
    "Nobody knows where she has gone",
    "The wind is blowing from the north",
    "O give me back my summer days",
    "The children sing beside the door",
    "There is a garden by the lake",
    "Sweet was the music in my ear",
)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of lines long enough for every split, so that no test waits for the poems to be cleaned."""
    nouns = ("moon", "river", "garden", "fire", "summer", "silver", "wind", "morning", "heart", "water", "bird", "star")
    lines = [*LINES, *(f"The {a} and the {b} are here" for a in nouns for b in nouns if a != b)]
    more = [f"I saw the {a} below the {b} and the {c}" for a in nouns for b in nouns for c in nouns if a < b < c]
    colours = [f"My {a} is {c} and so is your {b}" for a in nouns for b in nouns for c in ("red", "blue", "old", "new")]
    path = tmp_path_factory.mktemp("words") / "lines.txt"
    path.write_text("\n".join(lines + more + colours), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def source(words: Path) -> Callable[..., SynthSongs]:
    """Makes a source of small songs; options override."""

    def make(**options: object) -> SynthSongs:
        settings: dict[str, object] = {
            "songs": 4, "seconds_min": 8.0, "seconds_max": 14.0, "sample_rate": 24000, "channels": 1,
            "tracks": ["vocal"], "words": str(words),
        }  # fmt: skip
        return SynthSongs(SynthSongsConfig(**{**settings, **options}))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def song(source: Callable[..., SynthSongs]) -> Song:
    """A song with all its tracks, as they are by default."""
    return source(tracks=["mix", "vocal", "accompaniment"], sample_rate=48000, channels=2)[0]
