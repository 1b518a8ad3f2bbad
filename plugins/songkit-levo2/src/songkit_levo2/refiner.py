"""The Track-Specific LM: refines a plan into vocal and accompaniment tokens, in parallel.

Both tracks run `delay` frames behind the mixed stream, so that the plan of what comes next is known when a frame is
refined. The input at a step is a two-layer perceptron over [embeddings of both tracks, the planner's state], prefix
positions included, without a residual (tencent-ailab/SongGeneration at b1b03ec, codeclm/models/lm_levo.py). There,
each track also has an end of its own, and the song ends with the first: `TrackLMConfig.ends` and `behaviour`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.decoding import run_songs, song_rows
from songkit.interfaces import Backbone, Sampling, Tokenizer, TrackRefiner
from songkit.patterns import delayed
from songkit.sampling import draw, guide, penalise
from songkit.stream_planner import start_alike
from songkit.types import Codes, Conditions, Plan, Stream, TokenLayout
from songkit_levo2.configs import TrackLMConfig

__all__ = ["TrackLM", "build"]

_TRACKS = ("vocal", "accompaniment")


def build(config: TrackLMConfig, *, tower: Backbone) -> TrackLM:
    """Makes the refiner with random weights."""
    return TrackLM(config, tower)


class TrackLM(TrackRefiner):
    """A causal tower over both tracks and the planner's states."""

    def __init__(self, config: TrackLMConfig, tower: Backbone) -> None:
        super().__init__()
        self.config, self.tower, self.width = config, tower, tower.width
        self.source = TokenLayout(config.frame_rate, (Stream("mix", 0, config.source_codebook_size),))
        self.source_width = config.source_width
        self.layout = TokenLayout(config.frame_rate, tuple(Stream(t, 0, config.codebook_size) for t in _TRACKS))
        self.empty = config.codebook_size  # what stands where a step has no frame
        self.embeds = nn.ModuleList(nn.Embedding(config.codebook_size + 1, self.width) for _ in _TRACKS)
        rows = config.codebook_size + config.ends
        self.heads = nn.ModuleList(nn.Linear(self.width, rows, bias=False) for _ in _TRACKS)
        self.bridge = nn.Sequential(
            nn.Linear(self.width + config.source_width, self.width), nn.GELU(), nn.Linear(self.width, self.width)
        )
        if config.after == "learned":
            self.after = nn.Parameter(0.02 * torch.randn(config.source_width))
        else:
            self.source_tail = config.delay
        for table in (*self.embeds, *self.heads):
            nn.init.normal_(table.weight, std=0.02)

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts embeddings and heads where codes that sound alike are alike, if the tokenizer tells its codes."""
        for track, *tables in zip(_TRACKS, self.embeds.parameters(), self.heads.parameters(), strict=True):
            start_alike(tokenizer, track, *tables)

    def forward(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced; `logits` [B, 2, F, V] of vocal and accompaniment, [B, 2, F + 1, V + 1] with `ends`."""
        delay, prefix = self.config.delay, conditions.prefix.shape[1]
        ids = codes.select(_TRACKS).ids
        steps = delayed([delay] * 2).apply(ids, self.empty)  # [B, 2, S]
        x = self.embeds[0](steps[:, 0]) + self.embeds[1](steps[:, 1])
        source = plan.hidden[:, prefix:]  # [B, S, D]
        if self.config.after == "learned":
            source = functional.pad(source, (0, 0, 0, delay))
            ended = torch.arange(source.shape[1], device=x.device) > codes.lengths[:, None]
            source = torch.where(ended[:, :, None], self.after.to(source.dtype), source)
        x = torch.cat([conditions.prefix, x], 1)
        source = torch.cat([plan.hidden[:, :prefix], source], 1)
        mask = functional.pad(conditions.mask, (0, steps.shape[2]), value=True)
        hidden = self.tower(self.bridge(torch.cat([x, source.to(x.dtype)], -1)), mask)
        # The state at step s predicts step s + 1: frame s - delay.
        states = hidden[:, prefix + delay :][:, : ids.shape[2] + self.config.ends]
        logits = torch.stack([head(states) for head in self.heads], 1)
        return Plan(codes.select(_TRACKS), hidden, mask, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        plan: Plan,
        conditions: Conditions,
        *,
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> Codes:
        """Draws vocal and accompaniment tokens; songs are as long as their plans unless `behaviour` is released."""
        songs = [_Song(self, plan, conditions, i, seeds[i], sampling) for i in range(len(plan.codes.lengths))]
        done = [0]

        def advance(index: int, step: int, states: Tensor) -> Tensor | None:
            done[0] += 1
            if progress is not None:
                progress(done[0])
            return songs[index].advance(states)

        steps = [song.frames + self.config.delay for song in songs]
        run_songs(self.tower, [song.prefix() for song in songs], advance, steps=steps)
        lengths = torch.tensor([len(song.ids) for song in songs])
        ids = torch.zeros(len(songs), 2, int(lengths.max()), dtype=torch.int64)
        for row, song in zip(ids, songs, strict=True):
            row[:, : len(song.ids)] = torch.tensor(song.ids, dtype=torch.int64).reshape(-1, 2).T
        device = plan.codes.ids.device
        return Codes(ids.to(device), lengths.to(device), self.layout)


class _Song:
    """One song while its tracks are being drawn."""

    def __init__(
        self, refiner: TrackLM, plan: Plan, conditions: Conditions, index: int, seed: int, sampling: Sampling
    ) -> None:
        self.refiner, self.seed, self.sampling = refiner, seed, sampling
        guided = sampling.guidance != 1.0 and plan.hidden_null is not None
        self.guidance = sampling.guidance if guided else 1.0
        self.rows, self.mask = song_rows(conditions, index, self.guidance)
        self.frames = int(plan.codes.lengths[index])
        self.ids: list[list[int]] = []
        self.ended = False
        self.step = 0
        hidden = [plan.hidden[index]] + ([plan.hidden_null[index]] if guided and plan.hidden_null is not None else [])
        tail = refiner.source_tail
        first, own = plan.hidden.shape[1] - (plan.codes.ids.shape[2] + 1 + tail), self.rows.shape[1]
        # States of this song's own prefix, and of its steps 0 .. F and the tail.
        self.prefix_states = torch.stack([h[first - own : first] for h in hidden])
        self.states = torch.stack([h[first : first + self.frames + 1 + tail] for h in hidden])

    def prefix(self) -> tuple[Tensor, Tensor]:
        bridged = self.refiner.bridge(torch.cat([self.rows, self.prefix_states], -1))
        x = torch.cat([bridged, self._embed()[:, None]], 1)
        return x, functional.pad(self.mask, (0, 1), value=True)

    def advance(self, states: Tensor) -> Tensor | None:
        """Draws the frame that this step predicts, if any; returns the next input or `None` at the end."""
        refiner, frame = self.refiner, self.step - self.refiner.config.delay
        state = states[:, -1] if states.dim() == 3 else states
        if 0 <= frame < self.frames:
            drawn = [self._draw(k, head(state).float(), frame) for k, head in enumerate(refiner.heads)]
            self.ended = refiner.config.codebook_size in drawn
            if not self.ended:
                self.ids.append(drawn)
        self.step += 1
        return self._embed() if len(self.ids) < self.frames and not self.ended else None

    def _draw(self, stream: int, logits: Tensor, frame: int) -> int:
        guided = guide(logits[0], logits[1], self.guidance) if self.guidance != 1.0 else logits[0]
        if self.refiner.config.behaviour == "mended":
            guided = guided[: self.refiner.config.codebook_size]  # the plan says when the song ends
        recent = self.ids[-self.sampling.repetition_window :] if self.sampling.repetition_window else []
        guided = penalise(guided, [row[stream] for row in recent], self.sampling.repetition_penalty)
        return draw(guided, self.sampling, seed=self.seed, stream=2 + stream, step=frame)

    def _embed(self) -> Tensor:
        """The input [G, D] of the current step: the last frame of both tracks, and the planner's state."""
        refiner, known = self.refiner, self.step - 1 - self.refiner.config.delay
        ids = self.ids[known] if known >= 0 else [refiner.empty] * 2
        vocal, accompaniment = refiner.embeds.parameters()
        tracks = vocal[ids[0]] + accompaniment[ids[1]]
        rows = len(self.rows)
        known = self.step < self.states.shape[1]
        source = self.states[:, self.step] if known else refiner.after.expand(rows, -1)
        return refiner.bridge(torch.cat([tracks.expand(rows, -1), source], -1))
