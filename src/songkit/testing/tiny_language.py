"""A planner and a refiner of a thousand parameters that obey every law; see `songkit.testing.standins`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.decoding import run_songs, song_rows
from songkit.interfaces import Planner, Sampling, TrackRefiner
from songkit.sampling import draw, guide, penalise
from songkit.testing.standins import ModelConfig
from songkit.types import Codes, Conditions, Plan, TokenLayout

__all__ = ["TinyPlanner", "TinyRefiner"]


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
    """One song while it is drawn."""

    def __init__(self, tower: _Tower, conditions: Conditions, index: int, seed: int, sampling: Sampling) -> None:
        self.tower, self.seed, self.sampling = tower, seed, sampling
        self.prefix, self.mask = song_rows(conditions, index, sampling.guidance)
        self.ids: list[list[int]] = []
        self.states: list[Tensor] = []
        self.finished = False

    def start(self, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns prefix and empty step [G, P + 1, D] with their mask."""
        x = torch.cat([self.prefix, self.following(told)[:, None]], 1)
        return x, functional.pad(self.mask, (0, 1), value=True)

    def following(self, told: Tensor | None = None) -> Tensor:
        """Returns the input [G, D] of the next step; `told` [G, D] is what the plan says there."""
        last = self.ids[-1] if self.ids else [self.tower.size] * len(self.tower.layout)
        x = torch.stack([table.weight[i] for table, i in zip(self.tower.embed, last, strict=True)]).sum(0)  # type: ignore[index]  # tables are embeddings
        x = x.expand(len(self.prefix), -1)
        return x if told is None else x + told

    def draw(self, states: Tensor, *, may_end: bool) -> None:
        """Draws a frame from states [G, D], or finds that the song ends."""
        logits = self.tower.logits(states).float()
        guided = logits[0] if len(logits) == 1 else guide(logits[0], logits[1], self.sampling.guidance)
        frame, window = len(self.ids), self.sampling.repetition_window
        row = []
        for k, stream in enumerate(self.tower.layout.streams):
            known = guided[k].clone()
            known[stream.size : self.tower.size] = float("-inf")
            if k or not may_end:
                known[self.tower.size] = float("-inf")
            recent = [ids[k] for ids in self.ids[-window:]] if window else []
            known = penalise(known, recent, self.sampling.repetition_penalty)
            row.append(draw(known, self.sampling, seed=self.seed, stream=k, step=frame))
        self.finished = row[0] == self.tower.size
        if not self.finished:
            self.ids.append(row)


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
        songs = [_Song(self.tower, conditions, i, seed, sampling) for i, seed in enumerate(seeds)]

        def advance(index: int, step: int, states: Tensor) -> Tensor | None:
            song = songs[index]
            song.states.append(states if states.dim() == 3 else states[:, None])
            if len(song.ids) == max_frames:
                return None
            song.draw(song.states[-1][:, -1], may_end=bool(song.ids))
            if progress is not None:
                progress(sum(len(other.ids) for other in songs))
            return None if song.finished else song.following()

        run_songs(self.tower.backbone, [song.start() for song in songs], advance, steps=[max_frames] * len(songs))
        return self._plan(songs, conditions.prefix.device)

    def _plan(self, songs: list[_Song], device: torch.device) -> Plan:
        lengths = [len(song.ids) for song in songs]
        most, longest = max(lengths), max(song.prefix.shape[1] for song in songs)
        hidden, masks = [], []
        for song, frames in zip(songs, lengths, strict=True):
            states = torch.cat(song.states, 1)
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
        lengths = plan.codes.lengths.tolist()
        most = plan.codes.ids.shape[2]
        songs = [_Song(self.tower, conditions, i, seed, sampling) for i, seed in enumerate(seeds)]
        branches = [plan.hidden, plan.hidden if plan.hidden_null is None else plan.hidden_null]

        def told(index: int) -> Tensor:
            frame = len(songs[index].ids)
            states = [branch[index, branch.shape[1] - most + frame] for branch in branches]
            return self.bridge(torch.stack(states[: len(songs[index].prefix)]))

        def advance(index: int, step: int, states: Tensor) -> Tensor | None:
            song = songs[index]
            song.draw(states[:, -1] if states.dim() == 3 else states, may_end=False)
            if progress is not None:
                progress(sum(len(other.ids) for other in songs))
            return song.following(told(index)) if len(song.ids) < lengths[index] else None

        sung = [i for i, frames in enumerate(lengths) if frames]
        run_songs(
            self.tower.backbone,
            [songs[i].start(told(i)) for i in sung],
            lambda place, step, states: advance(sung[place], step, states),
            steps=[lengths[i] for i in sung],
        )
        return Codes(_rows(songs, most, plan.codes.ids.device), plan.codes.lengths, self.layout)


def _rows(songs: list[_Song], frames: int, device: torch.device) -> Tensor:
    """Ids [B, K, F] of the songs, zero beyond each one's end."""
    streams = len(songs[0].tower.layout)
    out = torch.zeros(len(songs), streams, frames, dtype=torch.int64, device=device)
    for row, song in zip(out, songs, strict=True):
        if song.ids:
            row[:, : len(song.ids)] = torch.tensor(song.ids, device=device).T
    return out
