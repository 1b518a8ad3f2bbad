"""What the words of a description ask for, in terms of what can be heard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MOODS", "TAG_WORDS", "VOICES", "Wanted", "read_description"]

TAG_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "genre": {
        "pop": ("msd:pop", "mtt:pop"),
        "rock": ("msd:rock", "mtt:rock"),
        "folk": ("msd:folk", "msd:acoustic"),
        "ballad": ("msd:Mellow", "mtt:slow"),
        "electronic": ("msd:electronic", "mtt:electronic"),
        "country": ("msd:country", "mtt:country"),
        "jazz": ("msd:jazz",),
        "metal": ("msd:metal", "mtt:metal"),
        "soul": ("msd:soul",),
        "blues": ("msd:blues",),
        "punk": ("msd:punk",),
        "funk": ("msd:funk",),
        "dance": ("msd:dance", "mtt:dance"),
        "hip-hop": ("msd:Hip-Hop",),
        "classical": ("mtt:classical", "mtt:classic"),
    },
    "instrument": {
        "piano": ("mtt:piano",),
        "guitar": ("mtt:guitar",),
        "strings": ("mtt:strings",),
        "violin": ("mtt:violin",),
        "cello": ("mtt:cello",),
        "flute": ("mtt:flute",),
        "synthesizer": ("mtt:synth",),
        "drums": ("mtt:drums", "mtt:beat"),
        "harp": ("mtt:harp",),
        "harpsichord": ("mtt:harpsichord",),
        "choir": ("mtt:choir",),
    },
}
"""Words that are tags of musicnn, or plainly mean one; `msd:` or `mtt:` names the model. A word is judged against the
other words of its group."""

VOICES: Mapping[str, str] = {
    **dict.fromkeys(("male", "man"), "low"),
    **dict.fromkeys(("female", "woman", "child", "girl", "boy"), "high"),
}
"""Words for the singer, with the register of the voice."""

MOODS: Mapping[str, str] = {
    **dict.fromkeys(("happy", "bright", "energetic", "warm", "tender", "peaceful"), "maj"),
    **dict.fromkeys(("dark", "intense", "driving", "sad", "melancholic", "dreamy"), "min"),
}
"""Words for moods with the mode of the key, as songkit-synth means them. It is a convention: sad songs in a major key
exist."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a description asks for; empty or 0 where it says nothing."""

    tags: Mapping[str, tuple[str, ...]]
    """Words of `TAG_WORDS` by group."""
    register: str
    """`low` or `high`."""
    mode: str
    """`maj` or `min`."""
    tempo: float
    """Beats per minute."""
    unheard: tuple[str, ...]
    """Parts of the description that no judge here listens for."""


def read_description(text: str) -> Wanted:
    """Reads a description such as `female, clear voice, pop, bright, piano and drums, the bpm is 104`."""
    tags: dict[str, list[str]] = {group: [] for group in TAG_WORDS}
    register, mode, tempo, unheard = "", "", 0.0, []
    for part in re.split(r",| and ", text.lower()):
        part = part.strip()
        beats = re.fullmatch(r"(?:the )?(?:bpm|tempo) is (\d+(?:\.\d+)?)", part) or re.fullmatch(r"(\d+) ?bpm", part)
        words = set(part.split())
        # "electric piano" and "distorted guitar" are kinds of what the tag names.
        found = [(group, word) for group, known in TAG_WORDS.items() for word in known if word in words]
        if beats:
            tempo = float(beats[1])
        elif part in VOICES:
            register = register or VOICES[part]
        elif part in MOODS:
            mode = mode or MOODS[part]
        elif found:
            tags[found[0][0]].append(found[0][1])
        elif part:
            unheard.append(part)
    return Wanted(
        tags={group: tuple(dict.fromkeys(words)) for group, words in tags.items()},
        register=register,
        mode=mode,
        tempo=tempo,
        unheard=tuple(unheard),
    )
