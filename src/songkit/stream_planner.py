"""A planner over K streams whose behaviour is a token pattern: LeVo 2's mixed tokens, and what it is compared with.

Positions are [prefix of conditions, steps of the pattern]; the state at a step predicts the next step, for each stream
by a head of its own. The stream that leads the pattern ends the song, and the others catch up with it. A planner may
follow the lyrics by a cursor (`songkit.cursor`), and may learn to predict tokens that it does not plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.cursor import AGES, Walk, age_class, frame_ages, move_loss
from songkit.decoding import run_songs, song_rows
from songkit.errors import LayoutError
from songkit.interfaces import Backbone, Planner, Sampling, Tokenizer
from songkit.patterns import Pattern
from songkit.sampling import draw, guide, penalise
from songkit.types import Codes, Conditions, Plan, TokenLayout

__all__ = ["StreamPlanner", "start_alike"]


class StreamPlanner(Planner):
    """A causal tower over the steps of a pattern. The id behind the last one of a stream is its end of song.

    All streams have V ids. One table and one head hold the rows of all streams, V + 1 each: as an input the row behind
    the ids says that a stream has no frame at this step, as an output that the song has ended.
    """

    def __init__(
        self,
        layout: TokenLayout,
        pattern: Pattern,
        tower: Backbone,
        *,
        cursor_steps: int = 0,
        cursor_weight: float = 0.3,
        auxiliary: Mapping[str, float] | None = None,
    ) -> None:
        """Makes a planner with random weights.

        Args:
            layout: What it plans.
            pattern: Where each stream's ids stand; the first of them on the first step of a frame.
            tower: The model of sequences.
            cursor_steps: Furthest move along the lyrics in one frame, in tokens; 0 is no cursor.
            cursor_weight: Weight of the cross-entropy of the moves.
            auxiliary: Tracks of the same levels to predict beside, with the weight of their cross-entropy: a target in
                training only, as the vocal tokens in SongGen's "mixed pro" mode.

        Raises:
            LayoutError: If the streams have different sizes, or do not fit the pattern.
        """
        super().__init__()
        sizes = {stream.size for stream in layout.streams}
        if len(sizes) != 1:
            raise LayoutError(f"a stream planner needs streams of one vocabulary size, these have {layout}")
        if len(pattern.offsets) != len(layout) or min(pattern.offsets) != 0:
            raise LayoutError(f"{pattern} does not fit the {len(layout)} streams {layout}: one of them must lead by 0")
        self.layout, self._pattern, self.tower, self.width = layout, pattern, tower, tower.width
        [self.end] = sizes
        self._auxiliary = dict(auxiliary or {})
        self.auxiliary = tuple(self._auxiliary)
        self.cursor_steps, self._cursor_weight = cursor_steps, cursor_weight
        rows = len(layout) * (self.end + 1)
        self.embed = nn.Embedding(rows, self.width)
        self.head = nn.Linear(self.width, rows, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if cursor_steps:
            self.at = nn.Linear(self.width, self.width)
            self.age = nn.Embedding(AGES, self.width)
            self.move = nn.Linear(self.width, cursor_steps + 1)
            nn.init.normal_(self.age.weight, std=0.02)
        if self._auxiliary:
            levels = len(layout) // len(layout.tracks)
            self.beside = nn.Linear(self.width, len(self._auxiliary) * levels * self.end, bias=False)
            nn.init.normal_(self.beside.weight, std=0.02)

    @property
    def pattern(self) -> Pattern:
        """Where each stream's ids stand."""
        return self._pattern

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts embeddings and heads where codes that sound alike are alike, if the tokenizer tells its codes."""
        for k, stream in enumerate(self.layout.streams):
            if stream.level == 0:
                start_alike(tokenizer, stream.track, self.embed.weight[self._rows(k)], self.head.weight[self._rows(k)])

    def forward(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced.

        Args:
            codes: Of this layout, and of the `auxiliary` tracks where their loss is wanted.
            conditions: With tape and cursor, if the planner follows the lyrics.

        Returns:
            A plan with logits [B, K, F + 1, V + 1]: the last frame and the last id are for the end of song.

        Raises:
            LayoutError: If the planner follows lyrics and the conditions have no cursor.
        """
        own = codes.arrange(self.layout)
        frames, stride = own.ids.shape[2], self.pattern.stride
        beyond = torch.arange(frames, device=own.ids.device) >= own.lengths[:, None, None]
        steps = self.pattern.apply(own.ids.masked_fill(beyond, self.end), self.end)
        # Up to the state that predicts the end of the last stream.
        length = 1 + stride * frames + max(self.pattern.offsets)
        steps = functional.pad(steps, (0, length - steps.shape[2]), value=self.end)
        x = self._embed(steps)
        losses = {}
        if self.cursor_steps:
            cursor, tape = conditions.cursor, conditions.tape
            if cursor is None or tape is None:
                raise LayoutError("this planner follows the lyrics: the conditions need a tape and a cursor")
            x = x + self._lyrics(tape, cursor, length)
        prefix = conditions.prefix.shape[1]
        mask = functional.pad(conditions.mask, (0, length), value=True)
        hidden = self.tower(torch.cat([conditions.prefix, x], 1), mask)
        states = hidden[:, prefix:]
        if self.cursor_steps:
            assert conditions.cursor is not None
            moves = self.move(states[:, : stride * (frames - 1) : stride])
            losses["cursor"] = self._cursor_weight * move_loss(moves, conditions.cursor, own.lengths)
        predicting = [states[:, offset::stride][:, : frames + 1] for offset in self.pattern.offsets]
        losses |= self._beside_losses(predicting, codes)
        logits = torch.stack([self._logits(k, x) for k, x in enumerate(predicting)], 1)
        return Plan(own, hidden, mask, logits=logits, cursor=conditions.cursor, losses=losses)

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
        """Draws songs; one that follows the lyrics may end only when its cursor has reached the last token."""
        songs = [_Song(self, conditions, i, seeds[i], sampling, max_frames) for i in range(len(conditions.prefix))]

        def advance(index: int, step: int, states: Tensor) -> Tensor | None:
            following = songs[index].advance(step, states)
            if progress is not None:
                progress(sum(len(song.ids[self.pattern.lead]) for song in songs))
            return following

        starts = [song.start() for song in songs]
        most = self.pattern.stride * max_frames + max(self.pattern.offsets)
        run_songs(self.tower, starts, advance, steps=[most] * len(songs))
        return _collect(songs, [mask for _, mask in starts], self.layout)

    def _rows(self, stream: int) -> slice:
        return slice(stream * (self.end + 1), (stream + 1) * (self.end + 1))

    def _embed(self, steps: Tensor) -> Tensor:
        """Sums the embeddings of all streams' ids: [B, K, S] to [B, S, D]."""
        x = self.embed(steps[:, 0])
        for k in range(1, steps.shape[1]):
            x = x + self.embed(steps[:, k] + self._rows(k).start)
        return x

    def _logits(self, stream: int, states: Tensor) -> Tensor:
        return functional.linear(states, self.head.weight[self._rows(stream)])

    def _lyrics(self, tape: Tensor, cursor: Tensor, length: int) -> Tensor:
        """What each step is told of the lyrics, [B, S, D], of a tape [B, L, D] and a cursor [B, F].

        A step tells where the frame is that it predicts first; after the last frame it stays there.
        """
        cursor = torch.cat([cursor, cursor[:, -1:]], 1)
        here = tape.gather(1, cursor[:, :, None].expand(-1, -1, tape.shape[2]))
        told = self.at(here) + self.age(age_class(frame_ages(cursor)))
        if length == told.shape[1]:
            return told
        frame = torch.arange(length, device=told.device) // self.pattern.stride
        return told[:, frame.clamp(max=cursor.shape[1] - 1)]

    def _beside_losses(self, predicting: Sequence[Tensor], codes: Codes) -> dict[str, Tensor]:
        """Cross-entropy of the auxiliary tracks that the codes have, read from the states of this planner's levels."""
        losses = {}
        inside = torch.arange(codes.ids.shape[2], device=codes.ids.device) < codes.lengths[:, None]
        levels = len(self.layout) // len(self.layout.tracks)
        for number, (track, weight) in enumerate(self._auxiliary.items()):
            if track not in codes.layout.tracks:
                continue  # generation and refiners run without it; TrainPlanner insists on it
            parts = []
            for level in range(levels):
                first = (number * levels + level) * self.end
                logits = functional.linear(predicting[level][:, :-1], self.beside.weight[first : first + self.end])
                targets = codes.ids[:, codes.layout.index(track, level)].masked_fill(~inside, -100)
                parts.append(functional.cross_entropy(logits.float().transpose(1, 2), targets))
            losses[track] = weight * torch.stack(parts).mean()
        return losses


