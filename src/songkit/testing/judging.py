"""Songs as metrics and rewards are given them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from songkit.testing import samples
from songkit.types import TRACKS, Audio, Song

if TYPE_CHECKING:  # it brings in torchmetrics, which takes seconds
    from songkit.interfaces.metric import SongMetric

__all__ = ["heard", "judge", "update", "whole_songs"]

_RATE = 16_000


def judge(metric: SongMetric, numbers: Iterable[int], *, bare: bool = False) -> SongMetric:
    """Has a metric judge songs one by one; `bare` ones hold nothing but what the metric needs."""
    for number in numbers:
        update(metric, [number], bare=bare)
    return metric


def update(metric: SongMetric, numbers: list[int], *, bare: bool = False) -> None:
    """Has a metric judge a batch of songs."""
    metric.update(*heard(metric, numbers, bare=bare))


def heard(metric: SongMetric, numbers: list[int], *, bare: bool) -> tuple[Audio, list[Song], Audio | None]:
    """Returns audio, songs and, if needed, references of a batch; `bare` is nothing but what the metric needs."""
    songs = [samples.song(number, sample_rate=_RATE) for number in numbers]
    told = metric.info.needs
    wanted = [track for track in TRACKS if not bare or track in told] or list(TRACKS)
    audio = _batched(songs, wanted)
    reference = _batched(songs, wanted) if "reference" in told else None
    return audio, [samples.without(song, told) for song in songs] if bare else songs, reference


def whole_songs(numbers: list[int]) -> tuple[Audio, list[Song]]:
    """Returns audio and songs of a batch, with all of their tracks and truth."""
    songs = [samples.song(number, sample_rate=_RATE) for number in numbers]
    return _batched(songs, list(TRACKS)), songs


def _batched(songs: list[Song], tracks: list[str]) -> Audio:
    lengths = [songs[i].tracks["mix"].samples for i in range(len(songs))]
    made: dict[str, Tensor] = {}
    for name in tracks:
        rows = np.zeros((len(songs), 1, max(lengths)), np.float32)
        for row, song in zip(rows, songs, strict=True):
            row[:, : song.tracks[name].samples] = song.tracks[name].read()
        made[name] = torch.from_numpy(rows)
    return Audio(made, torch.tensor(lengths), _RATE)
