"""Lyrics as one sequence of symbols: a structure tag for each section, phones, and a break after each line.

The language model reads this sequence as its prefix, and its cursor moves along it while it sings.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from songkit.phonemes import PHONES, phonemize
from songkit.request import STRUCTURE_TAGS
from songkit.types import Alignment, Section, Span

__all__ = ["LINE_BREAK", "SYMBOLS", "Tape", "alignment_of", "cursor_of", "tape_of"]

LINE_BREAK = "<line>"

SYMBOLS: tuple[str, ...] = ("<null>", LINE_BREAK, *STRUCTURE_TAGS, *PHONES)
"""All symbols; the first stands for hidden lyrics."""

_INDEX = {symbol: i for i, symbol in enumerate(SYMBOLS)}


@dataclass(frozen=True)
class Tape:
    """The L tokens of a song's lyrics, each array int64 [L]."""

    symbols: np.ndarray
    """Index into `SYMBOLS`."""
    stresses: np.ndarray
    """0 none, 1 primary, 2 secondary."""
    word_starts: np.ndarray
    """1 where a word begins."""
    structures: np.ndarray
    """Which structure tag the token stands under, as index into `SYMBOLS` (LeVo's structure embedding)."""
    sections: np.ndarray
    """Number of the section the token belongs to."""
    lines: np.ndarray
    """Number of the sung line the token belongs to, counted through the song; -1 for structure tags."""


@functools.lru_cache(maxsize=8192)
def tape_of(sections: tuple[Section, ...]) -> Tape:
    """Writes lyrics as a tape.

    Raises:
        RequestError: If a line cannot be pronounced.
    """
    rows: list[tuple[int, int, int, int, int, int]] = []
    line_number = 0
    for number, section in enumerate(sections):
        structure = _INDEX[section.tag]
        rows.append((structure, 0, 0, structure, number, -1))
        for line in section.lines:
            for phone in phonemize(line):
                symbol = _INDEX[phone.symbol]
                rows.append((symbol, phone.stress, int(phone.word_start), structure, number, line_number))
            rows.append((_INDEX[LINE_BREAK], 0, 0, structure, number, line_number))
            line_number += 1
    return Tape(*np.array(rows, np.int64).reshape(-1, 6).T)


def cursor_of(
    sections: tuple[Section, ...], alignment: Alignment, frames: int, frame_rate: float, reach: int
) -> np.ndarray:
    """Returns which token of the tape sounds at each frame, int64 [F], never moving further than `reach` at once.

    Raises:
        ValueError: If the alignment is of other lyrics.
    """
    tape = tape_of(sections)
    starts = np.empty(len(tape.symbols))
    tags, breaks = tape.lines < 0, tape.symbols == _INDEX[LINE_BREAK]
    phones = ~tags & ~breaks
    if tags.sum() != len(alignment.sections) or phones.sum() != len(alignment.phones):
        raise ValueError(
            f"the alignment has {len(alignment.sections)} sections and {len(alignment.phones)} phones, "
            f"the lyrics have {tags.sum()} and {phones.sum()}"
        )
    starts[tags] = [span.start for span in alignment.sections]
    starts[phones] = [span.start for span in alignment.phones]
    ends = np.empty(len(starts))
    ends[phones] = [span.end for span in alignment.phones]
    last = np.flatnonzero(breaks) - 1  # a line with nothing to pronounce has its break right behind another token
    starts[breaks] = np.where(phones[last], ends[last], starts[last])
    # Onset consonants come before the beat and so before their section: a token never starts after the next one.
    starts = np.minimum.accumulate(starts[::-1])[::-1]
    centres = (np.arange(frames) + 0.5) / frame_rate
    cursor = np.maximum(np.searchsorted(starts, centres, side="right") - 1, 0)
    for f in range(1, frames):
        cursor[f] = min(cursor[f], cursor[f - 1] + reach)
    return cursor


def alignment_of(sections: tuple[Section, ...], cursor: np.ndarray, frame_rate: float) -> Alignment:
    """Returns the times of sections, lines and phones of a cursor [F]: the inverse of `cursor_of`, to a frame."""
    tape = tape_of(sections)
    frame_section, frame_line = tape.sections[cursor], tape.lines[cursor]
    section_spans = [
        Span(sections[i].tag, *_extent(frame_section == i, frame_rate)) for i in np.unique(frame_section).tolist()
    ]
    texts = [line for section in sections for line in section.lines]
    sounding = np.isin(tape.symbols[cursor], [_INDEX[p] for p in PHONES])
    line_spans = [
        Span(texts[i], *_extent((frame_line == i) & sounding, frame_rate))
        for i in np.unique(frame_line[sounding]).tolist()
    ]
    starts = np.flatnonzero(np.diff(cursor, prepend=-1))
    stops = np.append(starts[1:], len(cursor))
    phone_spans = [
        Span(SYMBOLS[tape.symbols[cursor[a]]], a / frame_rate, b / frame_rate)
        for a, b in zip(starts.tolist(), stops.tolist(), strict=True)
        if sounding[a]
    ]
    return Alignment(sections=tuple(section_spans), lines=tuple(line_spans), phones=tuple(phone_spans))


def _extent(where: np.ndarray, frame_rate: float) -> tuple[float, float]:
    frames = np.flatnonzero(where)
    return float(frames[0] / frame_rate), float((frames[-1] + 1) / frame_rate)
