"""A planner and a refiner of a thousand parameters that obey every law; see `songkit.testing.standins`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.decoding import Stage, run, song_rows
from songkit.interfaces import Planner, Sampling, TrackRefiner
from songkit.interfaces.drawing import Drawing, DrawnPlan, PlanDrawing, Start, TrackDrawing
from songkit.sampling import draw, guide, penalise
from songkit.testing.standins import ModelConfig
from songkit.testing.unfolding import Unfolding
from songkit.types import Codes, Conditions, Plan, TokenLayout

__all__ = ["TinyPlanner", "TinyPlans", "TinyRefiner", "TinyTracks"]


class _Tower(nn.Module):
    """A causal tower over K streams in parallel: the state at step s saw frames before s and predicts frame s."""

    def __init__(self, width: int, layout: TokenLayout) -> None:
        super().__init__()
        self.layout, self.width = layout, width
        self.size = max(stream.size for stream in layout.streams)
        self.backbone = Transformer(TransformerConfig(dim=width, layers=1, heads=2, feed_forward=2 * width))
        self.embed = nn.ModuleList(nn.Embedding(self.size + 1, width) for _ in layout.streams)
        self.heads = nn.ModuleList(nn.Linear(width, self.size + 1) for _ in layout.streams)

    def steps(self, ids: Tensor) -> Tensor:
        """Embeds ids [B, K, F] as [B, F + 1, D]; an empty step comes first."""
        ids = functional.pad(ids, (1, 0), value=self.size)
        return torch.stack([table(ids[:, k]) for k, table in enumerate(self.embed)]).sum(0)

    def run(self, prefix: Tensor, mask: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns states [B, P + S, D] and their mask."""
        mask = functional.pad(mask, (0, steps.shape[1]), value=True)
        return self.backbone(torch.cat([prefix, steps], 1), mask), mask

    def logits(self, states: Tensor) -> Tensor:
        """Returns logits [..., K, V + 1] of states [..., D]; the last id is the end of song."""
        return torch.stack([head(states) for head in self.heads], -2)


class _Song:
    """One song while it is drawn; of a planner's, what a `DrawnPlan` tells."""

    def __init__(self, conditions: Conditions, index: int, seed: int, drawing: _Songs, most: int) -> None:
        self.prefix, self.mask = song_rows(conditions, index, drawing.sampling.guidance)
        self.seed, self.most = seed, most
        self.source: DrawnPlan | None = None
        """The plan that is refined."""
        self.ids: list[list[int]] = [[] for _ in drawing.tower.layout.streams]
        self.prefix_states: Tensor | None = None
        self.states: list[Tensor] = []
        self.frames: int | None = None
        self.finished = self.whole = False

    @property
    def drawn(self) -> int:
        """How many frames there are."""
        return len(self.ids[0])

    def cursor(self) -> list[int] | None:
        """Returns `None`: it does not follow the lyrics."""
        return None


