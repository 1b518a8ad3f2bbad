"""English lyrics to phones, by the G2P inside hibari-tts (`pip install songkit[english]`).

The singer, the miniature's lyrics and the phoneme-error judge all count phones by this one function, so that
their alignments and errors speak of the same sequence.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

from songkit.errors import RequestError
from songkit.types import Phone

__all__ = ["PHONES", "VOWELS", "phonemize", "unsingable"]

VOWELS = frozenset("AIOWYᵊaeiouɑɐɒæɔəɚɛɜɪʊʌᵻ")
"""Symbols that carry a syllable; A I O W Y are the diphthongs of day, my, go, now, boy."""

CONSONANTS = frozenset("bdfhjklmnpstvwzðŋɡɹɾʃʒʤʧθT")
"""T is the flapped t of American English."""

PHONES: tuple[str, ...] = tuple(sorted(VOWELS | CONSONANTS))
"""All symbols that `phonemize` returns."""

_STRESS = {"ˈ": 1, "ˌ": 2}


@functools.lru_cache(maxsize=65536)
def phonemize(line: str) -> tuple[Phone, ...]:
    """Pronounces a line of English, without its punctuation.

    Args:
        line: Text in Latin script; numbers are read out.

    Returns:
        Its phones in order; empty if nothing in the line is pronounced.

    Raises:
        RequestError: If the line holds letters of another script; `unsingable` names them.
    """
    foreign = unsingable(line)
    if foreign:
        raise RequestError(
            f"cannot pronounce {foreign!r} in the line {line!r}: the pronunciation knows English in Latin letters "
            "only. Write the line in English, or use a model that sings this script."
        )
    phones: list[Phone] = []
    stress, word_start = 0, True
    for symbol in _g2p()(line):
        if symbol in _STRESS:
            stress = _STRESS[symbol]
        elif symbol in VOWELS:
            phones.append(Phone(symbol, stress, word_start))
            stress, word_start = 0, False
        elif symbol in CONSONANTS:
            phones.append(Phone(symbol, 0, word_start))
            word_start = False
        else:  # a space or punctuation ends a word
            stress, word_start = 0, True
    return tuple(phones)


def unsingable(text: str) -> str:
    """Returns the distinct letters of `text` that are not Latin, in order of appearance."""
    foreign = dict.fromkeys(c for c in text if c.isalpha() and "LATIN" not in unicodedata.name(c, ""))
    return "".join(foreign)


@functools.cache
def _g2p() -> Callable[[str], str]:
    try:
        from hibari.g2p import G2P
    except ImportError as error:
        raise RequestError(
            "pronouncing lyrics needs the package hibari-tts, which is not installed: pip install 'songkit[english]'"
        ) from error
    g2p: Callable[[str], str] = G2P()
    return g2p
