"""The values that flow between components, and the axis letters of every shape in songkit.

| letter | axis |
| --- | --- |
| B | batch: songs |
| C | channels of audio |
| T | samples of audio |
| F | frames of a token layout |
| K | streams of a token layout |
| V | vocabulary |
| D | width of a model |
| S | steps of a token pattern (frames shifted by delays, plus one) |
| L | tokens of lyrics |
| P | positions of a prefix |

This module names torch and numpy only in annotations: plugins and readers use it without importing either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

__all__ = [
    "TIERS",
    "TRACKS",
    "Alignment",
    "ArrayTrack",
    "Audio",
    "Codes",
    "Conditions",
    "Note",
    "Phone",
    "Plan",
    "Section",
    "Song",
    "Span",
    "Stream",
    "TokenLayout",
    "TokenScores",
    "Track",
]

TRACKS = ("mix", "vocal", "accompaniment")
"""The roles a track can have."""

TIERS = ("very-low", "low", "medium", "high", "very-high")
"""The musicality tiers of LeVo 2, from worst to best."""


# --- songs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """One section of a song's lyrics: its tag without brackets (`"verse"`, `"intro-short"`) and its lines."""

    tag: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """Something named that lasts from `start` to `end`, in seconds."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Note:
    """A sung note: MIDI pitch (69 = 440 Hz) from `start` to `end`, in seconds."""

    pitch: int
    start: float
    end: float


@dataclass(frozen=True)
class Phone:
    """One phone of a pronounced line."""

    symbol: str
    """IPA symbol, as the G2P writes it."""
    stress: int = 0
    """0 none, 1 primary, 2 secondary; set on the vowel that carries it."""
    word_start: bool = False
    """Whether a word begins here."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """When everything in a song happens. All times are seconds from the song's start, each tuple in time order."""

    sections: tuple[Span, ...] = ()
    """One for each section of the lyrics; the label is its tag."""
    lines: tuple[Span, ...] = ()
    """One for each sung line; the label is its text."""
    phones: tuple[Span, ...] = ()
    """One for each phone of `songkit.phonemes.phonemize` of each line, in the same order; label = symbol."""
    notes: tuple[Note, ...] = ()
    chords: tuple[Span, ...] = ()
    """Labels such as `C:maj`, `A:min`."""


class Track(Protocol):
    """The audio of one track, read on demand."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels."""
        ...

    @property
    def samples(self) -> int:
        """Length in samples."""
        ...

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns float32 audio [C, T] of the samples from `start` up to `stop` (default: the end)."""
        ...


@dataclass(frozen=True)
class ArrayTrack:
    """A `Track` in memory: int16 or float32 `data` [C, T]."""

    data: np.ndarray
    sample_rate: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.data.shape[0])

    @property
    def samples(self) -> int:
        """Length in samples."""
        return int(self.data.shape[1])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns float32 audio [C, T] of the samples from `start` up to `stop`."""
        part = self.data[:, start:stop]
        if part.dtype == "int16":
            return part.astype("float32") / 32768.0
        return part.astype("float32", copy=False)


@dataclass(frozen=True, kw_only=True)
class Song:
    """A song with as much of its truth as its source knows."""

    id: str
    sections: tuple[Section, ...] = ()
    description: str = ""
    """Comma-separated tags, such as `female, pop, bright, piano, the bpm is 104`."""
    tracks: Mapping[str, Track] = field(default_factory=dict)
    """By role: any of `TRACKS`. All tracks of a song have the same rate and length."""
    tier: str | None = None
    """One of `TIERS` where the musicality is known."""
    tempo: float | None = None
    """Beats per minute."""
    key: str | None = None
    """Such as `C:maj` or `A:min`."""
    alignment: Alignment | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where it came from: source, seed, licence, settings. JSON values only."""

    @property
    def seconds(self) -> float:
        """Length of the longest track in seconds."""
        return max((t.samples / t.sample_rate for t in self.tracks.values()), default=0.0)

    def record(self) -> dict[str, Any]:
        """Returns everything but the audio as JSON values; `Song.from_record` reads it back."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tracks"}
        out["sections"] = [[s.tag, list(s.lines)] for s in self.sections]
        out["provenance"] = dict(self.provenance)
        if self.alignment is not None:
            out["alignment"] = {
                name: [[getattr(x, f.name) for f in dataclasses.fields(x)] for x in getattr(self.alignment, name)]
                for name in ("sections", "lines", "phones", "notes", "chords")
            }
        return out

    @staticmethod
    def from_record(record: Mapping[str, Any], tracks: Mapping[str, Track] | None = None) -> Song:
        """Makes a song of what `record` returned and the given tracks."""
        values = dict(record)
        values["sections"] = tuple(Section(tag, tuple(lines)) for tag, lines in values.get("sections", ()))
        if values.get("alignment") is not None:
            written = values["alignment"]
            spans = {name: tuple(Span(*item) for item in items) for name, items in written.items() if name != "notes"}
            values["alignment"] = Alignment(notes=tuple(Note(*item) for item in written.get("notes", ())), **spans)
        return Song(**values, tracks=tracks or {})


# --- tokens --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """One sequence of ids: which track, which level of a residual quantizer, and how many different ids."""

    track: str
    level: int
    size: int