class _Songs(Drawing):
    """Songs that are drawn frame by frame, one a step."""

    def __init__(self, tower: _Tower, sampling: Sampling) -> None:
        self.tower, self.backbone, self.sampling = tower, tower.backbone, sampling
        self.rows = 1 if sampling.guidance == 1.0 else 2
        self.songs: list[_Song] = []

    def start(self, song: int) -> Start:
        one = self.songs[song]
        x = torch.cat([one.prefix, self.following(one)[:, None]], 1)
        return Start(x, functional.pad(one.mask, (0, 1), value=True), one.most)

    def started(self, song: int, states: Tensor) -> None:
        self.songs[song].prefix_states = states[:, :-1]

    def advance(self, songs: Sequence[int], states: Tensor) -> Tensor:
        # Song by song: so no product depends on how many there are, and `outputs` has none to tell.
        x = torch.zeros_like(states)
        for place, index in enumerate(songs):
            song = self.songs[index]
            song.states.append(states[place])
            before = song.drawn
            if before < self.limit(song):
                self.draw(song, states[place])
            # A plan has a state after its last frame, too: a refiner reads it.
            if song.finished or (before if song.source is None else song.drawn) == self.limit(song):
                song.frames, song.whole = song.drawn, True
            if not song.finished:
                x[place] = self.following(song)
        return x

    def done(self, song: int) -> bool:
        return self.songs[song].whole

    def limit(self, song: _Song) -> int:
        """How many frames there may be at most."""
        frames = None if song.source is None else song.source.frames
        return song.most if frames is None else frames

    def following(self, song: _Song) -> Tensor:
        """Returns the input [G, D] of the next step."""
        last = [own[-1] if own else self.tower.size for own in song.ids]
        x = torch.stack([table.weight[i] for table, i in zip(self.tower.embed, last, strict=True)]).sum(0)  # type: ignore[index]  # tables are embeddings
        return x.expand(self.rows, -1)

    def draw(self, song: _Song, states: Tensor) -> None:
        """Draws a frame from states [G, D], or finds that the song ends."""
        logits = self.tower.logits(states).float()
        guided = logits[0] if len(logits) == 1 else guide(logits[0], logits[1], self.sampling.guidance)
        window, row = self.sampling.repetition_window, []
        for k, stream in enumerate(self.tower.layout.streams):
            known = guided[k].clone()
            known[stream.size : self.tower.size] = float("-inf")
            if k or not song.drawn or song.source is not None:  # a plan says itself when the song ends
                known[self.tower.size] = float("-inf")
            recent = song.ids[k][-window:] if window else []
            known = penalise(known, recent, self.sampling.repetition_penalty)
            row.append(draw(known, self.sampling, seed=song.seed, stream=k, step=song.drawn))
        song.finished = row[0] == self.tower.size
        if not song.finished:
            for own, drawn in zip(song.ids, row, strict=True):
                own.append(drawn)


class TinyPlans(_Songs, PlanDrawing):  # type: ignore[misc]  # these songs tell all that a DrawnPlan tells
    """The songs of a `TinyPlanner` while they are drawn."""

    def __init__(self, planner: TinyPlanner, sampling: Sampling, max_frames: int) -> None:
        super().__init__(planner.tower, sampling)
        self.max_frames = max_frames

    def add(self, conditions: Conditions, index: int, seed: int) -> int:
        """Takes a song of a batch of conditions; returns its place in `songs`."""
        self.songs.append(_Song(conditions, index, seed, self, self.max_frames))
        return len(self.songs) - 1


class TinyTracks(_Songs, TrackDrawing):
    """The songs of a `TinyRefiner` while they are drawn: a frame is told the plan's state after that frame."""

    def __init__(self, refiner: TinyRefiner, sampling: Sampling) -> None:
        super().__init__(refiner.tower, sampling)
        self.refiner = refiner

    def add(self, source: DrawnPlan, conditions: Conditions, index: int, seed: int) -> int:
        """Takes the plan of a song of a batch of conditions; returns the song's number."""
        song = _Song(conditions, index, seed, self, source.most)
        song.source = source
        self.songs.append(song)
        return len(self.songs) - 1

    def ids(self, song: int) -> list[list[int]]:
        """Returns the ids of each stream so far."""
        return self.songs[song].ids

    def ready(self, song: int) -> bool:
        """Whether the plan's state at the song's next step is known."""
        one = self.songs[song]
        assert one.source is not None
        begun = one.prefix_states is not None  # then a frame is drawn first, and the next one has to be known
        return one.source.whole or one.drawn + 1 + begun < len(one.source.states)

    def following(self, song: _Song) -> Tensor:
        """Returns the input [G, D] of the next step, with what the plan says there."""
        assert song.source is not None
        after = song.drawn + 1
        x = super().following(song)
        if after >= len(song.source.states):
            return x  # of a song that has ended
        told = song.source.states[after]
        return x + self.refiner.bridge(told if len(told) >= self.rows else told.expand(self.rows, -1))[: self.rows]


