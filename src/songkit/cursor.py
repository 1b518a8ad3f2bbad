"""Where in the lyrics a song is, frame by frame: what planners with a cursor are told, and how it moves on.

With 10^5 hours of music attention finds by itself which word is being sung; with ten hours it does not, and a model
babbles. A cursor along the lyrics' tokens tells it, and is predicted along with the codes: see the page on the
miniature in docs/explanation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from songkit.interfaces.planner import Sampling
from songkit.sampling import draw_rows
from songkit.types import TokenScores

__all__ = ["AGES", "NOISE_STREAM", "Walk", "age_class", "draw_moves", "frame_ages", "move_loss", "move_scores"]

AGES = 64
"""Classes of how long a cursor has stood still."""

NOISE_STREAM = 1
"""The cursor's key of sampling noise."""


class Walk:
    """The cursor of one song while it is being drawn."""

    def __init__(self, last: int) -> None:
        """Stands on the first of `last + 1` lyrics tokens."""
        self.last = last
        self.places: list[int] = [0]
        """The token at each frame so far, and at the next one."""
        self.ages: list[int] = [0]
        """For how many frames it has stood there."""

    def arrived(self, frames: int = 1) -> bool:
        """Whether some frames were sung on the last token, at least one: no song ends before that was taught."""
        return self.places[-1] >= self.last and self.ages[-1] >= max(1, frames)

    def at(self, frame: int) -> tuple[int, int]:
        """Returns token and age at a frame; frames that are not known yet are where the last known one is."""
        frame = min(frame, len(self.places) - 1)
        return self.places[frame], self.ages[frame]

    @property
    def room(self) -> int:
        """How many tokens there are up to the last one."""
        return self.last - self.places[-1]

    def move(self, step: int) -> None:
        """Moves on by some tokens after a frame."""
        self.places.append(self.places[-1] + step)
        self.ages.append(0 if step else self.ages[-1] + 1)


def draw_moves(walks: Sequence[Walk], logits: Tensor, *, seeds: Sequence[int], frames: Sequence[int]) -> None:
    """Draws how far each of N walks moves on after a frame, of logits [N, moves], never beyond its last token."""
    logits = logits.float()
    room = torch.tensor([walk.room for walk in walks], device=logits.device)
    beyond = torch.arange(logits.shape[1], device=logits.device) > room[:, None]
    steps = draw_rows(
        logits.masked_fill(beyond, float("-inf")), _FREELY, seeds=seeds, stream=NOISE_STREAM, steps=frames
    )
    for walk, step in zip(walks, steps, strict=True):
        walk.move(step)


_FREELY = Sampling(temperature=1.0, top_k=0)


def move_loss(logits: Tensor, cursor: Tensor, lengths: Tensor, due: Tensor | None = None) -> Tensor:
    """Cross-entropy of a cursor's moves: logits [B, F - 1, moves] at frame f predict the move to frame f + 1.

    Moves lead to where the cursor is due, by default to where it is. Due nowhere (-1), it stays.
    """
    moves = ((cursor if due is None else due)[:, 1:] - cursor[:, :-1]).clamp(0, logits.shape[2] - 1)
    inside = torch.arange(moves.shape[1], device=moves.device) + 1 < lengths[:, None]
    return functional.cross_entropy(logits.float().transpose(1, 2), moves.masked_fill(~inside, -100))


def move_scores(logits: Tensor, cursor: Tensor, lengths: Tensor) -> TokenScores:
    """How likely a cursor's moves are; as `move_loss`, with one stream `cursor` and a place for each of F frames."""
    moves = (cursor[:, 1:] - cursor[:, :-1]).clamp(0, logits.shape[2] - 1)
    counted = torch.arange(moves.shape[1], device=moves.device) + 1 < lengths[:, None]
    nats = torch.log_softmax(logits.float(), -1)
    found = nats.gather(2, moves[:, :, None])[..., 0]
    likeliest = (found >= nats.amax(2)) & counted
    return TokenScores(found.where(counted, 0.0)[:, None], counted[:, None], likeliest[:, None], ("cursor",))


def frame_ages(cursor: Tensor) -> Tensor:
    """For how many frames the cursor [B, F] has stood still, int64 [B, F]."""
    index = torch.arange(cursor.shape[1], device=cursor.device).expand_as(cursor)
    moved = functional.pad(cursor[:, 1:] != cursor[:, :-1], (1, 0), value=True)
    return index - torch.where(moved, index, 0).cummax(1).values


def age_class(ages: Tensor) -> Tensor:
    """Ages to classes: each frame up to 31, then steps of a ninth."""
    late = 32 + (torch.log2(ages.clamp(min=32).float() / 32) * 6).long()
    return torch.where(ages < 32, ages, late).clamp(max=AGES - 1)
