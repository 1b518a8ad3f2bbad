"""Sings candidates and has them judged: the part of `songkit mine` that needs torch, in one process or in several."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from songkit._workers import PickledRecipe, in_order, worker_pool
from songkit.build import build_roles
from songkit.errors import SongkitError
from songkit.evaluate import build_metrics, evaluate, song_audio
from songkit.interfaces.metric import SongMetric
from songkit.interfaces.reward import RewardModel
from songkit.recipe import Recipe
from songkit.request import SongRequest
from songkit.singing import SungSong, check_requests, sing, song_seed
from songkit.song_model import SongModel
from songkit.types import ArrayTrack, Song, TokenLayout

__all__ = ["Made", "Singer", "sing_candidates"]

_log = logging.getLogger(__name__)

Item = tuple[SongRequest, int]
"""A request and the number of a candidate."""


@dataclass(frozen=True)
class Made:
    """A candidate that was sung and judged."""

    row: dict[str, Any]
    """Of candidates.parquet."""
    ids: np.ndarray
    """int64 [K, F]."""
    cursor: np.ndarray | None
    """int64 [F]."""


class Singer:
    """The policy and the judges of a recipe."""

    def __init__(self, recipe: Recipe, policy: str, device: str | None = None) -> None:
        """Builds them.

        Args:
            recipe: With a model, and `metrics` or a `reward`.
            policy: Digest of the model's weights.
            device: Where the model computes, `generate.device` when `None`; the judges do so on the CPU.
        """
        self.recipe, self.policy, self.device = recipe, policy, device
        self.settings = recipe.generate
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        self.model = SongModel.load(recipe, device=device)
        self.metrics: dict[str, SongMetric] = build_metrics(recipe.metrics)
        self.reward: RewardModel | None = None
        if "reward" in recipe.roles:
            # Modules are built in training mode, where dropout would judge by chance.
            self.reward = build_roles(recipe, ["reward"], require_weights=True)["reward"].eval()

    @property
    def layout(self) -> TokenLayout:
        """The planner's streams, then those of the refiner."""
        planned = self.model.planner.layout
        refined = self.model.refiner.layout.streams if self.model.refiner is not None else ()
        return TokenLayout(planned.frame_rate, (*planned.streams, *(s for s in refined if s not in planned.streams)))

    def check(self, requests: Sequence[SongRequest]) -> None:
        """Raises `RequestError` with every fault of requests that the model cannot sing."""
        check_requests(self.model, requests, self.settings)

    def __call__(self, items: Sequence[Item]) -> list[Made]:
        """Sings and judges candidates; one's numbers do not depend on the others."""
        # Each is a request of its own, so that `songkit generate` with its id and the recipe's seed sings it again.
        requests = [dataclasses.replace(request, id=f"{request.id}.{number}") for request, number in items]
        try:
            songs: Sequence[SungSong | str] = list(self._sing(requests))
        except FloatingPointError:  # one song's audio is no numbers; the others are not to suffer for it
            songs = [song for request in requests for song in self._sing_one(request)]
        return [self._made(item, song) for item, song in zip(items, songs, strict=True)]

    def _sing(self, requests: Sequence[SongRequest]) -> Iterator[SungSong]:
        return sing(self.model, requests, seed=self.recipe.seed, settings=self.settings, batch=len(requests))

    def _sing_one(self, request: SongRequest) -> list[SungSong | str]:
        try:
            return list(self._sing([request]))
        except FloatingPointError as error:
            _log.warning("candidate %s was not sung: %s", request.id, error)
            return [f"it was not sung: {error}"]

    def _made(self, item: Item, song: SungSong | str) -> Made:
        request, number = item
        seed = song_seed(self.recipe.seed, f"{request.id}.{number}")
        row: dict[str, Any] = {"request": request.id, "candidate": number, "seed": seed, "policy": self.policy}
        silent = "it ended before its first frame" if not isinstance(song, str) and _frames(song) == 0 else song
        if isinstance(silent, str):
            row |= {"status": "failed", "reason": silent, "frames": 0, "seconds": 0.0, "finished": False}
            return Made(row, np.zeros((len(self.layout), 0), np.int64), None)
        assert not isinstance(song, str)
        frames = _frames(song)
        scores, reasons = self._judge(song)
        row |= {
            "status": "unjudged" if reasons else "ok",
            "reason": "; ".join(reasons),
            "frames": frames,
            "seconds": round(song.seconds, 6),
            "finished": song.finished,
            **scores,
        }
        return Made(row, _ids(song, self.layout, frames), None if song.cursor is None else song.cursor[:frames])

    def _judge(self, sung: SungSong) -> tuple[dict[str, float], list[str]]:
        """Returns the scores of a song, and why any are missing."""
        song = Song(
            id=sung.request.id,
            sections=sung.request.sections,
            description=sung.request.description,
            tier=sung.request.tier,
            tracks={role: ArrayTrack(samples, sung.sample_rate) for role, samples in sung.tracks.items()},
            alignment=sung.alignment,
        )
        scores: dict[str, float] = {}
        reasons: list[str] = []
        if self.metrics:
            # One song at a time: some values of metrics compare a song with its company, which is chance here.
            for cell in evaluate([song], self.metrics).cells:
                numbers = {name: value for name, value in cell.values.items() if not isinstance(value, str)}
                scores |= {f"{cell.metric}.{n}": float(v) for n, v in numbers.items() if math.isfinite(v)}
                broken = [name for name, value in numbers.items() if not math.isfinite(value)]
                if cell.status != "ok" or broken:
                    reasons.append(f"{cell.metric} {cell.reason or f'gave no number for {broken}'}")
        if self.reward is not None:
            try:
                with torch.inference_mode():
                    given = self.reward.score(song_audio(song, list(song.tracks)), [song])[0].tolist()
                aspects = dict(zip(self.reward.aspects, given, strict=True))
                scores |= {f"reward.{aspect}": value for aspect, value in aspects.items() if math.isfinite(value)}
                broken = [aspect for aspect, value in aspects.items() if not math.isfinite(value)]
                reasons += [f"reward gave no number for {broken}"] if broken else []
            except SongkitError as error:
                _log.warning("the reward model failed on candidate %s: %s", song.id, error)
                reasons.append(f"reward {error}")
        return scores, reasons


