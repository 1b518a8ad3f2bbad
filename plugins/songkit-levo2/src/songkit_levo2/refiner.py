"""The Track-Specific LM: refines a plan into vocal and accompaniment tokens, in parallel.

Both tracks run `delay` frames behind the mixed stream, so that the plan of what comes next is known when a frame is
refined. The input at a step is a two-layer perceptron over [embeddings of both tracks, the planner's state], prefix
positions included, without a residual (tencent-ailab/SongGeneration at b1b03ec, codeclm/models/lm_levo.py). There,
each track also has an end of its own, and the song ends with the first: `TrackLMConfig.ends` and `behaviour`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.decoding import PLACES, Stage, run, song_rows
from songkit.interfaces import Backbone, Sampling, Tokenizer, TrackRefiner
from songkit.interfaces.drawing import DrawnPlan, Start, TrackDrawing
from songkit.kernels import linear_rows
from songkit.patterns import delayed
from songkit.sampling import draw_rows, penalise_rows
from songkit.stream_planner import start_alike
from songkit.types import Codes, Conditions, Plan, Stream, TokenLayout
from songkit.vocabulary import placed
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
        refined, states = self._taught(plan, codes, conditions)
        return replace(refined, logits=torch.stack([head(states) for head in self.heads], 1))

    def score(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced without the logits of all ids at once; see `TrackRefiner.score`."""
        refined, states = self._taught(plan, codes, conditions)
        own, tables = replace(refined.codes, ended=codes.ended), [cast(Tensor, head.weight) for head in self.heads]
        return replace(refined, scores=placed([states] * len(tables), tables, own))

    def _taught(self, plan: Plan, codes: Codes, conditions: Conditions) -> tuple[Plan, Tensor]:
        """Returns a plan without logits, and the states [B, F, D] that predict frames, and the end with `ends`."""
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
        return Plan(codes.select(_TRACKS), hidden, mask), states

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
        if plan.hidden_null is None:
            sampling = replace(sampling, guidance=1.0)
        drawing = self.drawing(sampling=sampling)
        songs = [drawing.add(_Whole(self, plan, i), conditions, i, seed) for i, seed in enumerate(seeds)]
        for _ in run(Stage(drawing, songs, places=min(PLACES, len(songs)))):
            if progress is not None:
                progress(sum(len(song.ids) for song in drawing.songs))
        device = plan.codes.ids.device
        lengths = torch.tensor([len(song.ids) for song in drawing.songs], device=device)
        ids = torch.zeros(len(songs), 2, int(lengths.max()), dtype=torch.int64, device=device)
        for row, song in zip(ids, drawing.songs, strict=True):
            row[:, : len(song.ids)] = torch.tensor(song.ids, dtype=torch.int64).reshape(-1, 2).T
        return Codes(ids, lengths, self.layout)

    def drawing(self, *, sampling: Sampling) -> TrackLMDrawing:
        """Returns what draws the tracks of plans that are added to it, which may be drawn meanwhile."""
        return TrackLMDrawing(self, sampling)


