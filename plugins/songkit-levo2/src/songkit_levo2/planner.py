"""The Mixed Semantic LM: plans the mixed tokens of a song.

Positions are [prefix of conditions, empty step, frames]; the state at a step predicts the next frame, as in the
released model. What the miniature adds is a cursor along the lyrics: at each frame the planner is told which lyrics
token is being sung and for how long already, and predicts how far to move on. With 10^5 hours of music attention finds
this alignment by itself; with ten hours it does not, and the model babbles (docs/explanation/miniature.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.decoding import run_songs
from songkit.errors import LayoutError
from songkit.interfaces import Backbone, Planner, Sampling, Tokenizer
from songkit.sampling import draw, guide, penalise
from songkit.types import Codes, Conditions, Plan, Stream, TokenLayout
from songkit_levo2.configs import MixedLMConfig

__all__ = ["MixedLM", "build", "pair_rows", "start_alike"]


def build(config: MixedLMConfig, *, tower: Backbone) -> MixedLM:
    """Makes the planner with random weights."""
    return MixedLM(config, tower)


class MixedLM(Planner):
    """A causal tower over mixed tokens. The end of song has the id `codebook_size`."""

    def __init__(self, config: MixedLMConfig, tower: Backbone) -> None:
        super().__init__()
        self.config, self.tower, self.width = config, tower, tower.width
        self.layout = TokenLayout(config.frame_rate, (Stream("mix", 0, config.codebook_size),))
        self.end = config.codebook_size
        self.embed = nn.Embedding(config.codebook_size + 1, self.width)  # the last row is the empty step
        self.head = nn.Linear(self.width, config.codebook_size + 1, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if config.cursor:
            self.at = nn.Linear(self.width, self.width)
            self.age = nn.Embedding(_AGES, self.width)
            self.move = nn.Linear(self.width, config.cursor_steps + 1)
            nn.init.normal_(self.age.weight, std=0.02)

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Starts embeddings and head where codes that sound alike are alike, if the tokenizer tells its codes."""
        start_alike(tokenizer, "mix", self.embed.weight, self.head.weight)

    def forward(self, codes: Codes, conditions: Conditions) -> Plan:
        """Runs teacher-forced. `logits` [B, 1, F + 1, V + 1]: the last frame and the last id are for the end of song.

        Raises:
            LayoutError: If the planner follows lyrics and the conditions have no cursor.
        """
        ids = codes.select(("mix",)).ids[:, 0]
        steps = torch.cat([torch.full_like(ids[:, :1], self.end), ids], 1)  # [B, S], S = F + 1
        x = self.embed(steps)
        losses = {}
        if self.config.cursor:
            cursor, tape = conditions.cursor, conditions.tape
            if cursor is None or tape is None:
                raise LayoutError("this planner follows the lyrics: the conditions need a tape and a cursor")
            x = x + self._lyrics(tape, cursor)
        prefix = conditions.prefix.shape[1]
        mask = functional.pad(conditions.mask, (0, x.shape[1]), value=True)
        hidden = self.tower(torch.cat([conditions.prefix, x], 1), mask)
        if self.config.cursor:
            assert conditions.cursor is not None
            losses["cursor"] = self.config.cursor_weight * self._move_loss(
                hidden[:, prefix:], conditions.cursor, codes.lengths
            )
        logits = self.head(hidden[:, prefix:])[:, None]
        return Plan(codes.select(("mix",)), hidden, mask, logits=logits, cursor=conditions.cursor, losses=losses)

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
        """Draws mixed tokens; a song may end only when its cursor has reached the last lyrics token."""
        songs = [_Song(self, conditions, i, seeds[i], sampling) for i in range(len(conditions.prefix))]
        done = [0]

        def advance(index: int, step: int, states: Tensor) -> Tensor | None:
            song = songs[index]
            following = song.advance(states, max_frames)
            done[0] += int(following is not None)
            if progress is not None:
                progress(done[0])
            return following

        prefixes = []
        for song in songs:
            first = song.embed(self.end)
            mask = functional.pad(song.mask, (0, 1), value=True)
            prefixes.append((torch.cat([song.prefix, first[:, None]], 1), mask))
        run_songs(self.tower, prefixes, advance, steps=[max_frames] * len(songs))
        return _collect(songs, [m for _, m in prefixes], self.layout)

    def _lyrics(self, tape: Tensor, cursor: Tensor) -> Tensor:
        """What each step is told of the lyrics, [B, S, D] with S = F + 1, of a tape [B, L, D] and a cursor [B, F].

        Step s tells where frame s is; the last step, which predicts the end of song, stays where the last frame was.
        """
        cursor = torch.cat([cursor, cursor[:, -1:]], 1)
        here = tape.gather(1, cursor[:, :, None].expand(-1, -1, tape.shape[2]))
        return self.at(here) + self.age(_age_class(_ages(cursor)))

    def _move_loss(self, hidden: Tensor, cursor: Tensor, lengths: Tensor) -> Tensor:
        """Cross-entropy of the cursor's moves: the state at step s (frame s) predicts the move to frame s + 1."""
        moves = (cursor[:, 1:] - cursor[:, :-1]).clamp(0, self.config.cursor_steps)
        inside = torch.arange(moves.shape[1], device=moves.device) + 1 < lengths[:, None]
        logits = self.move(hidden[:, : moves.shape[1]]).float()
        return functional.cross_entropy(logits.transpose(1, 2), moves.masked_fill(~inside, -100))