@dataclass(frozen=True)
class TokenLayout:
    """What a tokenizer promises and a planner consumes: frames per second and the ordered streams (len = K)."""

    frame_rate: float
    streams: tuple[Stream, ...]

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that have streams, in order, each once."""
        return tuple(dict.fromkeys(s.track for s in self.streams))

    def index(self, track: str, level: int = 0) -> int:
        """Returns the position of a stream; raises `KeyError` when there is none."""
        for i, stream in enumerate(self.streams):
            if (stream.track, stream.level) == (track, level):
                return i
        raise KeyError(f"no stream ({track}, level {level}) in {self}")

    def select(self, tracks: Iterable[str]) -> TokenLayout:
        """Returns the layout of the streams of some tracks, in this layout's order."""
        wanted = set(tracks)
        return TokenLayout(self.frame_rate, tuple(s for s in self.streams if s.track in wanted))

    def __str__(self) -> str:
        streams = ", ".join(f"{s.track}.{s.level}×{s.size}" for s in self.streams)
        return f"{self.frame_rate:g} Hz [{streams}]"


@dataclass
class Audio:
    """A batch of songs as samples."""

    tracks: dict[str, Tensor]
    """float32 [B, C, T] by role; samples beyond a song's length are zero."""
    lengths: Tensor
    """int64 [B], in samples."""
    sample_rate: int


@dataclass
class Codes:
    """A batch of songs as ids."""

    ids: Tensor
    """int64 [B, K, F]; each below its stream's size. Frames beyond a song's length, and `overrun`, are zero."""
    lengths: Tensor
    """int64 [B], in frames."""
    layout: TokenLayout
    ended: Tensor | None = None
    """bool [B], whether a song ends after its last frame, in training; a cut one goes on. None is nowhere told."""
    overrun: int = 0
    """Frames for which songs that ended go on as if they had missed their end, in training: at each of them the end is
    what should come next."""

    def select(self, tracks: Iterable[str]) -> Codes:
        """Returns the codes of some tracks, in this layout's order."""
        layout = self.layout.select(tracks)
        return self.arrange(layout)

    def arrange(self, layout: TokenLayout) -> Codes:
        """Returns the codes of a layout's streams, in its order; raises `KeyError` where there are none."""
        rows = [self.layout.index(s.track, s.level) for s in layout.streams]
        return Codes(self.ids[:, rows], self.lengths, layout, self.ended, self.overrun)

    def to(self, device: torch.device | str) -> Codes:
        """Returns the codes on a device."""
        ended = None if self.ended is None else self.ended.to(device)
        return Codes(self.ids.to(device), self.lengths.to(device), self.layout, ended, self.overrun)


@dataclass
class Conditions:
    """What a planner or refiner knows of the requests: a prefix of embeddings, and the lyrics as a tape.

    The prefix is what LeVo prepends (lyrics, audio prompt, style). The tape is the same lyrics, one embedding a
    token, for planners that follow where in the lyrics they are (`levo2/mixed-lm` with `cursor: true`).
    """

    prefix: Tensor
    """[B, P, D]; each song's positions end at P (left-padded), so that lyrics abut the codes."""
    mask: Tensor
    """bool [B, P], true where a position counts."""
    null: Conditions | None = None
    """The null branch, for guidance."""
    tape: Tensor | None = None
    """[B, L, D], lyrics tokens; zero beyond a song's own."""
    tape_lengths: Tensor | None = None
    """int64 [B]."""
    cursor: Tensor | None = None
    """int64 [B, F]: the lyrics token being sung at each frame; given in training, predicted in generation."""
    due: Tensor | None = None
    """int64 [B, F], in training: the token that should be sung at each frame. Where it is not the cursor's, the cursor
    lingers: it should have moved on, or the song be about to end (-1, and the cursor stays), and the ids of the frame
    teach nothing. None is nowhere."""
    forbidden: Sequence[frozenset[int]] | None = None
    """For each song, ids of the planner's leading stream that may not be drawn; None where all may."""
    repeats: int = 1
    """How often the same prefixes and masks come, in training: those of songs i and i + B / repeats are equal. So a
    planner may run them once for all of these songs; its states are the same but for rounding."""


@dataclass
class TokenScores:
    """How likely a model finds what was drawn, given what comes before it, stream by stream."""

    log_probabilities: Tensor
    """float32 [B, K, F], in nats; 0 where nothing counts. Models that end songs have a frame more for the end."""
    counted: Tensor
    """bool [B, K, F]: frames of a song, and its end where it is told."""
    likeliest: Tensor
    """bool [B, K, F]: whether nothing was more likely; false where nothing counts."""
    streams: tuple[str, ...]
    """K names: `mix.0` for ids, `cursor` for moves along the lyrics."""

    @property
    def sums(self) -> Tensor:
        """Log-probabilities of whole streams, [B, K]."""
        return self.log_probabilities.sum(2)

    @property
    def tokens(self) -> Tensor:
        """How many were summed, int64 [B, K]."""
        return self.counted.sum(2)


@dataclass
class Plan:
    """What a planner hands to a refiner, on pattern steps."""

    codes: Codes
    """The planned ids, of the planner's layout."""
    hidden: Tensor
    """[B, P + S, D], the planner's final states over prefix and steps."""
    mask: Tensor
    """bool [B, P + S], true where a position counts."""
    hidden_null: Tensor | None = None
    """The states of the null branch, where guidance was used."""
    mask_null: Tensor | None = None
    """bool [B, P + S], for `hidden_null`."""
    logits: Tensor | None = None
    """[B, K, F, V] in training: logits that predict the ids of each frame."""
    cursor: Tensor | None = None
    """int64 [B, F]: where in the lyrics each frame is, for planners that follow them."""
    finished: Tensor | None = None
    """bool [B]: whether a song ended by itself, in generation."""
    scores: TokenScores | None = None
    """How likely the ids are, where that was asked for instead of logits."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Auxiliary losses of a teacher-forced pass, each a scalar, with the planner's own weights applied."""
