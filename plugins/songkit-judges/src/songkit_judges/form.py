"""The judge of the form: does the chorus come back?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from songkit.errors import RequestError
from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song, Span
from songkit_judges.configs import FormConfig
from songkit_judges.harmony import CHROMA_SECONDS, chroma_frames
from songkit_judges.kept import KeptMetric, check_batch, track_samples
from songkit_judges.pitch import track_pitch

__all__ = ["FormMetric", "section_likeness"]

_SHIFT = 4
"""Frames (1 s) by which one section may be moved against another, because its first words may come before the beat."""
_LEAST = 4
"""Frames that two sections have to have in common."""


class FormMetric(KeptMetric):
    """How much more alike the returns of a section are than different sections.

    Each quarter of a second is described by the pitch classes of the accompaniment and those that are sung; two
    sections are as alike as their frames are (cosine) where they lie best on each other.
    `returns`: likeness of the sections with the tag `chorus` to each other. `others`: that of choruses to the other
    sung sections. `form`: the difference; 0 for a song that takes no notice of which section it is in. `choruses`: how
    many there are; a song with fewer than two, or with nothing else, has no other numbers.
    """

    info = MetricInfo(
        needs=frozenset({"vocal", "accompaniment", "lyrics", "alignment"}),
        unit="cosine",
        higher_is_better=True,
        per_song=True,
    )

    def __init__(self, config: FormConfig) -> None:
        super().__init__("returns", "others", "form", "known", "choruses")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Compares the sections of each song; one with fewer than two choruses or no other sung section has no form.

        Raises:
            RequestError: If a song has no section times, or not one for each section of its lyrics.
        """
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            spans = song.alignment.sections if song.alignment else ()
            if len(spans) != len(song.sections):
                raise RequestError(
                    f"song '{song.id}' has times for {len(spans)} sections and lyrics with {len(song.sections)}; "
                    "expected times for every section"
                )
            vocal, band = (track_samples(generated, name, i) for name in ("vocal", "accompaniment"))
            sung = [span for span, section in zip(spans, song.sections, strict=True) if section.lines]
            returns, others = _likenesses(_describe(vocal, band, generated.sample_rate), sung, self.config.tag)
            chosen = sum(span.label == self.config.tag for span in sung)
            known = bool(returns and others)
            means = [float(np.mean(returns)), float(np.mean(others))] if known else [0.0, 0.0]
            self.keep(
                song.id,
                returns=means[:1],
                others=means[1:],
                form=[means[0] - means[1]],
                known=[float(known)],
                choruses=[chosen],
            )

    def compute(self) -> dict[str, Tensor]:
        """Returns the means over the songs that have a form, each with its interval."""
        out: dict[str, Tensor] = {}
        for name in ("returns", "others", "form"):
            out |= self.pool(name, name, "known", replicates=self.config.replicates, seed=self.config.seed)
        counts = [float(arrays["choruses"][0]) for _, arrays in self.ordered()]
        return out | self.mean("choruses", counts, replicates=self.config.replicates, seed=self.config.seed)

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and the numbers of each song."""
        rows = self.ratios({name: (name, "known") for name in ("returns", "others", "form")})
        return [
            {**row, "choruses": float(arrays["choruses"][0])}
            for row, (_, arrays) in zip(rows, self.kept(), strict=True)
        ]


def section_likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the mean cosine of the frames of two sections, [N, D] and [M, D], where they lie best on each other."""
    best = -1.0
    for shift in range(-_SHIFT, _SHIFT + 1):
        a, b = one[max(shift, 0) :], other[max(-shift, 0) :]
        count = min(len(a), len(b))
        if count < _LEAST:
            continue
        norms = np.linalg.norm(a[:count], axis=1) * np.linalg.norm(b[:count], axis=1)
        products = (a[:count] * b[:count]).sum(axis=1)
        best = max(best, float(np.mean(products / np.maximum(norms, 1e-9))))
    return best


def _likenesses(frames: np.ndarray, sections: Sequence[Span], tag: str) -> tuple[list[float], list[float]]:
    parts = [(s.label, frames[round(s.start / CHROMA_SECONDS) : round(s.end / CHROMA_SECONDS)]) for s in sections]
    parts = [(label, part) for label, part in parts if len(part) >= _LEAST + _SHIFT]
    chosen = [part for label, part in parts if label == tag]
    rest = [part for label, part in parts if label != tag]
    return (
        [section_likeness(a, b) for a, b in itertools.combinations(chosen, 2)],
        [section_likeness(a, b) for a in chosen for b in rest],
    )


def _describe(vocal: np.ndarray, band: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns pitch classes of band and voice at each frame, [N, 24], each half of length one where it sounds."""
    played = chroma_frames(band, sample_rate)
    times, midi = track_pitch(vocal, sample_rate)
    voiced = np.isfinite(midi)
    frame = np.round(times[voiced] / CHROMA_SECONDS - 1).astype(int).clip(0, len(played) - 1)
    sung = np.zeros_like(played)
    np.add.at(sung, (frame, np.round(midi[voiced]).astype(int) % 12), 1.0)
    halves = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9) for part in (played, sung)]
    return np.concatenate(halves, axis=1)
