"""The judge of structure: a voice where there are words, silence where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from songkit.errors import RequestError
from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song
from songkit_judges.configs import StructureConfig
from songkit_judges.kept import KeptMetric, check_batch, track_samples

__all__ = ["StructureMetric", "activity"]

_FRAME = 0.05
"""Seconds of a frame of the energy."""
_QUIET = -60.0
"""dB below full scale under which nothing is heard whatever the song's level."""


class StructureMetric(KeptMetric):
    """Vocal activity in the sections of a song.

    `sung`: share of the frames in sections with words where the voice is heard (below 1 even for good singers, who
    breathe between lines). `silent`: share of the frames in sections without words where it is not. `balance`: the
    mean of both; a voice that takes no notice of the sections gets .5.
    """

    info = MetricInfo(
        needs=frozenset({"vocal", "lyrics", "alignment"}), unit="share", higher_is_better=True, per_song=True
    )

    def __init__(self, config: StructureConfig) -> None:
        super().__init__("sung", "sung_frames", "silent", "silent_frames")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Measures the vocal track of each song.

        Raises:
            RequestError: If a song has no section times, or not one for each section of its lyrics.
        """
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            spans = song.alignment.sections if song.alignment else ()
            if not spans or len(spans) != len(song.sections):
                raise RequestError(
                    f"song '{song.id}' has times for {len(spans)} sections and lyrics with {len(song.sections)}; "
                    "expected times for every section"
                )
            active = activity(track_samples(generated, "vocal", i), generated.sample_rate, floor=self.config.floor)
            middle = (np.arange(active.size) + 0.5) * _FRAME
            words, none = np.zeros(active.size, dtype=bool), np.zeros(active.size, dtype=bool)
            for span, section in zip(spans, song.sections, strict=True):
                inside = (middle >= span.start + self.config.margin) & (middle <= span.end - self.config.margin)
                (words if section.lines else none)[inside] = True
            self.keep(
                song.id,
                sung=[active[words].sum()],
                sung_frames=[words.sum()],
                silent=[(~active[none]).sum()],
                silent_frames=[none.sum()],
            )

    def compute(self) -> dict[str, Tensor]:
        """Returns the pooled shares, `sung` and `silent` with their intervals."""
        settings = {"replicates": self.config.replicates, "seed": self.config.seed}
        out = self.pool("sung", "sung", "sung_frames", **settings)
        out |= self.pool("silent", "silent", "silent_frames", **settings)
        if "sung" in out and "silent" in out:
            out["balance"] = (out["sung"] + out["silent"]) / 2
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id`, `sung` and `silent` of each song; one that has no such sections lacks the share."""
        rows: list[dict[str, float | str]] = []
        for song, arrays in self.kept():
            row: dict[str, float | str] = {"id": song}
            for name in ("sung", "silent"):
                if arrays[f"{name}_frames"].sum() > 0:
                    row[name] = float(arrays[name].sum() / arrays[f"{name}_frames"].sum())
            rows.append(row)
        return rows


def activity(audio: np.ndarray, sample_rate: int, *, floor: float = 35.0) -> np.ndarray:
    """Returns whether something is heard in each 50 ms of a track, bool [N].

    Args:
        audio: Float samples [C, T].
        sample_rate: Samples per second.
        floor: How many dB below the track's loud parts (95th percentile) still counts.
    """
    hop = round(_FRAME * sample_rate)
    frames = audio.shape[-1] // hop
    power = np.square(audio[..., : frames * hop], dtype=np.float64).reshape(-1, frames, hop).mean(axis=(0, 2))
    level = 10 * np.log10(np.maximum(power, 1e-12))
    loud = float(np.quantile(level, 0.95)) if frames else 0.0
    return np.asarray(level > max(loud - floor, _QUIET))