class _Song:
    """One song while it is being drawn."""

    def __init__(self, planner: MixedLM, conditions: Conditions, index: int, seed: int, sampling: Sampling) -> None:
        self.planner, self.seed, self.sampling = planner, seed, sampling
        self.prefix, self.mask = pair_rows(conditions, index, sampling.guidance)
        self.guided = sampling.guidance != 1.0
        self.ids: list[int] = []
        self.cursor: list[int] = [0]
        self.age = 0
        self.states: list[Tensor] = []
        self.finished = False
        if planner.config.cursor:
            tapes, lengths = [conditions.tape], conditions.tape_lengths
            if conditions.null is not None and self.guided:
                tapes.append(conditions.null.tape)
            if lengths is None or any(tape is None for tape in tapes):
                raise LayoutError("this planner follows the lyrics: the conditions need a tape")
            self.tape = torch.stack([tape[index] for tape in tapes if tape is not None])  # [G, L, D]
            self.last = int(lengths[index]) - 1

    def embed(self, previous: int) -> Tensor:
        """The input [G, D] of the next step, after the id `previous`."""
        planner = self.planner
        x = planner.embed.weight[previous].expand(2 if self.guided else 1, -1)
        if planner.config.cursor:
            age = _age_class(torch.tensor(self.age, device=x.device))
            x = x + planner.at(self.tape[:, self.cursor[-1]]) + planner.age(age)
        return x

    def advance(self, states: Tensor, max_frames: int) -> Tensor | None:
        """Draws the next frame of states [G, P, D] (first) or [G, D]; returns the next input or `None` at the end."""
        self.states.append(states)
        state = states[:, -1] if states.dim() == 3 else states
        planner, sampling, frame = self.planner, self.sampling, len(self.ids)
        if frame >= max_frames:
            return None
        logits = planner.head(state).float()
        guided = guide(logits[0], logits[1], sampling.guidance) if self.guided else logits[0]
        if frame == 0 or (planner.config.cursor and self.cursor[-1] < self.last):
            guided[planner.end] = float("-inf")
        recent = self.ids[-sampling.repetition_window :] if sampling.repetition_window else []
        guided = penalise(guided, recent, sampling.repetition_penalty)
        drawn = draw(guided, sampling, seed=self.seed, stream=0, step=frame)
        if drawn == planner.end:
            self.finished = True
            return None
        self.ids.append(drawn)
        if planner.config.cursor:
            self._move(state[0], frame)
        return self.embed(drawn)

    def _move(self, state: Tensor, frame: int) -> None:
        logits = self.planner.move(state).float()
        logits[self.last - self.cursor[-1] + 1 :] = float("-inf")  # never beyond the last token
        move = draw(logits, Sampling(temperature=1.0, top_k=0), seed=self.seed, stream=1, step=frame)
        self.cursor.append(self.cursor[-1] + move)
        self.age = 0 if move else self.age + 1


