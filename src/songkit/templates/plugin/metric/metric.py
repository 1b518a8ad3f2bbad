"""Loudness as a metric: a number for each song, and one for all of their samples together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from songkit.errors import RequestError
from songkit.interfaces.metric import MetricInfo, SongMetric
from songkit.types import Audio, Song

from .configs import MetricConfig

__all__ = ["LoudnessMetric"]


class LoudnessMetric(SongMetric):
    """Root mean square in dB; all that is kept are states, so that processes can be merged."""

    full_state_update = False

    def __init__(self, config: MetricConfig) -> None:
        super().__init__()
        self.track = config.track
        self.info = MetricInfo(
            needs=frozenset({config.track}), unit="dB below full scale", higher_is_better=True, per_song=True
        )
        self.add_state("ids", [], dist_reduce_fx="cat")  # the bytes of every id, each with a zero behind it
        self.add_state("energy", [], dist_reduce_fx="cat")
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Measures a batch of songs.

        Raises:
            RequestError: If they have no such track.
        """
        if self.track not in generated.tracks:
            raise RequestError(f"there is no track '{self.track}' to measure; there are {', '.join(generated.tracks)}")
        for song, track, length in zip(songs, generated.tracks[self.track], generated.lengths.tolist(), strict=True):
            wave = track[:, :length].double()
            self._list("ids").append(torch.tensor([*song.id.encode(), 0], dtype=torch.uint8, device=wave.device))
            self._list("energy").append(wave.square().sum()[None])
            self._list("samples").append(torch.tensor([wave.numel()], device=wave.device))

    def compute(self) -> dict[str, Tensor]:
        """Returns `loudness` over all samples; nothing without songs."""
        if not len(self.metric_state["ids"]):
            return {}
        return {"loudness": _decibel(self._all("energy").sum(), self._all("samples").sum())}

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and `loudness` of each song, in the order in which they were taken in."""
        if not len(self.metric_state["ids"]):
            return []
        ids = bytes(self._all("ids").tolist()).split(b"\0")
        levels = _decibel(self._all("energy"), self._all("samples")).tolist()
        return [{"id": id_.decode(), "loudness": level} for id_, level in zip(ids, levels, strict=False)]

    def _list(self, state: str) -> list[Tensor]:
        values: list[Tensor] = getattr(self, state)
        return values

    def _all(self, state: str) -> Tensor:
        values: Tensor = dim_zero_cat(getattr(self, state))
        return values


def _decibel(energy: Tensor, samples: Tensor) -> Tensor:
    """Returns the level of the mean energy; silence is -120 dB."""
    return 10 * torch.log10((energy / samples).clamp(min=1e-12))
