"""A planner over K streams whose behaviour is a token pattern: LeVo 2's mixed tokens, and what it is compared with.

Positions are [prefix of conditions, steps of the pattern]; the state at a step predicts the next step, for each stream
by a head of its own. The stream that leads the pattern ends the song, and the others catch up with it. A planner may
follow the lyrics by a cursor (`songkit.cursor`), and may learn to predict tokens that it does not plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit._drawn_song import END, NO_FRAME, StreamDrawing, collect
from songkit.cursor import AGES, age_class, frame_ages, move_loss, move_scores
from songkit.decoding import PLACES, Stage, run
from songkit.errors import LayoutError
from songkit.interfaces import Backbone, Planner, Sampling, Tokenizer
from songkit.kernels import linear_rows
from songkit.patterns import Pattern
from songkit.types import Codes, Conditions, Plan, TokenLayout
from songkit.vocabulary import beside, placed

__all__ = ["StreamPlanner", "start_alike"]

_IMPOSSIBLE = -1e4
"""A logit whose exponential is 0 in every dtype, and whose difference from another of its kind is not NaN."""


class StreamPlanner(Planner):
    """A causal tower over the steps of a pattern.

    One table and one head hold the rows of all streams, for each its ids and one more: as an input this row says that
    a stream has no frame at the step, as an output that the song has ended.
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
        tail: int = 0,
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
            tail: Steps that it runs on after a song, for refiners that run behind it. The table has one row more then:
                a song that ended by itself is told so, once, on the first of these steps.

        Raises:
            LayoutError: If the streams do not fit the pattern.
        """
        super().__init__()
        if len(pattern.offsets) != len(layout) or min(pattern.offsets) != 0:
            raise LayoutError(f"{pattern} does not fit the {len(layout)} streams {layout}: one of them must lead by 0")
        self.layout, self._pattern, self.tower, self.width = layout, pattern, tower, tower.width
        self._auxiliary = dict(auxiliary or {})
        self.auxiliary = tuple(self._auxiliary)
        self.cursor_steps, self._cursor_weight, self.tail = cursor_steps, cursor_weight, tail
        self._sizes = [stream.size for stream in layout.streams]
        self._starts = [sum(self._sizes[:k]) + k for k in range(len(layout))]
        rows = sum(self._sizes) + len(layout)
        self.embed = nn.Embedding(rows + (tail > 0), self.width)
        self.head = nn.Linear(self.width, rows, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if cursor_steps:
            self.at = nn.Linear(self.width, self.width)
            self.age = nn.Embedding(AGES, self.width)
            self.move = nn.Linear(self.width, cursor_steps + 1)
            nn.init.normal_(self.age.weight, std=0.02)
        if self._auxiliary:
            rows = len(self._auxiliary) * sum(self._level_sizes())
            self.beside = nn.Linear(self.width, rows, bias=False)
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
            A plan with logits [B, K, F + 1, V + 1], V the largest vocabulary: the last frame and the last id are for
            the end of song.

        Raises:
            LayoutError: If the planner follows lyrics and the conditions have no cursor.
        """
        plan, predicting, _ = self._taught(codes, conditions)
        logits = torch.stack([self._widened(k, self.logits(k, x)) for k, x in enumerate(predicting)], 1)
        return replace(plan, logits=logits)

    def score(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced without the logits of all ids at once; a cursor's moves are a stream of their own."""
        plan, predicting, moves = self._taught(codes, conditions)
        tables = [self.head.weight[self._rows(k)] for k in range(len(predicting))]
        scores = placed(predicting, tables, plan.codes)
        if moves is not None:
            assert conditions.cursor is not None
            scores = beside(scores, move_scores(moves, conditions.cursor, plan.codes.lengths))
        return replace(plan, scores=scores)

    def _taught(self, codes: Codes, conditions: Conditions) -> tuple[Plan, list[Tensor], Tensor | None]:
        """Returns a plan without logits, the states [B, F + 1, D] before each stream's ids, and the moves' logits."""
        own = codes.arrange(self.layout)
        frames, stride = own.ids.shape[2], self.pattern.stride
        known = own.lengths
        if own.overrun and own.ended is not None:
            if self.tail:
                raise LayoutError("this planner goes on for some steps after the end of a song: songs cannot overrun")
            known = known + own.overrun * own.ended
        beyond = torch.arange(frames, device=own.ids.device) >= known[:, None, None]
        steps = self.pattern.apply(own.ids.masked_fill(beyond, NO_FRAME), NO_FRAME)
        length = self.states_of(frames)
        steps = functional.pad(steps, (0, length - steps.shape[2]), value=NO_FRAME)
        if self.tail and own.ended is not None:
            songs = own.ended.nonzero()[:, 0]
            steps[songs, self.pattern.lead, 1 + stride * own.lengths[songs]] = END
        x = self.embed_steps(steps)
        losses, moves = {}, None
        if self.cursor_steps:
            cursor, tape = conditions.cursor, conditions.tape
            if cursor is None or tape is None:
                raise LayoutError("this planner follows the lyrics: the conditions need a tape and a cursor")
            x = x + self._lyrics(tape, cursor, length)
        prefix = conditions.prefix.shape[1]
        mask = functional.pad(conditions.mask, (0, length), value=True)
        x = torch.cat([conditions.prefix, x], 1)
        if conditions.repeats > 1:
            hidden = self.tower.forward_repeated(x, mask, prefix=prefix, repeats=conditions.repeats)
        else:
            hidden = self.tower(x, mask)
        states = hidden[:, prefix:]
        if self.cursor_steps:
            assert conditions.cursor is not None
            moves = self.move(states[:, : stride * (frames - 1) : stride])
            losses["cursor"] = self._cursor_weight * move_loss(moves, conditions.cursor, own.lengths, conditions.due)
        predicting = [states[:, offset::stride][:, : frames + 1] for offset in self.pattern.offsets]
        losses |= self._beside_losses(predicting, codes, conditions)
        return Plan(own, hidden, mask, cursor=conditions.cursor, losses=losses), predicting, moves

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
        """Draws songs; one that follows the lyrics ends only after a frame on their last token."""
        drawing = self.drawing(sampling=sampling, max_frames=max_frames)
        songs = [drawing.add(conditions, index, seed) for index, seed in enumerate(seeds)]
        for _ in run(Stage(drawing, songs, places=min(PLACES, len(songs)))):
            if progress is not None:
                progress(sum(len(song.ids[self.pattern.lead]) for song in drawing.songs))
        return collect(drawing.songs, self.layout)

    def drawing(self, *, sampling: Sampling, max_frames: int) -> StreamDrawing:
        """Returns what draws songs that are added to it; a refiner may follow while it does."""
        return StreamDrawing(self, sampling, max_frames)

    def embed_steps(self, steps: Tensor) -> Tensor:
        """Sums the embeddings of all streams: ids [B, K, S], or `NO_FRAME` or `END`, to [B, S, D]."""
        rows = []
        for k, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            row = torch.where(steps[:, k] == NO_FRAME, start + size, start + steps[:, k])
            rows.append(torch.where(steps[:, k] == END, self.embed.num_embeddings - 1, row))
        return self.embed_rows(torch.stack(rows, 1))

    def embed_rows(self, rows: Tensor) -> Tensor:
        """Sums rows [B, K, ...] of the table to [B, ..., D]."""
        first, *others = rows.unbind(1)
        x = self.embed(first)
        for row in others:
            x = x + self.embed(row)
        return x

    def row(self, stream: int, i: int) -> int:
        """Returns which row of the table an id of a stream is, or `NO_FRAME` or `END`; as `embed_steps` does."""
        if i == END:
            return self.embed.num_embeddings - 1
        return self._starts[stream] + (self._sizes[stream] if i == NO_FRAME else i)

    def states_of(self, frames: int) -> int:
        """Returns how many steps there are up to the state that predicts the end of the last stream, and the tail."""
        return 1 + self.pattern.stride * frames + max(self.pattern.offsets) + self.tail

    def logits(self, stream: int, states: Tensor, guidance: float = 1.0) -> Tensor:
        """Returns the logits [..., V + 1] of a stream, of the states [..., D] before its steps.

        With guidance, states are [N, 2, D], and the logits, [N, V + 1], those of `songkit.sampling.guide`.
        """
        return linear_rows(self.head, states, self._rows(stream), guidance)

    def _rows(self, stream: int) -> slice:
        return slice(self._starts[stream], self._starts[stream] + self._sizes[stream] + 1)

    def _widened(self, stream: int, logits: Tensor) -> Tensor:
        """Puts impossible ids between a stream's own and the end of song, up to the largest vocabulary."""
        missing = max(self._sizes) - self._sizes[stream]
        if not missing:
            return logits
        *ids, end = logits.split([self._sizes[stream], 1], -1)
        return torch.cat([*ids, logits.new_full((*logits.shape[:-1], missing), _IMPOSSIBLE), end], -1)

    def _level_sizes(self) -> list[int]:
        return self._sizes[: len(self.layout) // len(self.layout.tracks)]

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

    def _beside_losses(self, predicting: Sequence[Tensor], codes: Codes, conditions: Conditions) -> dict[str, Tensor]:
        """Cross-entropy of the auxiliary tracks that the codes have, read from the states of this planner's levels."""
        losses = {}
        inside = torch.arange(codes.ids.shape[2], device=codes.ids.device) < codes.lengths[:, None]
        if conditions.due is not None:
            inside = inside & (conditions.due == conditions.cursor)
        sizes = self._level_sizes()
        for number, (track, weight) in enumerate(self._auxiliary.items()):
            if track not in codes.layout.tracks:
                continue  # generation and refiners run without it; TrainPlanner insists on it
            parts = []
            for level, size in enumerate(sizes):
                first = number * sum(sizes) + sum(sizes[:level])
                logits = functional.linear(predicting[level][:, :-1], self.beside.weight[first : first + size])
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
