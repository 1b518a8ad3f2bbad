"""From a score to a sung track with the times of all that is sung."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from songkit.types import Note, Span
from songkit_synth.musicality import Musicality
from songkit_synth.score import Line, Score
from songkit_synth.singer import RATE, Words, frame_rate, render, unit
from songkit_synth.styles import GENRES, MODES
from songkit_synth.voices import VOICES, Voice
from songkit_synth.writer import consonant_units, shortest

__all__ = ["Sung", "sing"]

_BEFORE, _AFTER = 4, 6  # units of silence around a line


@dataclass(frozen=True)
class Sung:
    """A line as it was sung, in seconds from the song's start."""

    line: Span
    phones: tuple[Span, ...]
    notes: tuple[Note, ...]


def sing(
    score: Score, faults: Musicality, rng: np.random.Generator, faults_rng: np.random.Generator, *, audio: bool = True
) -> tuple[np.ndarray, list[Sung]]:
    """Sings a song.

    Args:
        score: The song on paper.
        faults: How badly it is sung.
        rng: For noise and small movements of the pitch.
        faults_rng: For the faults, so that the rest does not depend on them.
        audio: Whether to make sound; the times are the same without.

    Returns:
        Dry sound, float32 mono [T] at 24 kHz, and the sung lines in order.
    """
    voice = VOICES[score.voice]
    sound = np.zeros(int(score.seconds * RATE) + RATE, np.float32)
    sung: list[Sung] = []
    beat = 0
    for part in score.parts:
        at = beat
        for line in part.lines:
            seed = int(rng.integers(2**63))
            onsets, pitches, detune = _perform(score, line, at, faults, faults_rng)
            units, start = _units(line.words, onsets, voice)
            truth = _truth(line.words, units, start, pitches, voice)
            if audio:
                own = np.random.default_rng(seed)
                f0 = _f0(truth.notes, detune, units, start, voice, faults.stiff, own)
                wave = render(line.words, units, f0, voice, before=_BEFORE, after=_AFTER, rng=own)
                first = round((start - _BEFORE * unit(voice)) * RATE)
                wave = wave[max(0, -first) :]
                first = max(0, first)
                wave = wave[: len(sound) - first]
                sound[first : first + len(wave)] += wave
            sung.append(truth)
            at += line.beats
        beat += part.beats
    return sound[: round(score.seconds * RATE)], sung


def _perform(
    score: Score, line: Line, beat: int, faults: Musicality, rng: np.random.Generator
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Returns the onset of each vowel and the end of the last [N + 1], the pitches, and each one's error in cents."""
    swing = GENRES[score.genre].swing
    places = np.array([*line.onsets, line.onsets[-1] + line.lengths[-1]])
    late = np.where(places % 1 == 0.5, swing, 0.0)
    late[-1] = 0.0
    onsets = score.lead + (beat + places + late) * score.beat
    drift = rng.standard_normal()
    slips = rng.standard_normal(len(onsets))
    onsets = onsets + np.clip(drift + 0.5 * slips, -1.5, 1.5) * faults.sloppy
    wrong = rng.random(len(line.pitches)) < faults.wrong_notes
    up = rng.random(len(line.pitches)) < 0.5
    scale = {(score.tonic + s) % 12 for s in MODES[score.mode]}
    pitches = []
    for pitch, bad, first in zip(line.pitches, wrong, up, strict=True):
        steps = (1, -1, 2) if first else (-1, 1, -2)
        outside = [pitch + step for step in steps if (pitch + step) % 12 not in scale]
        pitches.append(outside[0] if bad and outside else pitch)
    return onsets, pitches, rng.standard_normal(len(pitches)) * faults.detune


def _units(words: Words, onsets: np.ndarray, voice: Voice) -> tuple[list[int], float]:
    """Returns how many units each phone lasts, and when the first begins; the vowels begin at the onsets."""
    step, least = unit(voice), shortest(voice)
    units = consonant_units(words, voice)
    grid = np.round((onsets - onsets[0]) / step).astype(int)
    syllables = words.syllables
    for k, syllable in enumerate(syllables):
        following = syllables[k + 1].onset if k + 1 < len(syllables) else ()
        others = [*syllable.coda, *following]
        grid[k + 1] = max(grid[k + 1], grid[k] + least * (len(others) + 1))  # only faults of timing come this near
        room = int(grid[k + 1] - grid[k])
        vowel = min(max(room * 2 // 5, least), room - least * len(others))
        while sum(units[i] for i in others) > room - vowel:
            units[max(others, key=lambda i: units[i])] -= 1
        units[syllable.vowel] = room - sum(units[i] for i in others)
    lead = sum(units[i] for i in syllables[0].onset)
    return units, float(onsets[0]) - lead * step


def _truth(words: Words, units: Sequence[int], start: float, pitches: Sequence[int], voice: Voice) -> Sung:
    edges = np.round(start + np.concatenate([[0], np.cumsum(units)]) * unit(voice), 5)
    phones = tuple(
        Span(phone.symbol, float(a), float(b)) for phone, a, b in zip(words.phones, edges, edges[1:], strict=False)
    )
    notes = []
    for syllable, pitch in zip(words.syllables, pitches, strict=True):
        end = edges[(syllable.coda[-1] if syllable.coda else syllable.vowel) + 1]
        notes.append(Note(pitch, float(edges[syllable.vowel]), float(end)))
    return Sung(Span(words.text, float(edges[0]), float(edges[-1])), phones, tuple(notes))


def _f0(
    notes: Sequence[Note],
    detune: np.ndarray,
    units: Sequence[int],
    start: float,
    voice: Voice,
    stiff: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns F0 in Hz at the voice's frame rate, from the silence before the line to that behind it."""
    step, rate = unit(voice), frame_rate(voice)
    count = 2 * (sum(units) + _BEFORE + _AFTER)
    times = start - _BEFORE * step + (np.arange(count) + 0.5) / rate
    # the pitch changes in the middle of the consonants between two vowels
    turns = [(left.end + right.start) / 2 for left, right in itertools.pairwise(notes)]
    which = np.searchsorted(np.array(turns), times)
    pitch = np.array([note.pitch + cents / 100 for note, cents in zip(notes, detune, strict=True)])[which]
    width = max(1, round(voice.glide * (1 - 0.8 * stiff) * rate))
    kernel = np.hanning(width + 2)[1:-1]
    padded = np.pad(pitch, (width // 2, width - 1 - width // 2), mode="edge")
    curve = np.convolve(padded, kernel / kernel.sum(), "valid")
    for note in notes:
        if note.end - note.start > 0.35:
            since = times - note.start - 0.2
            swell = np.clip(since / 0.3, 0, 1) * np.clip((note.end - times) / 0.08, 0, 1)
            cycles = voice.vibrato_rate * (1 + 0.04 * rng.standard_normal()) * since
            wave = voice.vibrato_depth * (1 - stiff) * swell * np.sin(2 * np.pi * cycles)
            curve += np.where((since > 0) & (times < note.end), wave, 0.0)
    wander = np.convolve(rng.standard_normal(count + 20), np.ones(21) / 21, "valid")
    curve += 0.10 * (1 - stiff) * wander[:count]
    return np.asarray(440.0 * 2.0 ** ((curve - 69) / 12))
