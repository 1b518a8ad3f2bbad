"""A track refiner without a tower: it reads the plan's state at a frame, the conditions, and the frame before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import LayoutError
from songkit.interfaces import Sampling, TrackRefiner
from songkit.sampling import draw, guide, penalise
from songkit.types import Codes, Conditions, Plan, Stream, TokenLayout

from .configs import RefinerConfig

__all__ = ["FrameRefiner"]


class FrameRefiner(TrackRefiner):
    """Refines the mix's plan into vocal and accompaniment, in parallel."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.source_width = self.width = config.width
        self.source = TokenLayout(config.frame_rate, (Stream("mix", 0, config.codes),))
        streams = tuple(Stream(track, 0, config.codes) for track in ("vocal", "accompaniment"))
        self.layout = TokenLayout(config.frame_rate, streams)
        self.none = config.codes  # stands before the first frame
        self.style = nn.Linear(config.width, config.width)
        self.embed = nn.ModuleList(nn.Embedding(config.codes + 1, config.width) for _ in streams)
        self.heads = nn.ModuleList(nn.Linear(config.width, config.codes) for _ in streams)

    def forward(self, plan: Plan, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced; returns logits [B, K, F, V]."""
        codes = codes.select(self.layout.tracks)
        before = functional.pad(codes.ids, (1, 0), value=self.none)[:, :, :-1]
        hidden = self._states(self._told(plan.hidden, conditions, codes.ids.shape[2]), before)
        mask = torch.arange(hidden.shape[1], device=hidden.device) < codes.lengths[:, None]
        logits = torch.stack([head(hidden) for head in self.heads], 1)
        return Plan(codes, hidden, mask, logits=logits)

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
        """Draws frame after frame, a song at a time, so that none depends on its company."""
        frames = plan.codes.ids.shape[2]
        told = [self._told(plan.hidden, conditions, frames)]
        if sampling.guidance != 1:
            if plan.hidden_null is None or conditions.null is None:
                raise LayoutError("guidance needs a plan and conditions with a null branch")
            told.append(self._told(plan.hidden_null, conditions.null, frames))
        branches = torch.stack(told, 1)  # [B, G, F, D]
        ids = torch.zeros(len(seeds), len(self.layout), frames, dtype=torch.int64, device=branches.device)
        for song, (seed, length) in enumerate(zip(seeds, plan.codes.lengths.tolist(), strict=True)):
            for frame in range(length):
                ids[song, :, frame] = self._draw(branches[song, :, frame], ids[song, :, :frame], sampling, seed)
            if progress is not None:
                progress(int(plan.codes.lengths[: song + 1].sum()))
        return Codes(ids, plan.codes.lengths, self.layout)

    def _draw(self, told: Tensor, drawn: Tensor, sampling: Sampling, seed: int) -> Tensor:
        """Draws the ids [K] of a frame from what it is told [G, D] and the ids [K, F] so far."""
        frame = drawn.shape[1]
        before = drawn[:, -1:] if frame else drawn.new_full((len(drawn), 1), self.none)
        state = self._states(told[:, None], before.expand(len(told), -1, -1))[:, 0]
        row = []
        for k, head in enumerate(self.heads):
            logits = head(state).float()
            guided = guide(logits[0], logits[1], sampling.guidance) if len(logits) > 1 else logits[0]
            recent = drawn[k, -sampling.repetition_window :].tolist() if sampling.repetition_window else []
            guided = penalise(guided, recent, sampling.repetition_penalty)
            # Streams 0 and 1 are the planner's noise: a refiner has its own.
            row.append(draw(guided, sampling, seed=seed, stream=2 + k, step=frame))
        return torch.tensor(row, device=told.device)

    def _told(self, hidden: Tensor, conditions: Conditions, frames: int) -> Tensor:
        """Returns what each frame is told, [B, F, D]: the plan's state after it, and the conditions."""
        # Song by song: padding would change the rounding of a mean.
        asked = torch.stack([row[m].mean(0) for row, m in zip(conditions.prefix, conditions.mask, strict=True)])
        return hidden[:, hidden.shape[1] - frames :] + self.style(asked)[:, None]

    def _states(self, told: Tensor, before: Tensor) -> Tensor:
        """Returns states [B, F, D] of what frames are told [B, F, D] and the ids before, [B, K, F]."""
        heard = torch.stack([table(before[:, k]) for k, table in enumerate(self.embed)]).sum(0)
        return torch.tanh(told + heard)
