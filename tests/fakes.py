"""A model of four tiny components that sings sine waves: a local plugin for tests of everything around models.

Songs depend on seeds and requests only, as the interfaces demand. `write_model` makes a recipe with weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from songkit.checkpoint import save_weights
from songkit.errors import RequestError
from songkit.interfaces import Codec, Conditioner, Planner, Sampling, TrackRefiner
from songkit.phonemes import unsingable
from songkit.plugin import Component, hookimpl
from songkit.request import SongRequest
from songkit.types import Alignment, Audio, Codes, Conditions, Plan, Span, Stream, TokenLayout

RATE, FRAME_RATE, SIZE = 8000, 25.0, 16
STREAMS = tuple(Stream(track, 0, SIZE) for track in ("mix", "vocal", "accompaniment"))
SOURCE = TokenLayout(FRAME_RATE, STREAMS[:1])
STEMS = TokenLayout(FRAME_RATE, STREAMS[1:])


@dataclass(kw_only=True)
class FakeConfig:
    """Nothing but a width."""

    width: int = 4
    """Of the conditions and hidden states."""
    loudness: float = 0.4
    """Amplitude of each stem."""
    follow: bool = True
    """Whether the planner says where in the lyrics it is."""
    fail_at: int = -1
    """Number of the decoded song at which the codec breaks; -1 is never."""


class FakeConditioner(Conditioner):
    """Writes the number of sung lines, of sections, and the sum of the prompt's ids into the prefix."""

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.width = config.width
        self.gain = nn.Parameter(torch.ones(1))

    def check(self, request: SongRequest) -> None:
        lines = [line for section in request.sections for line in section.lines]
        problems = [f"cannot sing {line!r}. Write it in English." for line in lines if unsingable(line)]
        if problems:
            raise RequestError("\n".join(problems))

    def forward(
        self,
        requests: Sequence[SongRequest],
        *,
        prompts: Sequence[Codes | None] | None = None,
        null: bool = False,
        side: str = "planner",
    ) -> Conditions:
        rows = []
        for request, prompt in zip(requests, prompts or [None] * len(requests), strict=True):
            lines = sum(len(section.lines) for section in request.sections)
            heard = 0 if prompt is None else int(prompt.ids.sum())
            rows.append(torch.tensor([lines, len(request.sections), heard, 0.0])[None])
        prefix = torch.stack(rows)
        mask = torch.ones(prefix.shape[:2], dtype=torch.bool)
        return Conditions(prefix, mask, null=Conditions(prefix * 0, mask) if null else None)

    def align(self, request: SongRequest, cursor: np.ndarray, frame_rate: float) -> Alignment:
        spans = []
        for i, section in enumerate(request.sections):
            frames = np.flatnonzero(cursor == i)
            if len(frames):
                spans.append(Span(section.tag, frames[0] / frame_rate, (frames[-1] + 1) / frame_rate))
        sung = [(s, t) for s, t in zip(request.sections, spans, strict=False) if s.lines]
        return Alignment(sections=tuple(spans), lines=tuple(Span(s.lines[0], t.start, t.end) for s, t in sung))


