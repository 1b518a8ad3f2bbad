"""Songs, requests, audio, codes and conditions made in code: what components are tried on."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from songkit.interfaces import Tokenizer
from songkit.patterns import Pattern
from songkit.request import SongRequest
from songkit.types import (
    TIERS,
    TRACKS,
    Alignment,
    ArrayTrack,
    Audio,
    Codes,
    Conditions,
    Note,
    Plan,
    Section,
    Song,
    Span,
    TokenLayout,
)

__all__ = ["audio", "codes", "conditions", "listened", "plan", "requests", "song", "without"]

_LINES = (("golden river", "carry me"), ("lonely mountain", "call my name"), ("paper lantern", "burn all night"))
_SECONDS = (3.0, 3.6, 2.7)


def song(index: int, *, sample_rate: int = 8000, tracks: Sequence[str] = TRACKS) -> Song:
    """Returns a song of about three seconds with all of its truth: a silent introduction, then a sung verse."""
    lines, seconds = _LINES[index % len(_LINES)], _SECONDS[index % len(_SECONDS)]
    sections = (Section("intro-short"), Section("verse", lines))
    begin, step = 0.6, (seconds - 0.8) / 2
    sung = tuple(Span(text, begin + i * step, begin + (i + 1) * step - 0.1) for i, text in enumerate(lines))
    notes = tuple(
        Note(60 + (index + 4 * i) % 12, line.start + part * 0.4, line.start + part * 0.4 + 0.4)
        for i, line in enumerate(sung)
        for part in range(2)
    )
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    vocal = np.sum([_tone(times, note.pitch, note.start, note.end) for note in notes], axis=0)
    band = 0.3 * np.sum([_tone(times, pitch, 0.0, seconds) for pitch in (48, 52, 55)], axis=0)
    made = {"vocal": vocal, "accompaniment": band, "mix": vocal + band}
    return Song(
        id=f"kit-{index}",
        sections=sections,
        description="female, pop, bright, piano, the bpm is 104",
        tracks={t: ArrayTrack(made[t][None].astype(np.float32), sample_rate) for t in tracks},
        tier=TIERS[-1 - index % len(TIERS)],
        tempo=104.0,
        key="C:maj",
        alignment=Alignment(
            sections=(Span("intro-short", 0.0, 0.5), Span("verse", 0.5, seconds)),
            lines=sung,
            phones=_phones(sung),
            notes=notes,
            chords=(Span("C:maj", 0.0, seconds),),
        ),
        provenance={"source": "songkit.testing"},
    )


def requests(count: int = 2) -> list[SongRequest]:
    """Returns requests in plain English whose lyrics differ in words and length."""
    made = []
    for index in range(count):
        words = _LINES[index % len(_LINES)]
        sections = (Section("intro-short"), Section("verse", words[: 1 + index % 2]))
        made.append(SongRequest(id=f"kit-{index}", sections=sections, description="female, pop, the bpm is 104"))
    return made


def audio(tokenizer: Tokenizer, seconds: Sequence[float] = (1.3, 0.9), *, silent: bool = False) -> Audio:
    """Returns tones and noise as a tokenizer wants them; no length is a whole number of frames."""
    lengths = [round(part * tokenizer.sample_rate) + 7 for part in seconds]
    rng = np.random.default_rng(5)
    tracks = {}
    for number, track in enumerate(tokenizer.tracks):
        wave = np.zeros((len(lengths), tokenizer.channels, max(lengths)), np.float32)
        for row, length in enumerate(lengths):
            times = np.arange(length) / tokenizer.sample_rate
            tone = _tone(times, 57 + 5 * number + 3 * row, 0.0, seconds[row] + 1)
            noise = 0.05 * rng.standard_normal((tokenizer.channels, length))
            wave[row, :, :length] = 0.0 if silent else (tone + noise) * np.linspace(0.2, 1.0, length)
        tracks[track] = torch.from_numpy(wave)
    return Audio(tracks, torch.tensor(lengths), tokenizer.sample_rate)


def listened(made: Audio, rows: slice, samples: int | None = None) -> Audio:
    """Returns some songs of a batch, cut or padded with zeros to a number of samples."""
    samples = int(made.lengths[rows].max()) if samples is None else samples
    tracks = {}
    for name, track in made.tracks.items():
        part = track[rows, :, :samples]
        tracks[name] = torch.nn.functional.pad(part, (0, samples - part.shape[2]))
    return Audio(tracks, made.lengths[rows], made.sample_rate)


def codes(layout: TokenLayout, lengths: Sequence[int] = (12, 9), *, seed: int = 0) -> Codes:
    """Returns random ids of a layout, zero beyond each song's end."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), len(layout), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        for k, stream in enumerate(layout.streams):
            ids[row, k, :length] = rng.integers(stream.size, size=length)
    return Codes(torch.from_numpy(ids), torch.tensor(lengths), layout)


