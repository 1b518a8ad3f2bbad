"""Batches of tokenised songs, for the tasks that train on codes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from songkit.components.prepared import PreparedSource
from songkit.errors import LayoutError, RecipeError
from songkit.fit import layout_reasons, prompt_reasons
from songkit.interfaces import Conditioner, Planner, Tokenizer, TrackRefiner
from songkit.request import SongRequest
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.tasks.base import Task
from songkit.types import TIERS, Codes, Conditions, TokenLayout

__all__ = ["SongBatch", "SongTask", "lingering"]


@dataclass
class SongBatch:
    """Songs from their beginning, with what was asked for and where in the lyrics they are."""

    requests: list[SongRequest]
    codes: Codes
    complete: Tensor
    """bool [B], whether a song is whole; a cut one has no end to learn."""
    cursor: Tensor | None
    """int64 [B, F], the lyrics token of each frame."""
    prompts: list[Codes | None]
    due: Tensor | None = None
    """int64 [B, F], the lyrics token that each frame should be at, where a cursor lingers."""

    def to(self, device: torch.device) -> SongBatch:
        """Returns the batch on a device; prompts stay, the conditioner moves what it embeds."""
        codes = replace(self.codes, ids=self.codes.ids.to(device), lengths=self.codes.lengths.to(device))
        cursor, due = (None if x is None else x.to(device) for x in (self.cursor, self.due))
        return SongBatch(self.requests, codes, self.complete.to(device), cursor, self.prompts, due)


class SongTask(Task):
    """A task on prepared codes. Batches hold songs of similar length."""

    unit = "frames"

    def __init__(
        self,
        config: Any,
        *,
        conditioner: Conditioner,
        data: PreparedSource,
        validation: PreparedSource | None = None,
        settings: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int,
    ) -> None:
        super().__init__(settings=settings, optimizer=optimizer, seed=seed)
        self.config, self.conditioner = config, conditioner
        if config.grow_from is not None and settings.max_steps is None:
            raise RecipeError(
                f"task.grow_from is {config.grow_from}, and trainer.max_steps is null: songs grow over the steps of a "
                "run. Give trainer.max_steps too; trainer.max_minutes may still end the run before."
            )
        self._data, self._validation = data, validation
        self._orders = {id(s): np.argsort(s.frames, kind="stable") for s in (data, validation) if s is not None}
        self._known: dict[tuple[int, int], tuple[SongRequest, np.ndarray | None]] = {}

    def adopt(self, part: Planner | TrackRefiner, codec: Tokenizer | None) -> None:
        """Starts a planner or refiner from what a codec tells of its codes, unless its weights came from a file."""
        if codec is not None and not getattr(part, "weights_loaded", False):
            part.adopt(codec)  # before any training: a resumed task overwrites it with its own weights

    def check_layout(self, layout: TokenLayout, name: str, auxiliary: Sequence[str] = ()) -> TokenLayout:
        """Checks that the data have the streams that a part needs, and all streams of auxiliary tracks.

        Returns:
            The layout of both together.

        Raises:
            LayoutError: With every reason why they do not.
        """
        reasons = []
        for source in filter(None, (self._data, self._validation)):
            where = f"data of {source.root}"
            reasons += layout_reasons(name, layout, where, source.layout)
            reasons += prompt_reasons(self.conditioner, where, source.layout)
            missing = [track for track in auxiliary if track not in source.layout.tracks]
            reasons += [f"tracks: the {name} learns to predict {t}; the {where} have {source.layout}" for t in missing]
        if reasons:
            listed = "\n".join(f"- {reason}" for reason in dict.fromkeys(reasons))
            raise LayoutError(f"the prepared codes do not fit:\n{listed}\nPrepare them with the codec of this recipe.")
        beside = self._data.layout.select(auxiliary).streams
        return TokenLayout(layout.frame_rate, (*layout.streams, *beside))

    def batch(self, step: int) -> SongBatch:
        """Songs for one step."""
        rate = self._data.layout.frame_rate
        overrun, linger = (round(s * rate) for s in (self.config.overrun_seconds, self.config.linger_seconds))
        return self._songs(self._data, self.rng(step), self._longest(step), overrun, linger)

    def items(self, batch: SongBatch) -> float:
        """Frames in a batch."""
        return float(batch.codes.lengths.sum())

    def named(self, batch: SongBatch) -> str:
        """The songs' ids."""
        return ", ".join(request.id for request in batch.requests)

    def validate_step(self, step: int) -> dict[str, float]:
        """Mean losses over fixed batches of the validation songs."""
        if self._validation is None:
            return {}
        validation, longest = self._require_validation(), float(self.config.max_seconds)
        return self.mean_losses(lambda i: self._songs(validation, self.rng(2**31 + i), longest))

    def mean_losses(self, batch_of: Callable[[int], SongBatch]) -> dict[str, float]:
        """Means of the losses over `validate_batches` batches."""
        sums: dict[str, list[float]] = {}
        for i in range(self.settings.validate_batches):
            with self.autocast():
                losses = self.losses(batch_of(i).to(self.device), torch.Generator(self.device).manual_seed(i))
            for name, value in losses.items():
                sums.setdefault(name.lstrip("_"), []).append(float(value))
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def conditions(self, batch: SongBatch, generator: torch.Generator, side: str = "planner") -> Conditions:
        """Conditions of a batch, with its cursor."""
        conditions: Conditions = self.conditioner(batch.requests, prompts=batch.prompts, side=side, generator=generator)
        conditions.cursor, conditions.due = batch.cursor, batch.due
        return conditions

    def _require_validation(self) -> PreparedSource:
        assert self._validation is not None
        return self._validation

    def _longest(self, number: int) -> float:
        """Returns where the songs of a batch are cut, in seconds."""
        config, steps = self.config, self.settings.max_steps
        if config.grow_from is None or steps is None:
            return float(config.max_seconds)
        grown = min(1.0, number / (self.settings.accumulate * steps * config.grow_until))
        return float(config.grow_from + grown * (config.max_seconds - config.grow_from))

    def _songs(
        self, data: PreparedSource, rng: np.random.Generator, longest: float, overrun: int = 0, linger: int = 0
    ) -> SongBatch:
        size = min(self.settings.batch_size, len(data))
        # Neighbours in length, four times as many as needed: little padding, yet never the same company twice.
        window = min(4 * size, len(data))
        first = int(rng.integers(len(data) - window + 1))
        chosen = self._orders[id(data)][first + rng.permutation(window)[:size]].tolist()
        limit = max(1, round(longest * data.layout.frame_rate))
        whole = data.frames[chosen] <= limit
        rows, requests, prompts, aligned = [], [], [], False
        for index, ends in zip(chosen, whole.tolist(), strict=True):
            codes = data.codes(index)
            length = min(codes.shape[1], limit)
            order = np.arange(length)
            request, where = self._request(data, index)
            aligned = aligned or where is not None
            cursor = due = np.zeros(length, np.int64) if where is None else where[:length]
            after = order[:0]
            if linger:
                order, cursor, due = lingering(cursor, linger, rng, ends=ends)
            if overrun and ends:
                part = (int(rng.integers(length)) + np.arange(overrun)) % length
                after = order[_again(cursor, len(order), overrun, rng)] if linger else part
            rows.append((codes[:, order], codes[:, after], cursor, due))
            requests.append(request)
            prompts.append(self._prompt(data, codes, rng))
        lengths = np.array([len(cursor) for _, _, cursor, _ in rows])
        ids = np.zeros((size, len(data.layout), int(lengths.max()) + overrun), np.int64)
        cursors = np.zeros((2, size, ids.shape[2]), np.int64)
        for row, (sung, after, *places) in enumerate(rows):
            ids[row, :, : lengths[row]] = sung
            ids[row, :, lengths[row] : lengths[row] + after.shape[1]] = after
            cursors[:, row] = places[0][-1]
            cursors[:, row, : lengths[row]] = places
        return SongBatch(
            requests,
            Codes(torch.from_numpy(ids), torch.from_numpy(lengths.astype(np.int64)), data.layout, overrun=overrun),
            torch.from_numpy(whole),
            torch.from_numpy(cursors[0]) if aligned else None,
            prompts,
            torch.from_numpy(cursors[1]) if aligned and linger else None,
        )

    def _prompt(self, data: PreparedSource, codes: np.ndarray, rng: np.random.Generator) -> Codes | None:
        length = round(self.config.prompt_seconds * data.layout.frame_rate)
        start = int(rng.integers(max(1, codes.shape[1] - length)))
        if rng.random() >= self.config.prompt_share or codes.shape[1] <= length:
            return None
        part = torch.from_numpy(codes[:, start : start + length].astype(np.int64))[None]
        return Codes(part, torch.tensor([length]), data.layout)

    def _request(self, data: PreparedSource, index: int) -> tuple[SongRequest, np.ndarray | None]:
        key = (id(data), index)
        if key not in self._known:
            song = data[index]
            # A number of the song's id takes each tier in turn.
            told = song.tier if self.config.tiers else TIERS[zlib.crc32(song.id.encode()) % len(TIERS)]
            request = SongRequest.of(replace(song, tier=told))
            where = None
            if song.alignment is not None:
                frames, rate = int(data.frames[index]), data.layout.frame_rate
                where = self.conditioner.cursor(request, song.alignment, frames, rate)
            self._known[key] = (request, where)
        return self._known[key]


