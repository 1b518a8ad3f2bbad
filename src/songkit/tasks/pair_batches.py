"""Batches of mined pairs, as tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from songkit.errors import LayoutError
from songkit.pairs import MinedPairs
from songkit.request import SongRequest
from songkit.types import Codes

__all__ = ["PairBatch", "pair_batch", "pair_order"]

_NAN = float("nan")


@dataclass
class PairBatch:
    """B pairs as 2 B songs: the preferred ones, then the rejected ones in the same order."""

    pairs: Tensor
    """int64 [B], their numbers in the source."""
    requests: list[SongRequest]
    """B of them."""
    codes: Codes
    """Of 2 B songs; `ended` tells which ended by themselves."""
    cursor: Tensor | None
    """int64 [2 B, F]."""
    aspects: dict[str, Tensor]
    """What judges say of the preferred song less what they say of the rejected one, [B] by `judge.value`."""

    def to(self, device: torch.device) -> PairBatch:
        """Returns the batch on a device; the numbers of its pairs stay."""
        codes, ended = self.codes, self.codes.ended
        ended = None if ended is None else ended.to(device)
        return dataclasses.replace(
            self,
            codes=Codes(codes.ids.to(device), codes.lengths.to(device), codes.layout, ended),
            cursor=None if self.cursor is None else self.cursor.to(device),
            aspects={name: value.to(device) for name, value in self.aspects.items()},
        )


def pair_batch(source: MinedPairs, numbers: np.ndarray, *, max_seconds: float = 0.0) -> PairBatch:
    """Reads pairs.

    Args:
        source: Where they are.
        numbers: int64 [B].
        max_seconds: Longer songs are cut here; 0 takes them whole. A cut song has no end.

    Raises:
        LayoutError: If a pair was sung to an audio prompt.
    """
    pairs = [source.pair(int(number)) for number in numbers]
    for number, pair in zip(numbers, pairs, strict=True):
        if pair.request.prompt_audio is not None:
            raise LayoutError(
                f"pair {number} of {source.root} was sung to the audio prompt {pair.request.prompt_audio}, whose codes "
                "are not kept, so it has no probability here. Mine requests without prompts."
            )
    songs = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    frames = np.array([song.ids.shape[1] for song in songs], np.int64)
    lengths = np.minimum(frames, round(max_seconds * source.layout.frame_rate) or frames.max())
    ids = np.zeros((len(songs), len(source.layout), int(lengths.max())), np.int64)
    cursor = np.zeros((len(songs), ids.shape[2]), np.int64)
    for row, (song, length) in enumerate(zip(songs, lengths.tolist(), strict=True)):
        ids[row, :, :length] = song.ids[:, :length]
        if song.cursor is not None:
            cursor[row, :length], cursor[row, length:] = song.cursor[:length], song.cursor[length - 1]
    ended = torch.from_numpy(np.array([song.finished for song in songs]) & (frames == lengths))
    has_cursor = all(song.cursor is not None for song in songs)
    return PairBatch(
        torch.from_numpy(np.asarray(numbers, np.int64)),
        [pair.request for pair in pairs],
        Codes(torch.from_numpy(ids), torch.from_numpy(lengths), source.layout, ended),
        torch.from_numpy(cursor) if has_cursor else None,
        {
            judge: torch.tensor([p.chosen.scores.get(judge, _NAN) - p.rejected.scores.get(judge, _NAN) for p in pairs])
            for judge in dict.fromkeys(judge for song in songs for judge in song.scores)
        },
    )


def pair_order(source: MinedPairs, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns batches of `size` that hold every pair once: drawn at random, eight at a time sorted by length."""
    size = min(size, len(source))
    longest, drawn = source.frames.max(1), rng.permutation(len(source))
    windows = [drawn[first : first + 8 * size] for first in range(0, len(drawn), 8 * size)]
    windows = [window[np.argsort(longest[window], kind="stable")] for window in windows]
    batches = [window[first : first + size] for window in windows for first in range(0, len(window), size)]
    return [batches[i] for i in rng.permutation(len(batches))]
