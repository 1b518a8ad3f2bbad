"""The songs of a `StreamPlanner` while they are being drawn, and songs that were drawn as one plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from songkit.cursor import Walk, age_class, draw_moves
from songkit.decoding import song_rows
from songkit.errors import LayoutError
from songkit.interfaces import Sampling
from songkit.interfaces.drawing import PlanDrawing, Start
from songkit.sampling import draw_rows, penalise_rows
from songkit.types import Codes, Conditions, Plan, TokenLayout

if TYPE_CHECKING:
    from songkit.stream_planner import StreamPlanner

__all__ = ["END", "NO_FRAME", "DrawnSong", "StreamDrawing", "collect"]

NO_FRAME = -1
"""Stands on steps at which a stream has no frame."""

END = -2
"""Stands once on the step after a song that ended by itself, in planners with a tail."""


class DrawnSong:
    """One song while it is being drawn."""

    def __init__(
        self, planner: StreamPlanner, conditions: Conditions, index: int, seed: int, guidance: float, most: int
    ) -> None:
        self.prefix, self.mask = song_rows(conditions, index, guidance)
        self.seed, self.most = seed, most
        self.forbidden = sorted(conditions.forbidden[index]) if conditions.forbidden is not None else []
        self.ids: list[list[int]] = [[] for _ in planner.layout.streams]
        self.frames: int | None = None
        """How many there are, when the leading stream has ended or was cut."""
        self.finished = False
        self.prefix_states: Tensor | None = None
        """[G, P, D]."""
        self.states: list[Tensor] = []
        """[G, D] of each step so far."""
        self.whole = False
        """Whether no more states will come."""
        self.walk: Walk | None = None
        if planner.cursor_steps:
            tapes, lengths = [conditions.tape], conditions.tape_lengths
            if conditions.null is not None and guidance != 1.0:
                tapes.append(conditions.null.tape)
            if lengths is None or any(tape is None for tape in tapes):
                raise LayoutError("this planner follows the lyrics: the conditions need a tape")
            tape = torch.stack([tape[index] for tape in tapes if tape is not None])
            self.told = planner.at(tape[:, : int(lengths[index])])  # [G, L, D]
            self.walk = Walk(int(lengths[index]) - 1)

    def cursor(self) -> list[int] | None:
        """Returns the lyrics token of each frame, where the planner follows the lyrics."""
        # A walk may know one frame more than the song has: the one that was not drawn any more.
        return None if self.walk is None else self.walk.places[: len(self.ids[0])]


class StreamDrawing(PlanDrawing):
    """The songs of a `StreamPlanner` while they are drawn."""

    def __init__(self, planner: StreamPlanner, sampling: Sampling, max_frames: int) -> None:
        self.planner, self.sampling, self.max_frames = planner, sampling, max_frames
        self.backbone, self.rows = planner.tower, 1 if sampling.guidance == 1.0 else 2
        self.songs: list[DrawnSong] = []
        offsets = planner.pattern.offsets
        self.order = sorted(range(len(offsets)), key=offsets.__getitem__)  # the lead first

    def add(self, conditions: Conditions, index: int, seed: int) -> int:
        """Takes a song of a batch of conditions; returns its number here."""
        self.songs.append(DrawnSong(self.planner, conditions, index, seed, self.sampling.guidance, self.max_frames))
        return len(self.songs) - 1

    def start(self, song: int) -> Start:
        """Begins with the prefix and the empty step."""
        one = self.songs[song]
        x = torch.cat([one.prefix, self._embed([one], 0).transpose(0, 1)], 1)
        most = self.planner.states_of(self.max_frames) - 1
        return Start(x, functional.pad(one.mask, (0, 1), value=True), most)

    def started(self, song: int, states: Tensor) -> None:
        """Keeps the states of the prefix."""
        self.songs[song].prefix_states = states[:, :-1]

    def advance(self, songs: Sequence[int], states: Tensor) -> Tensor:
        """Draws what the songs' states predict."""
        planner, live = self.planner, [self.songs[i] for i in songs]
        for song, state in zip(live, states, strict=False):
            song.states.append(state)
        for stream in self.order:
            self._draw(stream, live, states)
        for song in live:
            if song.frames is not None and all(len(ids) == song.frames for ids in song.ids):
                song.whole = not planner.tail or len(song.states) == planner.states_of(song.frames)
        return self._embed(live)

    def done(self, song: int) -> bool:
        """Whether a song has ended, and the planner's tail behind it."""
        return self.songs[song].whole

    def outputs(self, states: Tensor) -> list[Tensor]:
        """Returns the logits of all streams, and of the cursor's moves."""
        made = [self.planner.logits(stream, states) for stream in self.order]
        return [*made, self.planner.move(states[:, 0])] if self.planner.cursor_steps else made

    def _draw(self, stream: int, live: Sequence[DrawnSong], states: Tensor) -> None:
        """Draws a stream's ids of all songs that have a frame of it at their next step."""
        planner, lead = self.planner, stream == self.planner.pattern.lead
        sampling = self.sampling.of(planner.layout.streams[stream].track)
        offset, stride = planner.pattern.offsets[stream], planner.pattern.stride
        wanted: list[tuple[int, DrawnSong, int]] = []  # place, song and frame
        for place, song in enumerate(live):
            frame, rest = divmod(len(song.states) - 1 - offset, stride)
            if rest or frame < 0 or (song.frames is not None and frame >= song.frames):
                continue
            if lead and frame >= self.max_frames:
                song.frames = frame
            else:
                wanted.append((place, song, frame))
        if not wanted:
            return
        places, drawing, frames = (list(column) for column in zip(*wanted, strict=True))
        branches = states if self.rows > 1 and sampling.guidance != 1.0 else states[:, 0]
        guided = planner.logits(stream, branches, sampling.guidance).float()
        guided = guided if len(places) == len(guided) else guided[places]
        if stays := [row for row, (_, song, frame) in enumerate(wanted) if not (lead and self._may_end(song, frame))]:
            guided[slice(None) if len(stays) == len(guided) else stays, -1] = float("-inf")
        window = sampling.repetition_window
        recent = [song.ids[stream][-window:] if window else [] for song in drawing]
        guided = penalise_rows(guided, recent, sampling.repetition_penalty)
        for row, song in enumerate(drawing):
            if lead and song.forbidden:
                guided[row, song.forbidden] = float("-inf")
        # Noise of the first stream has key 0; 1 is the cursor's, 2 and 3 are those of track refiners.
        key = 0 if stream == 0 else 100 + stream
        drawn = draw_rows(guided, sampling, seeds=[song.seed for song in drawing], stream=key, steps=frames)
        for song, frame, i in zip(drawing, frames, drawn, strict=True):
            if i == planner.layout.streams[stream].size:
                song.frames, song.finished = frame, True
            else:
                song.ids[stream].append(i)
        if lead and planner.cursor_steps:
            self._move(places, drawing, states)

    def _move(self, places: Sequence[int], drawing: Sequence[DrawnSong], states: Tensor) -> None:
        """Moves on along the lyrics after a frame of the leading stream."""
        going = [(place, song) for place, song in zip(places, drawing, strict=True) if song.frames is None]
        if going:
            logits = self.planner.move(states[:, 0])[[place for place, _ in going]]
            draw_moves(
                [song.walk for _, song in going if song.walk is not None],
                logits,
                seeds=[song.seed for _, song in going],
                frames=[len(song.ids[self.planner.pattern.lead]) - 1 for _, song in going],
            )

    def _may_end(self, song: DrawnSong, frame: int) -> bool:
        if frame < max(1, self.sampling.min_frames):
            return False
        return song.walk is None or song.walk.arrived(self.sampling.last_frames)

    def _embed(self, live: Sequence[DrawnSong], step: int | None = None) -> Tensor:
        """The inputs [N, G, D] of a step, by default the next: the ids that stand there, and where in the lyrics."""
        planner, device = self.planner, live[0].prefix.device
        stride, lead = planner.pattern.stride, planner.pattern.lead
        steps = [len(song.states) if step is None else step for song in live]
        rows = [[planner.row(stream, NO_FRAME) for stream in range(len(planner.layout))] for _ in live]
        for row, song, now in zip(rows, live, steps, strict=True):
            for stream, offset in enumerate(planner.pattern.offsets):
                frame, rest = divmod(now - 1 - offset, stride)
                if rest or frame < 0:
                    continue
                if frame < len(song.ids[stream]):
                    row[stream] = planner.row(stream, song.ids[stream][frame])
                elif planner.tail and song.finished and (stream, frame) == (lead, song.frames):
                    row[stream] = planner.row(stream, END)
        x = planner.embed_rows(torch.tensor(rows, device=device))[:, None]  # [N, 1, D]
        x = x.expand(-1, self.rows, -1)
        if not planner.cursor_steps:
            return x
        where = [song.walk.at(now // stride) for song, now in zip(live, steps, strict=True) if song.walk is not None]
        told = torch.stack([song.told[:, place] for song, (place, _) in zip(live, where, strict=True)])
        ages = age_class(torch.tensor([age for _, age in where], device=device))
        return x + told + planner.age(ages)[:, None]


def collect(songs: Sequence[DrawnSong], layout: TokenLayout) -> Plan:
    """Puts drawn songs into one plan: prefixes end at the same position, steps begin there."""
    device = songs[0].mask.device
    lengths = torch.tensor([len(song.ids[0]) for song in songs], device=device)
    frames = int(lengths.max())
    ids = torch.tensor([[row + [0] * (frames - len(row)) for row in song.ids] for song in songs], device=device)
    prefix = max(song.mask.shape[1] for song in songs)
    steps = max(len(song.states) for song in songs)
    hidden, mask = [], []
    for song in songs:
        assert song.prefix_states is not None
        states = torch.cat([song.prefix_states, torch.stack(song.states, 1)], 1)
        left, right = prefix - song.mask.shape[1], steps - len(song.states)
        hidden.append(functional.pad(states, (0, 0, left, right)))
        own = functional.pad(song.mask, (0, len(song.states)), value=True)
        mask.append(functional.pad(own, (left, right), value=False))
    states, masks_all = torch.stack(hidden), torch.stack(mask)  # [B, G, P + S, D]
    guided = states.shape[1] > 1
    cursor = None
    if songs[0].walk is not None:
        rows = [song.cursor() or [0] for song in songs]
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
