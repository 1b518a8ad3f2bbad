"""Songs on paper: the form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from songkit_synth.score import LEAD, TAIL, Part, Score
from songkit_synth.singer import Words
from songkit_synth.styles import GENRES, moods
from songkit_synth.writer import Writer

__all__ = ["compose"]

_CYCLE = ("verse", "chorus", "verse", "chorus", "inst", "bridge", "chorus", "verse", "chorus", "inst", "chorus")


def compose(
    rng: np.random.Generator,
    draw: Callable[[], Words],
    *,
    voices: Sequence[str],
    genres: Sequence[str],
    seconds_min: float,
    seconds_max: float,
) -> Score:
    """Writes a song that lasts between the two lengths.

    Args:
        rng: Decides everything but the words.
        draw: Returns the next line of words.
        voices: Names of singers to draw from.
        genres: Names of genres to draw from.
        seconds_min: Shortest length.
        seconds_max: Longest length.
    """
    target = float(rng.uniform(seconds_min, seconds_max))
    name = str(rng.choice(list(genres)))
    genre = GENRES[name]
    mode = "maj" if rng.random() < genre.major else "min"
    tempo = int(rng.integers(genre.tempo[0], genre.tempo[1] + 1))
    score = Score(
        voice=str(rng.choice(list(voices))),
        genre=name,
        mood=str(rng.choice(moods(mode, tempo))),
        tempo=tempo,
        meter=int(rng.choice(genre.meters)),
        tonic=int(rng.integers(12)),
        mode=mode,
    )
    writer = Writer(rng, draw, score)
    around = LEAD + TAIL
    parts = _form(writer, target - around, seconds_max - around)
    written = sum(part.beats for part in parts) * score.beat
    bar = score.meter * score.beat
    if written + around < seconds_min:  # no further section fitted: play a few bars more
        bars = min(math.ceil((seconds_min - around - written) / bar), int((seconds_max - around - written) / bar))
        parts = _extend(writer, parts, bars)
        written += bars * bar
    length = max(seconds_min, written + around)
    frames = min(math.ceil(length * 25 - 1e-6), math.floor(seconds_max * 25 + 1e-6))  # whole frames of 40 ms
    return replace(score, parts=tuple(parts), seconds=frames / 25)


def _form(writer: Writer, target: float, limit: float) -> list[Part]:
    """Returns sections of about `target` and at most `limit` seconds."""
    score, rng = writer.score, writer.rng
    parts: list[Part] = []
    outro: list[Part] = []
    if target >= 22 and rng.random() < 0.85:
        parts.append(writer.silent("intro", _bars_within(rng, score, 2.0, min(9.4, target * 0.2))))
    if target >= 26 and rng.random() < 0.8:
        outro.append(writer.silent("outro", _bars_within(rng, score, 2.0, min(8.9, target * 0.2))))
    left = target - sum(part.beats for part in parts + outro) * score.beat
    long = target > 45
    least = 2 if target > 16 else 1  # lines of a section
    shift = 1 if not long and rng.random() < 0.4 else 0  # begin with the chorus
    chorus: Part | None = None
    sung = False
    for step in range(shift, 500):
        kind = _CYCLE[step % len(_CYCLE)]
        if kind == "inst":
            if left > 30:
                parts.append(writer.silent("inst", _bars_within(rng, score, 3.0, 9.4)))
                left -= parts[-1].beats * score.beat
            continue
        if kind == "chorus" and chorus is not None:
            part = chorus
        else:
            count = int(rng.choice((2, 3, 4), p=(0.15, 0.15, 0.7))) if long else int(rng.choice((2, 3), p=(0.8, 0.2)))
            part = writer.sung(kind, count)
        room = left if sung else left + limit - target
        while part.beats * score.beat > room and len(part.lines) > (least if sung else 1):
            part = writer.shortened(part)
        if part.beats * score.beat > room:
            if sung:
                break
            part = writer.fitting(kind, room)
        if kind == "chorus" and chorus is None:
            chorus = part
        parts.append(part)
        left -= part.beats * score.beat
        sung = True
    return parts + outro


def _bars_within(rng: np.random.Generator, score: Score, low: float, high: float) -> int:
    """Returns a number of bars that lasts between two numbers of seconds, at least one bar."""
    bar = score.meter * score.beat
    fits = [n for n in (1, 2, 3, 4) if low <= n * bar <= high]
    return int(rng.choice(fits)) if fits else 1


def _extend(writer: Writer, parts: list[Part], bars: int) -> list[Part]:
    """Adds bars behind the song; a section without words stays below ten seconds."""
    if parts[-1].kind == "outro":
        bars += len(parts[-1].bars)
        parts = parts[:-1]
    each = max(1, int(8.9 / (writer.score.meter * writer.score.beat)))
    while bars > 0:
        now = min(bars, each)
        parts = [*parts, writer.silent("inst" if bars > now else "outro", now)]
        bars -= now
    return parts
