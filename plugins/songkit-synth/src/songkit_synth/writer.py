"""Sections and lines of a song: rhythm and tune."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from songkit_synth.score import Bar, Line, Part, Score, chord_tones
from songkit_synth.singer import Words, unit
from songkit_synth.styles import GENRES, MODES
from songkit_synth.voices import VOICES, Voice

__all__ = ["Writer", "consonant_units", "shortest"]

_MOST_BARS = 16  # of a line


class Writer:
    """Writes sections of one song; remembers its progressions and tunes."""

    def __init__(self, rng: np.random.Generator, draw: Callable[[], Words], score: Score) -> None:
        self.rng, self.draw, self.score = rng, draw, score
        self.voice = VOICES[score.voice]
        choices = GENRES[score.genre].progressions[score.mode]
        self.progressions = {
            kind: choices[int(rng.integers(len(choices)))] for kind in ("verse", "chorus", "bridge", "inst")
        }
        self.tunes: dict[tuple[str, int, int], Line] = {}
        self.last = (self.voice.low + self.voice.high) // 2

    def silent(self, kind: str, bars: int) -> Part:
        """Returns a section in which nobody sings."""
        degrees = self.progressions[{"intro": "verse", "outro": "chorus"}.get(kind, "inst")]
        made = [Bar(self.score.meter, degrees[i % len(degrees)]) for i in range(bars)]
        if kind == "outro":
            made[-1] = Bar(self.score.meter, 0)
        return Part(kind, tuple(made))

    def sung(self, kind: str, count: int) -> Part:
        """Returns a section of new words."""
        return self._part(kind, [self.draw() for _ in range(count)])

    def shortened(self, part: Part) -> Part:
        """Returns a section without its last line."""
        lines = part.lines[:-1]
        return Part(part.kind, tuple(bar for line in lines for bar in line.bars), lines)

    def fitting(self, kind: str, room: float) -> Part:
        """Returns the first section of one line that is not longer than `room` seconds; the shortest of 200 else."""
        best: Part | None = None
        for _ in range(200):
            part = self._part(kind, [self.draw()])
            if best is None or part.beats < best.beats:
                best = part
            if part.beats * self.score.beat <= room:
                return part
        assert best is not None
        return best

    def _part(self, kind: str, texts: list[Words]) -> Part:
        degrees = self.progressions[kind]
        lines: list[Line] = []
        bar = 0
        for i, words in enumerate(texts):
            chords = [degrees[(bar + k) % len(degrees)] for k in range(_MOST_BARS)]
            lines.append(self._line(kind, i, words, chords, i == len(texts) - 1))
            bar += len(lines[-1].bars)
        return Part(kind, tuple(b for line in lines for b in line.bars), tuple(lines))

    def _line(self, kind: str, index: int, words: Words, chords: Sequence[int], final: bool) -> Line:
        needs = self._needs(words)
        for place in (index, index - 2):  # a verse keeps its tune; the third line answers the first
            known = self.tunes.get((kind, place, len(needs)))
            if known is None or [bar.degree for bar in known.bars] != list(chords[: len(known.bars)]):
                continue
            if all(need <= length * self.score.beat for need, length in zip(needs, known.lengths, strict=True)):
                return Line(words, known.onsets, known.lengths, known.pitches, known.bars)
        onsets, lengths, beats = self._rhythm(needs, [s.stress for s in words.syllables])
        bars = tuple(map(Bar, _measures(beats, self.score.meter), chords))
        pitches = self._tune(kind, onsets, bars, final)
        line = Line(words, onsets, lengths, pitches, bars)
        self.tunes.setdefault((kind, index, len(needs)), line)
        self.last = pitches[-1]
        return line

    def _needs(self, words: Words) -> list[float]:
        """Returns the seconds from each vowel's onset to the next one's, or to the line's end, that singing takes."""
        wanted = consonant_units(words, self.voice)
        step = unit(self.voice)
        needs = []
        for k, syllable in enumerate(words.syllables):
            following = words.syllables[k + 1].onset if k + 1 < len(words.syllables) else ()
            vowel = 0.15 if syllable.stress else 0.11
            needs.append(sum(wanted[i] for i in (*syllable.coda, *following)) * step + vowel)
        needs[-1] = max(needs[-1], 0.45)
        return needs

    def _rhythm(self, needs: list[float], stresses: list[int]) -> tuple[tuple[float, ...], tuple[float, ...], int]:
        """Returns onsets and lengths in beats on a grid of eighths, and the line's length in beats."""
        rng, beat, meter = self.rng, self.score.beat, self.score.meter
        lengths = [max(0.5, math.ceil(need / beat * 2 - 1e-9) / 2) for need in needs]
        lengths[-1] = max(lengths[-1], 1.0)
        rest = max(0.5, math.ceil(0.5 / beat * 2) / 2)
        start = float(rng.choice((0.0, 0.5, 1.0), p=(0.6, 0.2, 0.2)))
        half = meter // 2 if meter == 4 else meter
        beats = max(meter, math.ceil((start + sum(lengths) + rest) / half) * half)
        spare = beats - start - sum(lengths) - rest
        while spare >= 0.5:
            onsets = start + np.cumsum([0.0, *lengths[:-1]])
            weights = []
            for i in range(len(lengths)):
                off = i + 1 < len(lengths) and stresses[i + 1] == 1 and onsets[i + 1] % 1 != 0
                weight = (2.0 if stresses[i] else 0.6) * (4.0 if off else 1.0) / lengths[i] ** 2
                weights.append(3.0 * (lengths[i] < 3) if i == len(lengths) - 1 else weight * (lengths[i] < 2))
            weights.append(2.0)  # longer rest
            chosen = int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))
            if chosen < len(lengths):
                lengths[chosen] += 0.5
            spare -= 0.5
        onsets = start + np.cumsum([0.0, *lengths[:-1]])
        return tuple(float(x) for x in onsets), tuple(lengths), beats

    def _tune(self, kind: str, onsets: Sequence[float], bars: Sequence[Bar], final: bool) -> tuple[int, ...]:
        """Returns pitches: steps rather than leaps, chord tones on strong beats, an arch, a cadence."""
        rng, score = self.rng, self.score
        lift = 2 if kind == "chorus" else 0
        low, high = self.voice.low + lift, self.voice.high - 2 + lift
        scale = {(score.tonic + s) % 12 for s in MODES[score.mode]}
        notes = np.array([p for p in range(low, high + 1) if p % 12 in scale])
        shape = int(rng.integers(3))  # arch, rise, fall
        ends = np.cumsum([bar.beats for bar in bars])
        pitches: list[int] = []
        last, leap = self.last, 0
        for i, onset in enumerate(onsets):
            bar = bars[min(int(np.searchsorted(ends, onset, side="right")), len(bars) - 1)]
            tones = {t % 12 for t in chord_tones(score, bar.degree)}
            x = i / max(1, len(onsets) - 1)
            height = (math.sin(math.pi * x), x, 1 - x)[shape]
            centre = low + (high - low) * (0.3 + 0.4 * height)
            weight = np.exp(-np.abs(notes - last) / 1.8) * np.exp(-(((notes - centre) / 5.0) ** 2))
            weight[notes == last] *= 0.6
            weight[np.abs(notes - last) > 7] *= 0.02
            if abs(leap) > 4:  # after a leap, turn back
                weight[(notes - last) * leap > 0] *= 0.2
            inside = np.array([n % 12 in tones for n in notes])
            if onset % 1 == 0:
                weight[inside] *= 5.0
            if i == len(onsets) - 1:
                home = notes % 12 == chord_tones(score, 0 if final else bar.degree)[0] % 12
                weight[~inside] *= 0.01
                weight[inside & home] *= 3.0
            pitch = int(rng.choice(notes, p=weight / weight.sum()))
            leap, last = pitch - last, pitch
            pitches.append(pitch)
        return tuple(pitches)


def shortest(voice: Voice) -> int:
    """Returns how many units make the shortest phone, 50 ms."""
    return math.ceil(0.05 / unit(voice) - 1e-9)


def consonant_units(words: Words, voice: Voice) -> list[int]:
    """Returns how many units each phone should last as a consonant; singing lengthens them."""
    least = shortest(voice)
    return [min(max(round(1.7 * spoken / unit(voice)), least), least + 3) for spoken in words.natural]


def _measures(beats: int, meter: int) -> list[int]:
    """Splits a line into bars; a line of one and a half bars ends with a short bar."""
    full, rest = divmod(beats, meter)
    return [meter] * full + ([rest] if rest else [])
