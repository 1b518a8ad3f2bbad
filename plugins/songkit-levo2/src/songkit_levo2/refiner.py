"""The Track-Specific LM: refines a plan into vocal and accompaniment tokens, in parallel.

Both tracks run `delay` frames behind the mixed stream, so that the plan of what comes next is known when a frame is
refined. The input at a step is a two-layer perceptron over [embeddings of both tracks, the planner's state], prefix
positions included, without a residual (tencent-ailab/SongGeneration at b1b03ec, codeclm/models/lm_levo.py).
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
        self.heads = nn.ModuleList(nn.Linear(self.width, config.codebook_size, bias=False) for _ in _TRACKS)
        self.bridge = nn.Sequential(
            nn.Linear(self.width + config.source_width, self.width), nn.GELU(), nn.Linear(self.width, self.width)
        )
        # The planner's state after the song's last frame, while the delayed tracks catch up.
        self.after = nn.Parameter(0.02 * torch.randn(config.source_width))
        for table in (*self.embeds, *self.heads):
            nn.init.normal_(table.weight, std=0.02)

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts embeddings and heads where codes that sound alike are alike, if the tokenizer tells its codes."""
        for track, *tables in zip(_TRACKS, self.embeds.parameters(), self.heads.parameters(), strict=True):
            start_alike(tokenizer, track, *tables)

    def forward(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced; `logits` [B, 2, F, V] of vocal and accompaniment."""
        delay, prefix = self.config.delay, conditions.prefix.shape[1]
        ids = codes.select(_TRACKS).ids
        steps = delayed([delay] * 2).apply(ids, self.empty)  # [B, 2, S]
        x = self.embeds[0](steps[:, 0]) + self.embeds[1](steps[:, 1])
        source = functional.pad(plan.hidden[:, prefix:], (0, 0, 0, delay))  # [B, S, D]
        ended = torch.arange(source.shape[1], device=x.device) > codes.lengths[:, None]
        source = torch.where(ended[:, :, None], self.after.to(source.dtype), source)
        x = torch.cat([conditions.prefix, x], 1)
        source = torch.cat([plan.hidden[:, :prefix], source], 1)
        mask = functional.pad(conditions.mask, (0, steps.shape[2]), value=True)
        hidden = self.tower(self.bridge(torch.cat([x, source.to(x.dtype)], -1)), mask)
        # The state at step s predicts step s + 1: frame s - delay.
        states = hidden[:, prefix + delay : prefix + delay + ids.shape[2]]
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
        """Draws vocal and accompaniment tokens for as many frames as the plan has."""
        songs = [_Song(self, plan, conditions, i, seeds[i], sampling) for i in range(len(plan.codes.lengths))]
        done = [0]

        def advance(index: int, step: int, states: Tensor) -> Tensor | None:
            done[0] += 1
            if progress is not None:
                progress(done[0])
            return songs[index].advance(states)

        steps = [song.frames + self.config.delay for song in songs]
        run_songs(self.tower, [song.prefix() for song in songs], advance, steps=steps)
        longest = max(song.frames for song in songs)
        rows = [functional.pad(torch.tensor(s.ids).T, (0, longest - s.frames)) for s in songs]
        return Codes(torch.stack(rows).to(plan.codes.ids.device), plan.codes.lengths, self.layout)


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
        self.step = 0
        hidden = [plan.hidden[index]] + ([plan.hidden_null[index]] if guided and plan.hidden_null is not None else [])
        steps = plan.codes.ids.shape[2] + 1
        own = self.rows.shape[1]
        # States of this song's own prefix and of its steps 0 .. F.
        self.prefix_states = torch.stack([h[h.shape[0] - steps - own : h.shape[0] - steps] for h in hidden])
        self.states = torch.stack([h[h.shape[0] - steps :][: self.frames + 1] for h in hidden])

    def prefix(self) -> tuple[Tensor, Tensor]:
        bridged = self.refiner.bridge(torch.cat([self.rows, self.prefix_states], -1))
        x = torch.cat([bridged, self._embed()[:, None]], 1)
        return x, functional.pad(self.mask, (0, 1), value=True)

    def advance(self, states: Tensor) -> Tensor | None:
        """Draws the frame that this step predicts, if any; returns the next input or `None` at the end."""
        refiner, frame = self.refiner, self.step - self.refiner.config.delay
        state = states[:, -1] if states.dim() == 3 else states
        if 0 <= frame < self.frames:
            self.ids.append([self._draw(k, head(state).float(), frame) for k, head in enumerate(refiner.heads)])
        self.step += 1
        return self._embed() if len(self.ids) < self.frames else None

    def _draw(self, stream: int, logits: Tensor, frame: int) -> int:
        guided = guide(logits[0], logits[1], self.guidance) if self.guidance != 1.0 else logits[0]
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
        source = self.states[:, self.step] if self.step <= self.frames else refiner.after.expand(rows, -1)
        return refiner.bridge(torch.cat([tracks.expand(rows, -1), source], -1))
