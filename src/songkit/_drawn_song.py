"""One song of a `StreamPlanner` while it is being drawn, and songs that were drawn as one plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from songkit.cursor import Walk, age_class
from songkit.decoding import song_rows
from songkit.errors import LayoutError
from songkit.interfaces import Sampling
from songkit.sampling import draw, guide, penalise
from songkit.types import Codes, Conditions, Plan, TokenLayout

if TYPE_CHECKING:
    from songkit.stream_planner import StreamPlanner

__all__ = ["END", "NO_FRAME", "DrawnSong", "collect"]

NO_FRAME = -1
"""Stands on steps at which a stream has no frame."""

END = -2
"""Stands once on the step after a song that ended by itself, in planners with a tail."""


class DrawnSong:
    """One song while it is being drawn."""

    def __init__(
        self,
        planner: StreamPlanner,
        conditions: Conditions,
        index: int,
        seed: int,
        sampling: Sampling,
        max_frames: int,
    ) -> None:
        self.planner, self.seed, self.sampling, self.max_frames = planner, seed, sampling, max_frames
        self.prefix, self.mask = song_rows(conditions, index, sampling.guidance)
        self.guided = sampling.guidance != 1.0
        self.forbidden = sorted(conditions.forbidden[index]) if conditions.forbidden is not None else []
        self.ids: list[list[int]] = [[] for _ in planner.layout.streams]
        self.frames: int | None = None  # known when the leading stream has ended or was cut
        self.finished = False
        self.states: list[Tensor] = []
        self.walk: Walk | None = None
        if planner.cursor_steps:
            tapes, lengths = [conditions.tape], conditions.tape_lengths
            if conditions.null is not None and self.guided:
                tapes.append(conditions.null.tape)
            if lengths is None or any(tape is None for tape in tapes):
                raise LayoutError("this planner follows the lyrics: the conditions need a tape")
            self.tape = torch.stack([tape[index] for tape in tapes if tape is not None])  # [G, L, D]
            self.walk = Walk(int(lengths[index]) - 1)

    def start(self) -> tuple[Tensor, Tensor]:
        """The prefix and the empty step, [G, P + 1, D], with their mask."""
        return torch.cat([self.prefix, self._embed(0)[:, None]], 1), functional.pad(self.mask, (0, 1), value=True)

    def advance(self, step: int, states: Tensor) -> Tensor | None:
        """Draws what the state after `step` predicts; returns the next input [G, D], or `None` at the end."""
        self.states.append(states)
        state = states[:, -1] if states.dim() == 3 else states
        planner = self.planner
        for stream, frame in planner.pattern.at(step + 1):
            if self.frames is not None and frame >= self.frames:
                continue
            if stream == planner.pattern.lead:
                self._lead(stream, frame, state)
            else:
                self.ids[stream].append(self._draw(stream, frame, state, may_end=False))
        drawn = self.frames is not None and all(len(ids) == self.frames for ids in self.ids)
        if drawn and (not planner.tail or len(self.states) == planner.states_of(self.frames or 0)):
            return None
        return self._embed(step + 1)

    def _lead(self, stream: int, frame: int, state: Tensor) -> None:
        """Draws the leading stream's id, with which the song may end, and moves along the lyrics."""
        if frame >= self.max_frames:
            self.frames = frame
            return
        drawn = self._draw(stream, frame, state, may_end=self._may_end(frame))
        if drawn == self.planner.layout.streams[stream].size:
            self.frames, self.finished = frame, True
            return
        self.ids[stream].append(drawn)
        if self.walk is not None:
            self.walk.move(self.planner.move(state[0]), seed=self.seed, frame=frame)

    def _may_end(self, frame: int) -> bool:
        return frame >= max(1, self.sampling.min_frames) and (self.walk is None or self.walk.arrived)

    def _draw(self, stream: int, frame: int, state: Tensor, *, may_end: bool) -> int:
        sampling = self.sampling
        logits = self.planner.logits(stream, state).float()
        guided = guide(logits[0], logits[1], sampling.guidance) if self.guided else logits[0]
        if not may_end:
            guided[-1] = float("-inf")
        recent = self.ids[stream][-sampling.repetition_window :] if sampling.repetition_window else []
        guided = penalise(guided, recent, sampling.repetition_penalty)
        if self.forbidden and stream == self.planner.pattern.lead:
            guided[self.forbidden] = float("-inf")
        return draw(guided, sampling, seed=self.seed, stream=_noise_stream(stream), step=frame)

    def _embed(self, step: int) -> Tensor:
        """The input [G, D] of a step: the ids that stand there, and where in the lyrics it is."""
        planner = self.planner
        ids = [NO_FRAME] * len(self.ids)
        for stream, frame in planner.pattern.at(step):
            if frame < len(self.ids[stream]):
                ids[stream] = self.ids[stream][frame]
            elif planner.tail and self.finished and (stream, frame) == (planner.pattern.lead, self.frames):
                ids[stream] = END
        device = self.prefix.device
        x = planner.embed_steps(torch.tensor(ids, device=device)[None, :, None])[:, 0]
        x = x.expand(2 if self.guided else 1, -1)
        if self.walk is not None:
            place, age = self.walk.at(step // planner.pattern.stride)
            x = x + planner.at(self.tape[:, place]) + planner.age(age_class(torch.tensor(age, device=device)))
        return x


def collect(songs: Sequence[DrawnSong], masks: Sequence[Tensor], layout: TokenLayout) -> Plan:
    """Puts drawn songs into one plan: prefixes end at the same position, steps begin there."""
    device = masks[0].device
    lengths = torch.tensor([len(song.ids[0]) for song in songs], device=device)
    frames = int(lengths.max())
    ids = torch.tensor([[row + [0] * (frames - len(row)) for row in song.ids] for song in songs], device=device)
    prefix = max(mask.shape[1] for mask in masks)
    steps = max(len(song.states) for song in songs)
    hidden, mask = [], []
    for song, own in zip(songs, masks, strict=True):
        first, *rest = song.states
        states = torch.cat([first, *(s[:, None] for s in rest)], 1)
        left, right = prefix - own.shape[1], steps - len(song.states)
        hidden.append(functional.pad(states, (0, 0, left, right)))
        mask.append(functional.pad(functional.pad(own, (0, len(rest)), value=True), (left, right), value=False))
    states, masks_all = torch.stack(hidden), torch.stack(mask)  # [B, G, P + S, D]
    guided = states.shape[1] > 1
    cursor = None
    if songs[0].walk is not None:
        # A walk may know one frame more than the song has: the one that was not drawn any more.
        rows = [song.walk.places[:n] for song, n in zip(songs, lengths.tolist(), strict=True) if song.walk is not None]
        cursor = torch.tensor([row + row[-1:] * (frames - len(row)) for row in rows], device=device)
    return Plan(
        Codes(ids, lengths, layout),
        states[:, 0],
        masks_all[:, 0],
        hidden_null=states[:, 1] if guided else None,
        mask_null=masks_all[:, 1] if guided else None,
        cursor=cursor,
        finished=torch.tensor([song.finished for song in songs], device=device),
    )


def _noise_stream(stream: int) -> int:
    """The key of a stream's sampling noise: apart from those of the cursor (1) and of track refiners (2 and 3)."""
    return 0 if stream == 0 else 100 + stream