class FakePlanner(Planner):
    """Half a second for each sung line, in random ids."""

    layout = SOURCE

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.width, self.follow = config.width, config.follow
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, codes: Codes, conditions: Conditions) -> Plan:
        raise NotImplementedError

    def generate(
        self,
        conditions: Conditions,
        *,
        sampling: Sampling,
        max_frames: int,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> Plan:
        assert (conditions.null is not None) == (sampling.guidance != 1)
        wanted = [int(row[0, 0] * 12 + seed % 5) for row, seed in zip(conditions.prefix, seeds, strict=True)]
        lengths = torch.tensor([min(frames, max_frames) for frames in wanted])
        most = int(lengths.max())
        heard = conditions.prefix[:, 0, 2].tolist()
        ids = torch.zeros(len(seeds), 1, most, dtype=torch.int64)
        cursor = torch.zeros(len(seeds), most, dtype=torch.int64)
        for i, seed in enumerate(seeds):
            frames = int(lengths[i])
            ids[i, 0, :frames] = _draw(seed + int(heard[i]), frames)
            cursor[i, :frames] = torch.arange(frames) * int(conditions.prefix[i, 0, 1]) // max(frames, 1)
            if progress is not None:
                progress(int(lengths[: i + 1].sum()))
        return Plan(
            Codes(ids, lengths, self.layout),
            torch.zeros(len(seeds), 1 + most, self.width),
            torch.ones(len(seeds), 1 + most, dtype=torch.bool),
            cursor=cursor if self.follow else None,
            finished=lengths == torch.tensor(wanted),
        )


class FakeRefiner(TrackRefiner):
    """Adds random ids to the plan's."""

    source, layout = SOURCE, STEMS

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.source_width = config.width
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        raise NotImplementedError

    def generate(
        self,
        plan: Plan,
        conditions: Conditions,
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> Codes:
        ids = plan.codes.ids.repeat(1, 2, 1)
        for i, seed in enumerate(seeds):
            frames = int(plan.codes.lengths[i])
            ids[i, 1, :frames] = (ids[i, 1, :frames] + _draw(seed ^ 1, frames)) % SIZE
        return Codes(ids, plan.codes.lengths, self.layout)


class FakeCodec(Codec):
    """A sine wave for each id; one pitch in the accompaniment, an octave lower."""

    layout = TokenLayout(FRAME_RATE, STREAMS)
    sample_rate, channels = RATE, 1
    tracks = ("mix", "vocal", "accompaniment")
    decoded_tracks = ("vocal", "accompaniment")

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.loudness, self.fail_at, self.decoded = config.loudness, config.fail_at, 0
        self.gain = nn.Parameter(torch.ones(1))

    def encode(self, audio: Audio) -> Codes:
        frame = int(RATE / FRAME_RATE)
        layout = self.layout.select(audio.tracks)
        lengths = -(-audio.lengths // frame)
        rows = []
        for stream in layout.streams:
            wave = audio.tracks[stream.track].mean(1)
            wave = nn.functional.pad(wave, (0, -wave.shape[1] % frame)).reshape(len(wave), -1, frame)
            rows.append((wave.abs().mean(2) * SIZE).long().clamp(max=SIZE - 1))
        return Codes(torch.stack(rows, 1), lengths, layout)

    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        self.decoded += 1
        if self.decoded - 1 == self.fail_at:
            raise RuntimeError("the fake codec breaks")
        frame = int(RATE / FRAME_RATE)
        tracks = {}
        for k, name in enumerate(self.decoded_tracks):
            if name not in codes.layout.tracks:
                continue
            ids = codes.ids[:, codes.layout.index(name)]
            hertz = 110.0 * (2 - k) * 2 ** (ids.double() / SIZE)
            phase = hertz.repeat_interleave(frame, 1).cumsum(1) * 2 * np.pi / RATE
            tracks[name] = (torch.sin(phase) * self.loudness * self.gain).float()[:, None]
        return Audio(tracks, codes.lengths * frame, RATE)


ROLES = {
    "conditioner": FakeConditioner,
    "planner": FakePlanner,
    "refiner": FakeRefiner,
    "codec": FakeCodec,
}


@hookimpl
def songkit_components() -> list[Component]:
    """Returns one component for each role."""
    return [
        Component(kind=kind, name="fake", config=FakeConfig, factory=f"{__name__}:{cls.__name__}", example=FakeConfig())
        for kind, cls in ROLES.items()
    ]


def write_model(folder: Path, **options: object) -> Path:
    """Writes the recipe of a fake model, with weights, and returns its path."""
    text = f"format: 1\nplugins: ['{Path(__file__).resolve()}']\ngenerate: {{max_seconds: 8}}\n"
    for role, cls in ROLES.items():
        config = FakeConfig(**options)  # type: ignore[arg-type]  # the caller's fields
        save_weights(folder / f"{role}.safetensors", cls(config), {"component": "local/fake", "revision": 1})
        values = "".join(f", {name}: {str(value).lower()}" for name, value in options.items())
        text += f"{role}: {{use: local/fake, weights: ./{role}.safetensors{values}}}\n"
    path = folder / "model.yaml"
    path.write_text(text)
    return path


def _draw(seed: int, frames: int) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).integers(0, SIZE, frames))