def sing_candidates(singer: Singer, batches: Sequence[Sequence[Item]], *, workers: int) -> Iterator[list[Made]]:
    """Yields the candidates of each batch in order; with several workers, each builds the recipe's model for itself."""
    if workers == 1:
        yield from map(singer, batches)
        return
    with worker_pool(_start, (PickledRecipe.of(singer.recipe), singer.policy, singer.device), workers) as pool:
        yield from in_order(pool, _sing_here, batches, window=workers + 1)


def _frames(song: SungSong) -> int:
    return min(int(song.codes.lengths[0]), int(song.planned.lengths[0]))


def _ids(song: SungSong, layout: TokenLayout, frames: int) -> np.ndarray:
    """Returns the ids [K, F] of a layout's streams, of which the planner drew some and the refiner the others."""
    own = {(s.track, s.level): ids for s, ids in zip(song.codes.layout.streams, song.codes.ids[0], strict=True)}
    own |= {(s.track, s.level): ids for s, ids in zip(song.planned.layout.streams, song.planned.ids[0], strict=True)}
    rows = [own[stream.track, stream.level][:frames].cpu().numpy() for stream in layout.streams]
    return np.stack(rows).astype(np.int64)


_singer: Singer
"""What a worker process keeps between batches."""


def _start(recipe: PickledRecipe, policy: str, device: str | None) -> None:
    global _singer
    torch.set_num_threads(1)
    _singer = Singer(recipe.open(), policy, device)


def _sing_here(items: Sequence[Item]) -> list[Made]:
    return _singer(items)