def conditions(
    width: int, lengths: Sequence[int] = (5, 3), *, frames: int = 0, null: bool = False, seed: int = 0, tape: int = 3
) -> Conditions:
    """Returns random conditions with a tape; those of `frames` frames have a cursor too.

    Args:
        width: D.
        lengths: Counted positions of each song's prefix.
        frames: F of the cursor; 0 for none.
        null: Whether there is a null branch, of one position.
        seed: Of the embeddings.
        tape: Lyrics tokens L.
    """
    rng = np.random.default_rng(seed)
    most, count = max(lengths), len(lengths)
    prefix = torch.zeros(count, most, width)
    mask = torch.zeros(count, most, dtype=torch.bool)
    for row, length in enumerate(lengths):
        prefix[row, most - length :] = _normal(rng, length, width)
        mask[row, most - length :] = True
    made = Conditions(
        prefix, mask, tape=_normal(rng, count, tape, width), tape_lengths=torch.full((count,), tape, dtype=torch.int64)
    )
    if frames:
        made.cursor = (torch.arange(frames) * tape // frames).expand(count, -1).clone()
    if null:
        made.null = conditions(width, [1] * count, seed=seed + 1, tape=tape)
    return made


def plan(layout: TokenLayout, pattern: Pattern, width: int, made: Conditions, lengths: Sequence[int] = (12, 9)) -> Plan:
    """Returns a random plan over the positions of conditions and the steps of a pattern."""
    rng = np.random.default_rng(17)
    counted = torch.arange(pattern.steps(max(lengths))) < torch.tensor([pattern.steps(n) for n in lengths])[:, None]
    out = Plan(codes(layout, lengths), *_states(rng, torch.cat([made.mask, counted], 1), width))
    if made.null is not None:
        shorter = made.mask.shape[1] - made.null.mask.shape[1]
        mask = torch.cat([torch.nn.functional.pad(made.null.mask, (shorter, 0)), counted], 1)
        out.hidden_null, out.mask_null = _states(rng, mask, width)
    return out


def without(song_: Song, needs: frozenset[str]) -> Song:
    """Returns a song of which nothing is left but what is needed."""
    return dataclasses.replace(
        song_,
        sections=song_.sections if "lyrics" in needs else (),
        description=song_.description if "description" in needs else "",
        alignment=song_.alignment if "alignment" in needs else None,
        tracks={name: track for name, track in song_.tracks.items() if name in needs},
        tier=None,
        tempo=None,
        key=None,
    )


def _tone(times: np.ndarray, pitch: int, start: float, end: float) -> np.ndarray:
    """Five harmonics of a note, with soft ends."""
    hertz = 440.0 * 2 ** ((pitch - 69) / 12)
    wave = np.sum([np.sin(2 * np.pi * hertz * h * times) / h for h in range(1, 6)], axis=0)
    return np.asarray(0.2 * wave * np.clip(np.minimum(times - start, end - times) / 0.02, 0.0, 1.0))


def _phones(lines: Sequence[Span]) -> tuple[Span, ...]:
    """Spreads the phones of each line over its time; none where the pronunciation is not installed."""
    if importlib.util.find_spec("hibari") is None:
        return ()
    from songkit.phonemes import phonemize

    spans = []
    for line in lines:
        symbols = phonemize(line.label)
        step = (line.end - line.start) / len(symbols)
        spans += [Span(p.symbol, line.start + i * step, line.start + (i + 1) * step) for i, p in enumerate(symbols)]
    return tuple(spans)


def _states(rng: np.random.Generator, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    return _normal(rng, *mask.shape, width) * mask[:, :, None], mask


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
