"""Small components that obey every law: parts for components under test, and models of how the laws can be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TransformerConfig
from songkit.components.preference_configs import DPOConfig
from songkit.interfaces import Codec, Conditioner, Tokenizer
from songkit.plugin import Component
from songkit.request import SongRequest
from songkit.testing.samples import song
from songkit.types import TRACKS, Alignment, Audio, Codes, Conditions, Song, Span, Stream, TokenLayout, Track

__all__ = [
    "ModelConfig",
    "SongsConfig",
    "TinyCodec",
    "TinyConditioner",
    "TinyReward",
    "TinySongs",
    "TokenisedSongs",
    "stand_in",
]


@dataclass(kw_only=True)
class ModelConfig:
    """What the parts of a tiny model have to agree on."""

    width: int = 16
    """Of conditions and hidden states."""
    frame_rate: float = 25.0
    """Frames per second."""
    sizes: dict[str, list[int]] = field(default_factory=lambda: {track: [32] for track in TRACKS})
    """Ids of each level of each track; the planner plans those of the mix, the refiner refines them into the others."""

    @property
    def layout(self) -> TokenLayout:
        """The streams of all tracks."""
        streams = (Stream(t, level, size) for t, sizes in self.sizes.items() for level, size in enumerate(sizes))
        return TokenLayout(self.frame_rate, tuple(streams))

    @classmethod
    def of(cls, width: int, layout: TokenLayout) -> ModelConfig:
        """Returns the config of a model of a width and layout; stems stand in where there is the mix alone."""
        sizes = {track: [s.size for s in layout.select([track]).streams] for track in layout.tracks}
        if layout.tracks == TRACKS[:1]:
            sizes |= {track: sizes["mix"] for track in TRACKS[1:]}
        return cls(width=width, frame_rate=layout.frame_rate, sizes=sizes)


@dataclass(kw_only=True)
class SongsConfig:
    """Songs of a few seconds."""

    songs: int = 4
    """How many."""
    sample_rate: int = 8000
    """Samples per second."""
    tracks: list[str] = field(default_factory=lambda: list(TRACKS))
    """Which tracks they have."""


def stand_in(kind: str) -> Component | None:
    """Returns the kit's component of a kind, or `None` if it has none."""
    if kind == "backbone":
        config = TransformerConfig(dim=16, layers=1, heads=2, feed_forward=32)
        factory = "songkit.components.transformer:build"
        return Component(kind=kind, name="transformer", config=TransformerConfig, factory=factory, example=config)
    if kind == "objective":
        factory = "songkit.components.preference:DPO"
        return Component(kind=kind, name="dpo", config=DPOConfig, factory=factory, example=DPOConfig())
    classes = {
        "codec": f"{__name__}:TinyCodec",
        "tokenizer": f"{__name__}:TinyCodec",
        "conditioner": f"{__name__}:TinyConditioner",
        "planner": "songkit.testing.tiny_language:TinyPlanner",
        "refiner": "songkit.testing.tiny_language:TinyRefiner",
        "reward": f"{__name__}:TinyReward",
        "source": f"{__name__}:TinySongs",
    }
    if kind not in classes:
        return None
    example = SongsConfig() if kind == "source" else ModelConfig()
    return Component(kind=kind, name=f"tiny-{kind}", config=type(example), factory=classes[kind], example=example)


class TinyCodec(Codec):
    """Loudness of each frame as ids of every stream; a sine for each id."""

    sample_rate, channels = 8000, 1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layout = config.layout
        self.tracks = config.layout.tracks
        self.decoded_tracks = tuple(t for t in self.tracks if t != "mix") or self.tracks
        self.gain = nn.Parameter(torch.rand(1) + 1.0)

    def encode(self, audio: Audio) -> Codes:
        """Measures frames; what stands behind a song's end is not looked at."""
        layout = self.layout.select(audio.tracks)
        step = self.sample_rate / layout.frame_rate
        lengths = torch.ceil(audio.lengths / step).long()
        inside = (
            torch.arange(next(iter(audio.tracks.values())).shape[2], device=self.gain.device) < audio.lengths[:, None]
        )
        rows = []
        for stream in layout.streams:
            power = audio.tracks[stream.track].mean(1).square() * inside  # [B, T]
            frame = (torch.arange(power.shape[1], device=power.device) / step).long().clamp(max=int(lengths.max()) - 1)
            summed = power.new_zeros(len(power), int(lengths.max())).index_add(1, frame, power)
            level = torch.tanh(self.gain * (summed / step).sqrt())
            rows.append((level * stream.size).long().clamp(max=stream.size - 1))
        ids = torch.stack(rows, 1)
        outside = torch.arange(ids.shape[2], device=ids.device) >= lengths[:, None]
        return Codes(ids.masked_fill(outside[:, None], 0), lengths, layout)

    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        """Plays a sine for the first level of each track."""
        step = round(self.sample_rate / self.layout.frame_rate)
        inside = torch.arange(codes.ids.shape[2] * step, device=codes.ids.device) < codes.lengths[:, None] * step
        tracks = {}
        for track in tuple(t for t in codes.layout.tracks if t != "mix") or codes.layout.tracks:
            stream = codes.layout.index(track)
            hertz = 110 * 2 ** (codes.ids[:, stream].double() / codes.layout.streams[stream].size)
            phase = hertz.repeat_interleave(step, 1).cumsum(1) * 2 * np.pi / self.sample_rate
            tracks[track] = (0.1 * self.gain * torch.sin(phase).float() * inside)[:, None]
        return Audio(tracks, codes.lengths * step, self.sample_rate)