def pair_rows(conditions: Conditions, index: int, guidance: float) -> tuple[Tensor, Tensor]:
    """Returns the prefix [G, P, D] and mask [G, P] of one song, without the padding that its batch brought.

    Raises:
        LayoutError: If guidance is asked for and the conditions have no null branch.
    """
    branches = [conditions]
    if guidance != 1.0:
        if conditions.null is None:
            raise LayoutError("guidance needs conditions with a null branch: call the conditioner with null=True")
        branches.append(conditions.null)
    parts = [(c.prefix[index][c.mask[index]]) for c in branches]
    longest = max(len(p) for p in parts)
    prefix = torch.stack([functional.pad(p, (0, 0, longest - len(p), 0)) for p in parts])
    lengths = torch.tensor([len(p) for p in parts], device=prefix.device)
    return prefix, torch.arange(longest, device=prefix.device) >= longest - lengths[:, None]


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


def _collect(songs: list[_Song], masks: list[Tensor], layout: TokenLayout) -> Plan:
    """Puts drawn songs into one plan: prefixes end at the same position, steps begin there."""
    device = masks[0].device
    lengths = torch.tensor([len(s.ids) for s in songs], device=device)
    frames = int(lengths.max())
    ids = torch.tensor([s.ids + [0] * (frames - len(s.ids)) for s in songs], device=device)[:, None]
    # A song may have one cursor more than frames: the frame that was not drawn any more.
    rows = [s.cursor[: len(s.ids)] for s in songs]
    cursor = torch.tensor([r + r[-1:] * (frames - len(r)) for r in rows], device=device)
    prefix = max(m.shape[1] for m in masks) - 1
    hidden, mask = [], []
    for song, song_mask in zip(songs, masks, strict=True):
        first, *rest = song.states
        states = torch.cat([first, *(s[:, None] for s in rest)], 1)[:, : song_mask.shape[1] + len(song.ids)]
        own = functional.pad(song_mask, (0, len(song.ids)), value=True)
        left, right = prefix + 1 - song_mask.shape[1], frames - len(song.ids)
        hidden.append(functional.pad(states, (0, 0, left, right)))
        mask.append(functional.pad(own, (left, right), value=False))
    states, masks_all = torch.stack(hidden), torch.stack(mask)  # [B, G, P + S, D]
    guided = states.shape[1] > 1
    return Plan(
        Codes(ids, lengths, layout),
        states[:, 0],
        masks_all[:, 0],
        hidden_null=states[:, 1] if guided else None,
        mask_null=masks_all[:, 1] if guided else None,
        cursor=cursor,
        finished=torch.tensor([s.finished for s in songs], device=device),
    )


_AGES = 64


def _ages(cursor: Tensor) -> Tensor:
    """For how many frames the cursor [B, S] has stood still, int64 [B, S]."""
    index = torch.arange(cursor.shape[1], device=cursor.device).expand_as(cursor)
    moved = functional.pad(cursor[:, 1:] != cursor[:, :-1], (1, 0), value=True)
    return index - torch.where(moved, index, 0).cummax(1).values


def _age_class(ages: Tensor) -> Tensor:
    """Ages to classes: each frame up to 31, then steps of a ninth."""
    late = 32 + (torch.log2(ages.clamp(min=32).float() / 32) * 6).long()
    return torch.where(ages < 32, ages, late).clamp(max=_AGES - 1)