class TinyPlanner(Planner):
    """Plans the streams of the mix, or all if there are none, one frame a step."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layout = config.layout.select(["mix"]) if "mix" in config.layout.tracks else config.layout
        self.width = config.width
        self.tower = _Tower(config.width, self.layout)

    def forward(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced; logits [B, K, F + 1, V + 1]."""
        codes = codes.select(self.layout.tracks)
        steps = self.tower.steps(codes.ids)
        hidden, mask = self.tower.run(conditions.prefix, conditions.mask, steps)
        logits = self.tower.logits(hidden[:, -steps.shape[1] :]).transpose(1, 2)
        return Plan(codes, hidden, mask, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        conditions: Conditions,
        *,
        sampling: Sampling,
        max_frames: int,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> Plan:
        """Draws songs; every id may be the end, but the first."""
        drawing = TinyPlans(self, sampling, max_frames)
        for _ in run(Stage(drawing, [drawing.add(conditions, i, seed) for i, seed in enumerate(seeds)])):
            if progress is not None:
                progress(sum(song.drawn for song in drawing.songs))
        return self._plan(drawing.songs, conditions.prefix.device)

    def drawing(self, *, sampling: Sampling, max_frames: int) -> TinyPlans:
        """Returns what draws songs step by step."""
        return TinyPlans(self, sampling, max_frames)

    def _plan(self, songs: list[_Song], device: torch.device) -> Plan:
        lengths = [song.drawn for song in songs]
        most, longest = max(lengths), max(song.prefix.shape[1] for song in songs)
        hidden, masks = [], []
        for song, frames in zip(songs, lengths, strict=True):
            assert song.prefix_states is not None
            states = torch.cat([song.prefix_states, torch.stack(song.states, 1)], 1)
            around = (longest - song.prefix.shape[1], most - frames)
            hidden.append(functional.pad(states, (0, 0, *around)))
            masks.append(functional.pad(functional.pad(song.mask, (0, frames + 1), value=True), around))
        states, mask = torch.stack(hidden), torch.stack(masks)  # [B, G, P + S, D]
        guided = states.shape[1] > 1
        return Plan(
            Codes(_rows(songs, most, device), torch.tensor(lengths, device=device), self.layout),
            states[:, 0],
            mask[:, 0],
            hidden_null=states[:, 1] if guided else None,
            mask_null=mask[:, 1] if guided else None,
            finished=torch.tensor([song.finished for song in songs], device=device),
        )


class TinyRefiner(TrackRefiner):
    """Refines the mix's plan into the other streams; a frame is told the plan's state after that frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.source = config.layout.select(["mix"]) if "mix" in config.layout.tracks else config.layout
        stems = [track for track in config.layout.tracks if track != "mix"]
        self.layout = config.layout.select(stems or config.layout.tracks)
        self.source_width = self.width = config.width
        self.tower = _Tower(config.width, self.layout)
        self.bridge = nn.Linear(config.width, config.width)

    def forward(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced; logits [B, K, F, V]."""
        codes = codes.select(self.layout.tracks)
        frames = codes.ids.shape[2]
        steps = self.tower.steps(codes.ids)[:, :frames] + self.bridge(plan.hidden[:, plan.hidden.shape[1] - frames :])
        hidden, mask = self.tower.run(conditions.prefix, conditions.mask, steps)
        logits = self.tower.logits(hidden[:, hidden.shape[1] - frames :]).transpose(1, 2)
        return Plan(codes, hidden, mask, logits=logits[..., : self.tower.size])

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
        """Draws all streams, one frame a step."""
        drawing = TinyTracks(self, sampling)
        songs = [
            drawing.add(Unfolding(plan, i, self.source_pattern, whole=True), conditions, i, seed)
            for i, seed in enumerate(seeds)
        ]
        for _ in run(Stage(drawing, songs)):
            if progress is not None:
                progress(sum(song.drawn for song in drawing.songs))
        return Codes(
            _rows(drawing.songs, plan.codes.ids.shape[2], plan.codes.ids.device), plan.codes.lengths, self.layout
        )

    def drawing(self, *, sampling: Sampling) -> TinyTracks:
        """Returns what draws tracks step by step."""
        return TinyTracks(self, sampling)


def _rows(songs: list[_Song], frames: int, device: torch.device) -> Tensor:
    """Ids [B, K, F] of the songs, zero beyond each one's end."""
    out = torch.zeros(len(songs), len(songs[0].ids), frames, dtype=torch.int64, device=device)
    for row, song in zip(out, songs, strict=True):
        row[:, : song.drawn] = torch.tensor(song.ids, device=device)
    return out