class TinyConditioner(Conditioner):
    """The bytes of the lyrics, the tier and the description as prefix; a tape with a token for each section."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width = config.width
        self.byte = nn.Embedding(257, config.width)  # the last one is what hidden words are

    def check(self, request: SongRequest) -> None:
        """Accepts every request."""

    def forward(
        self,
        requests: Sequence[SongRequest],
        *,
        prompts: Sequence[Codes | None] | None = None,
        null: bool = False,
        side: str = "planner",
        generator: torch.Generator | None = None,
    ) -> Conditions:
        """Embeds bytes; an audio prompt is not heard."""
        texts = [[_words(s.tag, *s.lines) for s in request.sections] for request in requests]
        rows = [
            torch.cat([self._embed(part) for part in (*text, _words(request.description, request.tier))])
            for text, request in zip(texts, requests, strict=True)
        ]
        tapes = [torch.stack([self._embed(part).mean(0) for part in text]) for text in texts]
        conditions = _padded(rows, tapes)
        if null:
            hidden = self.byte.weight[256:]
            conditions.null = _padded([hidden] * len(rows), [hidden.expand(len(tape), -1) for tape in tapes])
        return conditions

    def cursor(self, request: SongRequest, alignment: Alignment, frames: int, frame_rate: float) -> np.ndarray:
        """Returns the number of the section at each frame."""
        starts = [span.start for span in alignment.sections]
        return np.maximum(np.searchsorted(starts, np.arange(frames) / frame_rate, side="right") - 1, 0)

    def align(self, request: SongRequest, cursor: np.ndarray, frame_rate: float) -> Alignment:
        """Returns the times of sections; a section's lines share its time."""
        spans, lines = [], []
        for number in np.unique(cursor).tolist():
            frames = np.flatnonzero(cursor == number)
            start, end = frames[0] / frame_rate, (frames[-1] + 1) / frame_rate
            section = request.sections[number]
            spans.append(Span(section.tag, start, end))
            step = (end - start) / max(len(section.lines), 1)
            lines += [Span(text, start + i * step, start + (i + 1) * step) for i, text in enumerate(section.lines)]
        return Alignment(sections=tuple(spans), lines=tuple(lines))

    def _embed(self, part: bytes) -> Tensor:
        return self.byte(torch.tensor(list(part), device=self.byte.weight.device))


class TinyReward(nn.Module):
    """Loudness of the voice, and how far it stands out of the mix."""

    aspects = ("loudness", "presence")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(1) + 1.0)

    def score(self, audio: Audio, songs: Sequence[Song]) -> Tensor:
        """Measures the power of each song, without its padding."""
        lengths = audio.lengths.tolist()
        vocal, mix = (
            torch.stack(
                [part[:, :length].square().mean() for part, length in zip(track, lengths, strict=True)]
            ).double()
            for track in (audio.tracks["vocal"], audio.tracks["mix"])
        )
        return torch.stack([self.gain * vocal, vocal / mix.clamp(min=1e-12)], 1).float()


class TinySongs:
    """Songs of tones with all of their truth."""

    def __init__(self, config: SongsConfig) -> None:
        self.config = config

    def __len__(self) -> int:
        """Number of songs."""
        return self.config.songs

    def __getitem__(self, index: int) -> Song:
        """Makes a song."""
        if not 0 <= index < len(self):
            raise IndexError(f"song {index} of {len(self)}")
        return song(index, sample_rate=self.config.sample_rate, tracks=self.config.tracks)


class TokenisedSongs(TinySongs):
    """Songs with their codes, as `songkit prepare` would have left them."""

    root: Path | str = "the conformance kit"

    def __init__(self, config: SongsConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config)
        self.layout = tokenizer.layout
        self._codes = [self._encode(tokenizer, i) for i in range(len(self))]
        self.frames = np.array([codes.shape[1] for codes in self._codes])

    def codes(self, index: int) -> np.ndarray:
        """Returns the ids [K, F] of a song."""
        return self._codes[index]

    def song_tracks(self, index: int) -> dict[str, Track]:
        """Returns the tracks of a song."""
        return dict(self[index].tracks)

    @torch.no_grad()
    def _encode(self, tokenizer: Tokenizer, index: int) -> np.ndarray:
        tracks = {name: torch.from_numpy(track.read())[None] for name, track in self[index].tracks.items()}
        tracks = {name: tracks[name].expand(-1, tokenizer.channels, -1) for name in tokenizer.tracks}
        samples = next(iter(tracks.values())).shape[2]
        codes = tokenizer.encode(Audio(tracks, torch.tensor([samples]), tokenizer.sample_rate))
        return codes.ids[0, :, : int(codes.lengths[0])].numpy()


def _words(*texts: str) -> bytes:
    return " ".join(texts).encode()


def _padded(rows: list[Tensor], tapes: list[Tensor]) -> Conditions:
    longest, tape = max(map(len, rows)), max(map(len, tapes))
    prefix = torch.stack([functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=prefix.device)
    return Conditions(
        prefix,
        torch.arange(longest, device=prefix.device) >= longest - lengths[:, None],
        tape=torch.stack([functional.pad(row, (0, 0, 0, tape - len(row))) for row in tapes]),
        tape_lengths=torch.tensor([len(row) for row in tapes], device=prefix.device),
    )
