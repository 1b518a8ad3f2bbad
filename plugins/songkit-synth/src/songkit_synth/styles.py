"""Genres: tempi, harmony, instruments, drums; and every word that a description can hold."""

from __future__ import annotations

from dataclasses import dataclass

from songkit_synth.voices import VOICES

__all__ = ["GENRES", "INSTRUMENTS", "MODES", "TEMPI", "Genre", "describe", "moods", "style_words"]

MODES = {"maj": (0, 2, 4, 5, 7, 9, 11), "min": (0, 2, 3, 5, 7, 8, 10)}
"""Semitones above the key of each degree of the scale."""

TEMPI = range(60, 161)
"""All tempi in beats per minute."""


@dataclass(frozen=True, kw_only=True)
class Genre:
    """What songs of a genre draw from."""

    tempo: tuple[int, int]
    """Slowest and fastest, beats per minute."""
    major: float
    """Share of songs in a major key."""
    meters: tuple[int, ...]
    """Beats of a bar to draw from."""
    progressions: dict[str, tuple[tuple[int, ...], ...]]
    """For each mode, degrees (0 = tonic), one a bar."""
    pad: tuple[int, ...]
    """General MIDI programs of the held chords."""
    keys: tuple[int, ...]
    lead: tuple[int, ...]
    """Programs that play the tune where nobody sings."""
    bass: tuple[int, ...]
    drums: str
    """Name of the drum pattern in `songkit_synth.band`."""
    figure: str
    """How the chords are played: `strum`, `arpeggio`, `comp` or `pulse`."""
    swing: float = 0.0
    """Beats by which off-beat eighths come late."""
    sevenths: bool = False
    """Whether chords have their seventh."""


GENRES: dict[str, Genre] = {
    "pop": Genre(
        tempo=(92, 126),
        major=0.75,
        meters=(4,),
        drums="pop",
        figure="strum",
        progressions={
            "maj": ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (3, 0, 4, 5)),
            "min": ((0, 5, 2, 6), (0, 3, 5, 6), (5, 6, 0, 0)),
        },
        pad=(48, 50, 89),
        keys=(0, 1, 4),
        lead=(80, 73, 11),
        bass=(33, 38),
    ),
    "folk": Genre(
        tempo=(80, 112),
        major=0.7,
        meters=(4, 3),
        drums="folk",
        figure="arpeggio",
        progressions={"maj": ((0, 3, 0, 4), (0, 4, 3, 0), (0, 5, 3, 4)), "min": ((0, 6, 5, 6), (0, 3, 0, 4))},
        pad=(48, 21),
        keys=(24, 25),
        lead=(22, 73, 40),
        bass=(32,),
    ),
    "rock": Genre(
        tempo=(108, 146),
        major=0.45,
        meters=(4,),
        drums="rock",
        figure="strum",
        progressions={
            "maj": ((0, 3, 4, 3), (0, 4, 5, 3), (0, 0, 3, 4)),
            "min": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6)),
        },
        pad=(18, 50),
        keys=(27, 29, 30),
        lead=(29, 30, 81),
        bass=(33, 34),
    ),
    "ballad": Genre(
        tempo=(62, 84),
        major=0.65,
        meters=(4, 3),
        drums="ballad",
        figure="arpeggio",
        progressions={"maj": ((0, 4, 5, 3), (3, 4, 2, 5), (0, 2, 3, 4)), "min": ((0, 5, 3, 4), (0, 2, 5, 6))},
        pad=(48, 49),
        keys=(0, 2),
        lead=(42, 40, 73),
        bass=(32, 33),
    ),
    "electronic": Genre(
        tempo=(112, 130),
        major=0.35,
        meters=(4,),
        drums="house",
        figure="pulse",
        progressions={"maj": ((5, 3, 0, 4), (0, 4, 5, 3)), "min": ((0, 5, 2, 6), (5, 6, 0, 0), (0, 3, 5, 6))},
        pad=(89, 90, 95),
        keys=(81, 62),
        lead=(80, 87),
        bass=(38, 39),
    ),
    "country": Genre(
        tempo=(96, 132),
        major=0.9,
        meters=(4, 3),
        drums="train",
        figure="strum",
        progressions={"maj": ((0, 3, 0, 4), (0, 0, 3, 4), (0, 4, 3, 0)), "min": ((0, 6, 0, 4), (0, 3, 6, 0))},
        pad=(21, 48),
        keys=(25,),
        lead=(105, 22, 40),
        bass=(32, 33),
    ),
    "jazz": Genre(
        tempo=(76, 120),
        major=0.6,
        meters=(4,),
        drums="swing",
        figure="comp",
        swing=0.16,
        sevenths=True,
        progressions={"maj": ((0, 5, 1, 4), (1, 4, 0, 5), (2, 5, 1, 4)), "min": ((0, 3, 6, 2), (0, 5, 3, 4))},
        pad=(49,),
        keys=(0, 26, 4),
        lead=(65, 56, 11),
        bass=(32,),
    ),
}
"""All genres by name."""

INSTRUMENTS: dict[int, str] = {
    0: "piano",
    1: "piano",
    2: "piano",
    4: "electric piano",
    11: "vibraphone",
    18: "organ",
    21: "accordion",
    22: "harmonica",
    24: "acoustic guitar",
    25: "acoustic guitar",
    26: "electric guitar",
    27: "electric guitar",
    29: "distorted guitar",
    30: "distorted guitar",
    32: "bass",
    33: "bass",
    34: "bass",
    38: "bass",
    39: "bass",
    40: "violin",
    42: "cello",
    48: "strings",
    49: "strings",
    50: "strings",
    56: "trumpet",
    62: "synthesizer",
    65: "saxophone",
    73: "flute",
    80: "synthesizer",
    81: "synthesizer",
    87: "synthesizer",
    89: "synthesizer",
    90: "synthesizer",
    95: "synthesizer",
    105: "banjo",
}
"""What a description calls a General MIDI program."""

_MOODS = {
    ("maj", True): ("happy", "bright", "energetic"),
    ("maj", False): ("warm", "tender", "peaceful"),
    ("min", True): ("dark", "intense", "driving"),
    ("min", False): ("sad", "melancholic", "dreamy"),
}


def moods(mode: str, tempo: int) -> tuple[str, ...]:
    """Returns the mood words that are true of a mode and a tempo."""
    return _MOODS[mode, tempo >= 100]


def describe(*, voice: str, genre: str, mood: str, instruments: list[str], tempo: int) -> str:
    """Writes a description as LeVo does: `female, clear voice, pop, bright, piano and drums, the bpm is 104`."""
    who = VOICES[voice]
    return f"{who.kind}, {who.word}, {genre}, {mood}, {' and '.join(instruments)}, the bpm is {tempo}"


def style_words() -> tuple[str, ...]:
    """Returns every word of every description, sorted: the closed vocabulary of the styles."""
    texts = [*GENRES, *INSTRUMENTS.values(), "drums", "and the bpm is"]
    texts += [text for voice in VOICES.values() for text in (voice.kind, voice.word)]
    texts += [word for group in _MOODS.values() for word in group]
    words = {word for text in texts for word in text.split()}
    return tuple(sorted(words)) + tuple(str(tempo) for tempo in TEMPI)
