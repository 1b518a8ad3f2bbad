import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit.phonemes import PHONES, VOWELS
from songkit_synth.singer import pronounce
from songkit_synth.words import clean, split_of


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('"The trees, they stood so very still!--', ["The trees they stood so very still"]),
        ("  And sings the tune without the words--", ["And sings the tune without the words"]),
        ("I’ve heard it in the chilliest land", ["I've heard it in the chilliest land"]),
        ("_Poem written in the year 1840_", []),
        ("THE SONG OF THE SEA AND SHORE", []),
        ("of a line that prose has broken here", []),
        ("Thou art the one that I have loved", []),
        ("Too short", []),
        ("til Søen I da roed", []),
    ],
)
def test_cleaning_keeps_plain_verse_only(raw: str, expected: list[str]) -> None:
    assert list(clean([raw])) == expected


@settings(derandomize=True, max_examples=200)
@given(st.text(string.ascii_letters + " ',.!-", min_size=1, max_size=60))
def test_variants_of_a_line_are_in_the_same_split(line: str) -> None:
    assert split_of(line) == split_of(line.upper()) == split_of(f'  "{line.lower()}!" ')


def test_each_split_gets_its_share() -> None:
    splits = [
        split_of(f"line {a}{b}{c}") for a in string.ascii_lowercase for b in string.ascii_lowercase for c in "abcd"
    ]
    assert 0.9 < splits.count("train") / len(splits) < 0.99
    assert splits.count("valid") > 10
    assert splits.count("test") > 10


def test_syllables_hold_every_phone_once_in_order() -> None:
    words = pronounce("The strongest angels answered all the little questions")
    assert words is not None
    order = [i for s in words.syllables for i in (*s.onset, s.vowel, *s.coda)]
    assert order == list(range(len(words.phones)))
    assert all(words.phones[s.vowel].symbol in VOWELS for s in words.syllables)
    assert {p.symbol for p in words.phones} <= set(PHONES)


def test_consonants_go_to_the_next_vowel_as_english_allows() -> None:
    words = pronounce("constrain")
    assert words is not None
    first, second = words.syllables
    assert "".join(words.phones[i].symbol for i in first.coda) == "n"
    assert "".join(words.phones[i].symbol for i in second.onset) == "stɹ"


def test_a_line_without_vowels_cannot_be_sung() -> None:
    assert pronounce("...") is None