class TrackLMDrawing(TrackDrawing):
    """The songs of a `TrackLM` while their tracks are drawn."""

    def __init__(self, refiner: TrackLM, sampling: Sampling) -> None:
        self.refiner, self.sampling = refiner, sampling
        self.backbone, self.rows = refiner.tower, 1 if sampling.guidance == 1.0 else 2
        self.songs: list[_Song] = []

    def add(self, source: DrawnPlan, conditions: Conditions, index: int, seed: int) -> int:
        """Takes the plan of a song of a batch of conditions; returns its number here."""
        self.songs.append(_Song(source, *song_rows(conditions, index, self.sampling.guidance), seed))
        return len(self.songs) - 1

    def ready(self, song: int) -> bool:
        """Whether the planner's state at the song's next step is known."""
        one = self.songs[song]
        return one.source.whole or one.step + 1 < len(one.source.states)

    def start(self, song: int) -> Start:
        """Begins with prefix and empty step, each with the planner's state."""
        refiner, one = self.refiner, self.songs[song]
        assert one.source.prefix_states is not None
        known = one.source.prefix_states[: self.rows, -one.rows.shape[1] :]
        bridged = refiner.bridge(torch.cat([one.rows, known], -1))
        x = torch.cat([bridged, refiner.bridge(self._inputs([one], 1)).transpose(0, 1)], 1)
        one.step = 0
        frames = one.source.frames if one.source.whole else one.source.most
        assert frames is not None
        return Start(x, functional.pad(one.mask, (0, 1), value=True), frames + refiner.config.delay)

    def advance(self, songs: Sequence[int], states: Tensor) -> Tensor:
        """Draws the frame that each song's state predicts, if any."""
        refiner, live = self.refiner, [self.songs[i] for i in songs]
        delay = refiner.config.delay
        due = [place for place, song in enumerate(live) if song.step >= delay and not self._over(song)]
        if due:
            drawing = [live[place] for place in due]
            guided = [self._logits(track, states) for track in range(len(_TRACKS))]
            if len(due) < len(states):
                guided = [rows[due] for rows in guided]
            tracks = [self._draw(k, rows, drawing) for k, rows in enumerate(guided)]
            for song, drawn in zip(drawing, zip(*tracks, strict=True), strict=True):
                song.ended = refiner.config.codebook_size in drawn
                if not song.ended:
                    song.ids.append(list(drawn))
        for song in live:
            song.step += 1
        return refiner.bridge(self._inputs(live, len(states)))

    def done(self, song: int) -> bool:
        """Whether all frames of the plan are drawn, or a track has ended."""
        return self._over(self.songs[song])

    def ids(self, song: int) -> list[list[int]]:
        """Returns the ids of vocal and accompaniment so far."""
        rows = self.songs[song].ids
        return [[row[track] for row in rows] for track in range(2)]

    def outputs(self, states: Tensor) -> list[Tensor]:
        """Returns the logits of both tracks, and what goes into the tower."""
        source = states.new_ones(*states.shape[:-1], self.refiner.source_width)
        return [*(head(states) for head in self.refiner.heads), self.refiner.bridge(torch.cat([states, source], -1))]

    @staticmethod
    def _over(song: _Song) -> bool:
        return song.ended or (song.source.frames is not None and len(song.ids) >= song.source.frames)

    def _logits(self, track: int, states: Tensor) -> Tensor:
        """Returns a track's logits [M, V], of states [M, G, D]."""
        head, guidance = self.refiner.heads[track], self.sampling.of(_TRACKS[track]).guidance
        branches = states if self.rows > 1 and guidance != 1.0 else states[:, 0]
        return linear_rows(head, branches, guidance=guidance).float()

    def _draw(self, track: int, guided: Tensor, songs: Sequence[_Song]) -> list[int]:
        """Draws a track's ids of some songs from their logits [N, V]."""
        sampling, config = self.sampling.of(_TRACKS[track]), self.refiner.config
        if config.behaviour == "mended":
            guided = guided[:, : config.codebook_size]  # the plan says when the song ends
        window = sampling.repetition_window
        recent = [[row[track] for row in song.ids[-window:]] if window else [] for song in songs]
        guided = penalise_rows(guided, recent, sampling.repetition_penalty)
        frames = [len(song.ids) for song in songs]
        return draw_rows(guided, sampling, seeds=[song.seed for song in songs], stream=2 + track, steps=frames)

    def _inputs(self, songs: Sequence[_Song], places: int) -> Tensor:
        """What goes through the bridge [M, G, 2 D] at the songs' steps: their last frames, and the planner's states."""
        refiner, delay = self.refiner, self.refiner.config.delay
        vocal, accompaniment = refiner.embeds.parameters()
        empty = [refiner.empty] * 2
        ids = torch.tensor([song.ids[-1] if song.step > delay and song.ids else empty for song in songs])
        ids = ids.to(vocal.device)
        tracks = (vocal[ids[:, 0]] + accompaniment[ids[:, 1]])[:, None].expand(-1, self.rows, -1)
        source = []
        for song in songs:
            known = song.step < len(song.source.states)
            source.append(song.source.states[song.step][: self.rows] if known else refiner.after.expand(self.rows, -1))
        x = torch.cat([tracks, torch.stack(source)], -1)
        return x if len(songs) == places else functional.pad(x, (0, 0, 0, 0, 0, places - len(songs)))


class _Whole:
    """One song of a plan that is complete, of which a refiner reads the states alone."""

    finished = whole = True

    def __init__(self, refiner: TrackLM, plan: Plan, index: int) -> None:
        self.ids: list[list[int]] = []
        self.frames: int | None = int(plan.codes.lengths[index])
        self.most = int(plan.codes.lengths[index])
        branches = [plan.hidden] if plan.hidden_null is None else [plan.hidden, plan.hidden_null]
        hidden = torch.stack([states[index] for states in branches])
        first = hidden.shape[1] - (plan.codes.ids.shape[2] + 1 + refiner.source_tail)
        # States of the prefix, padded as the batch's longest, and of the song's steps 0 .. F and the tail.
        self.prefix_states: Tensor | None = hidden[:, :first]
        self.states = list(hidden[:, first : first + self.most + 1 + refiner.source_tail].unbind(1))

    def cursor(self) -> list[int] | None:
        return None


@dataclass
class _Song:
    """One song while its tracks are being drawn."""

    source: DrawnPlan
    rows: Tensor
    """[G, P, D]: the conditions' prefix."""
    mask: Tensor
    seed: int
    ids: list[list[int]] = field(default_factory=list)
    """Those of both tracks, by frame."""
    step: int = 0
    ended: bool = False
