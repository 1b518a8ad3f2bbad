"""The planner's options. No torch here: listings and validation read this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from songkit.plugin import ref
from songkit.types import TRACKS

__all__ = ["StreamLMConfig"]


@dataclass(kw_only=True)
class StreamLMConfig:
    """A planner of a codec's tracks and levels: mixed, parallel, delayed or interleaved."""

    tracks: list[str] = field(default_factory=lambda: ["vocal", "accompaniment"])
    """What it plans, in the order in which they take turns or run behind each other; the first one ends the song."""
    pattern: Literal["parallel", "interleaved", "flat"] = "parallel"
    """How the ids of a frame share steps. parallel: all on one; interleaved: one for each track; flat: one for each
    level of each track."""
    track_delay: int = 0
    """Frames that each track runs behind the one before it."""
    level_delay: int = 0
    """Frames that each level runs behind the one below it (MusicGen, SongGen: 1)."""
    codebook_sizes: list[int] = field(default_factory=lambda: [4096])
    """Ids of each level of a track: one number for one level."""
    frame_rate: float = 25.0
    """Frames per second."""
    auxiliary: dict[str, float] = field(default_factory=dict)
    """Tracks that it learns to predict beside what it plans, with the weight of their cross-entropy."""
    tower: Any = ref("backbone")
    """The transformer."""
    cursor: bool = True
    """Whether the planner follows the lyrics by a cursor, as the miniature's does; none of the systems has one."""
    cursor_steps: int = 3
    """Furthest move of the cursor in one frame, in lyrics tokens."""
    cursor_weight: float = 0.3
    """Weight of the cursor's cross-entropy."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = []
        if not self.tracks or len(set(self.tracks)) < len(self.tracks) or not set(self.tracks) <= set(TRACKS):
            problems.append(f"tracks is {self.tracks}; expected some of {', '.join(TRACKS)}, each once")
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            problems.append(f"codebook_sizes is {self.codebook_sizes}; expected the number of ids of each level")
        problems += [
            f"{name} is {getattr(self, name)}; expected 0 frames or more"
            for name in ("track_delay", "level_delay")
            if getattr(self, name) < 0
        ]
        if self.cursor_steps < 1:
            problems.append(f"cursor_steps is {self.cursor_steps}; expected 1 or more, or cursor: false")
        for track in self.auxiliary:
            if track not in TRACKS or track in self.tracks:
                others = ", ".join(t for t in TRACKS if t not in self.tracks)
                problems.append(f"auxiliary names {track!r}; expected tracks that are not planned: {others}")
        return problems