@torch.no_grad()
def start_alike(tokenizer: Tokenizer, track: str, *tables: Tensor) -> None:
    """Fills the first V rows of tables [>= V, D] with random projections of the codes [V, d] of a track."""
    vectors = getattr(tokenizer, "code_vectors", None)
    if vectors is None:
        return
    codes = vectors(track)
    for table in tables:
        projection = torch.randn(codes.shape[1], table.shape[1], device=table.device)
        table[: len(codes)] = 0.02 * functional.normalize(codes, dim=1) @ projection


class _Song:
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
        if self.frames is not None and all(len(ids) == self.frames for ids in self.ids):
            return None
        return self._embed(step + 1)

    def _lead(self, stream: int, frame: int, state: Tensor) -> None:
        """Draws the leading stream's id, with which the song may end, and moves along the lyrics."""
        if frame >= self.max_frames:
            self.frames = frame
            return
        drawn = self._draw(stream, frame, state, may_end=frame > 0 and (self.walk is None or self.walk.arrived))
        if drawn == self.planner.end:
            self.frames, self.finished = frame, True
            return
        self.ids[stream].append(drawn)
        if self.walk is not None:
            self.walk.move(self.planner.move(state[0]), seed=self.seed, frame=frame)

    def _draw(self, stream: int, frame: int, state: Tensor, *, may_end: bool) -> int:
        sampling = self.sampling
        logits = self.planner._logits(stream, state).float()
        guided = guide(logits[0], logits[1], sampling.guidance) if self.guided else logits[0]
        if not may_end:
            guided[self.planner.end] = float("-inf")
        recent = self.ids[stream][-sampling.repetition_window :] if sampling.repetition_window else []
        guided = penalise(guided, recent, sampling.repetition_penalty)
        return draw(guided, sampling, seed=self.seed, stream=_noise_stream(stream), step=frame)

    def _embed(self, step: int) -> Tensor:
        """The input [G, D] of a step: the ids that stand there, and where in the lyrics it is."""
        planner = self.planner
        ids = [planner.end] * len(self.ids)
        for stream, frame in planner.pattern.at(step):
            if frame < len(self.ids[stream]):
                ids[stream] = self.ids[stream][frame]
        device = self.prefix.device
        x = planner._embed(torch.tensor(ids, device=device)[None, :, None])[:, 0].expand(2 if self.guided else 1, -1)
        if self.walk is not None:
            place, age = self.walk.at(step // planner.pattern.stride)
            x = x + planner.at(self.tape[:, place]) + planner.age(age_class(torch.tensor(age, device=device)))
        return x


def _noise_stream(stream: int) -> int:
    """The key of a stream's sampling noise: apart from those of the cursor (1) and of track refiners (2 and 3)."""
    return 0 if stream == 0 else 100 + stream


def _collect(songs: Sequence[_Song], masks: Sequence[Tensor], layout: TokenLayout) -> Plan:
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
