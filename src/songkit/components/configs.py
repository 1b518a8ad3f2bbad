"""Configs of the core's own components. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from songkit.errors import did_you_mean
from songkit.types import TIERS

__all__ = [
    "PairsConfig",
    "PreparedConfig",
    "SongFolderConfig",
    "TrainPlannerConfig",
    "TrainRefinerConfig",
    "TransformerConfig",
]


@dataclass(kw_only=True)
class PairsConfig:
    """Preference pairs that `songkit mine` has written, memory-mapped."""

    root: str = field(metadata={"path": True})
    """The mined folder."""
    strategies: list[str] = field(default_factory=list)
    """Strategies whose pairs are taken; all when empty."""
    least_margin: float = 0.0
    """Leaves out pairs whose songs differ by less, in the unit of their strategy's score."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = []
        if not self.root:
            problems.append("root is empty: name the folder that 'songkit mine' wrote")
        if not self.least_margin >= 0:
            problems.append(f"least_margin is {self.least_margin:g}; expected 0 or more")
        return problems


@dataclass(kw_only=True)
class PreparedConfig:
    """Songs and codes that `songkit prepare` has written, memory-mapped."""

    root: str = field(metadata={"path": True})
    """Folder of the prepared set."""
    audio: str = ""
    """Key of the audio, where the folder holds several."""
    codes: str = ""
    """Key of the codes, or the id of their tokenizer, where the folder holds several."""
    start: int | None = None
    """First song, as in a Python slice: -100 begins with the hundredth from the end."""
    stop: int | None = None
    """Song to stop before, as in a Python slice."""
    min_seconds: float = 0.0
    """Leaves out shorter songs, in seconds."""
    max_seconds: float = 0.0
    """Leaves out longer songs, in seconds; 0 means no limit."""
    tiers: tuple[str, ...] = ()
    """Leaves out songs of all but these musicality tiers; empty keeps all songs."""
    labels: str = field(default="", metadata={"path": True})
    """JSON file with the tier of each song by its id, as a judge gave it, in the place of the tiers in the set."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = []
        if not self.root:
            problems.append("root is empty: name the folder that 'songkit prepare' wrote")
        if self.min_seconds < 0 or self.max_seconds < 0:
            problems.append("min_seconds and max_seconds must not be negative")
        if self.max_seconds and self.max_seconds < self.min_seconds:
            problems.append(f"max_seconds ({self.max_seconds:g}) is below min_seconds ({self.min_seconds:g})")
        problems += [
            f"tiers names '{tier}', no tier.{did_you_mean(tier, TIERS)} Tiers: {', '.join(TIERS)}"
            for tier in self.tiers
            if tier not in TIERS
        ]
        return problems


@dataclass(kw_only=True)
class SongFolderConfig:
    """Real music: a folder (or a manifest) of audio with optional stems, lyrics and descriptions."""

    root: str = field(metadata={"path": True})
    """Folder of songs, or a JSON Lines manifest."""
    max_hours: float = 0.5
    """Longest song, in hours; longer ones are refused."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = []
        if not self.root:
            problems.append("root is empty: name a folder of songs or a JSON Lines manifest")
        if not 0 < self.max_hours <= 24:
            problems.append(f"max_hours is {self.max_hours:g}, expected above 0 and at most 24")
        return problems


@dataclass(kw_only=True)
class TransformerConfig:
    """A Llama-type tower: pre-RMSNorm, rotary positions, SwiGLU, no biases."""

    dim: int = 256
    """Width."""
    layers: int = 6
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    feed_forward: int = 704
    """Width of the gated feed-forward layer."""
    rope_base: float = 10000.0
    """Base of the rotary frequencies (LeVo: 1e5 and 5e5)."""
    dropout: float = 0.0
    """Dropout of both residual branches in training, as a probability."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        if self.dim % (2 * self.heads):
            return [f"dim {self.dim} must be a multiple of 2 x heads ({2 * self.heads})"]
        return []


@dataclass(kw_only=True)
class TrainPlannerConfig:
    """Trains a planner and its conditioner on prepared codes."""

    max_seconds: float = 30.0
    """Longer songs are cut here, in seconds; a cut song teaches no ending."""
    prompt_seconds: float = 3.0
    """Length of audio prompts, in seconds."""
    prompt_share: float = 0.15
    """How often a song is given a part of itself as audio prompt, as a probability (LeVo: 0.5)."""
    grow_from: float | None = None
    """Where songs are cut at the beginning of the run, in seconds; the cut moves to `max_seconds` (LeVo 2 grows its
    samples to full songs). None cuts at `max_seconds` from the first step on."""
    grow_until: float = 0.5
    """Share of the run's steps after which songs are cut at `max_seconds`."""
    tiers: bool = True
    """Whether the musicality tier of each song is told; where not, each song is told one that says nothing about
    it. So all tiers are learned, as guidance needs: its null branch asks for the lowest."""
    overrun_seconds: float = 0.0
    """How long whole songs go on after their end with some other part of themselves, in seconds, while the end stays
    what should come next. A model that never saw what follows a missed end does not find it again."""
    linger_seconds: float = 0.0
    """For how long the cursor along the lyrics stands still at one place of each song, at most, in seconds, over frames
    that repeat what is sung there, while moving on stays what should come next; songs that overrun their end repeat
    what is sung last, then, and a quarter of them is held at some frame of it. A model that never saw a missed move
    waits for the rest of the song. Needs a planner that follows the lyrics; 0 is never."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [
            f"{name} is {getattr(self, name)}, expected above 0"
            for name in ("max_seconds", "prompt_seconds", "grow_until")
            if not getattr(self, name) > 0
        ]
        if self.grow_from is not None and not 0 < self.grow_from <= self.max_seconds:
            problems.append(f"grow_from is {self.grow_from}, expected above 0 and at most max_seconds, or null")
        problems += [
            f"{name} is {getattr(self, name)}, expected 0 or more"
            for name in ("overrun_seconds", "linger_seconds")
            if not getattr(self, name) >= 0
        ]
        return problems


@dataclass(kw_only=True)
class TrainRefinerConfig(TrainPlannerConfig):
    """Trains a track refiner on the states of a finished planner."""

    degrade_share: float = 0.0
    """Share of the frames whose mixed token is replaced by another one, before the planner reads them: the acoustic
    augmentation by which LeVo 2's refiner learns to recover detail from degraded mixed tokens (its share is not
    published)."""
    degrade_songs: float = 1.0
    """Probability that a song's mixed tokens are degraded at all."""
    degrade_neighbours: int = 0
    """A token is replaced by one of so many codes that sound most like it, which takes a `codec` that tells its codes;
    0 draws from all ids."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        shares = [
            f"{name} is {getattr(self, name)}, expected a probability from 0 to 1"
            for name in ("degrade_share", "degrade_songs")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.degrade_neighbours < 0:
            shares.append(f"degrade_neighbours is {self.degrade_neighbours}, expected 0 or more")
        shares += [
            f"{name} is {getattr(self, name)}, expected 0: a refiner goes where its plan goes"
            for name in ("overrun_seconds", "linger_seconds")
            if getattr(self, name) > 0
        ]
        return [*super().validate(), *shares]