def lingering(
    cursor: np.ndarray, longest: int, rng: np.random.Generator, *, ends: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Has a cursor stand still for too long at one place, over frames that repeat what is sung there.

    Places are drawn by their lengths: a section without words is as likely as all phones of as long a verse. What comes
    after the last place is the end of the song. So there nothing is put in, but all from some frame on is what was sung
    before, and the song is over when it should be.

    Args:
        cursor: int64 [F], the lyrics token of each frame.
        longest: At most so many frames are put in, at least one.
        rng: Draws where, and how many.
        ends: Whether the song ends after the last frame: it lingers at its last place then in a quarter of all draws.

    Returns:
        Which frame stands at each of the places, int64 [F + n]; the cursor there; and where it should be, which is
        nowhere (-1) at the last place. Nothing happens where a cursor never moves.
    """
    order = np.arange(len(cursor))
    moves = np.flatnonzero(np.diff(cursor)) + 1
    if not len(moves):
        return order, cursor, cursor
    if ends and rng.random() < _AT_THE_END and moves[-1] + 1 < len(cursor):
        at = int(rng.integers(moves[-1] + 1, len(cursor)))
        order[at:] = _again(cursor, at, len(cursor) - at, rng)
        return order, cursor, np.where(np.arange(len(cursor)) < at, cursor, -1)
    at = int(moves[np.searchsorted(moves, rng.integers(moves[-1]), side="right")])
    more = int(rng.integers(1, longest + 1))
    order = np.concatenate([order[:at], _again(cursor, at, more, rng), order[at:]])
    due = cursor[order]
    due[at : at + more] = cursor[at]
    return order, cursor[order], due


_AT_THE_END = 0.25  # far above its length: a missed move is one of hundreds, but each song has only one end to miss


def _again(cursor: np.ndarray, end: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the frames [frames] that repeat what was sung before `end` on the token that was sung last.

    From one frame, as of a held note or silence, to all of the token, and lengths of each order as likely: a model that
    waits may do either.
    """
    sung = end - int(np.searchsorted(cursor, cursor[end - 1]))
    part = round(sung ** rng.random())
    return end - part + np.arange(frames) % part
