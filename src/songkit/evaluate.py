"""Songs to numbers: every metric on every song, with a status and a reason for every cell.

A number that is missing is never silently left out: a song that lacks what a metric reads is `skipped`, a metric that
could not judge it has `failed`, and the table says why.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from songkit.build import build
from songkit.errors import (
    AudioError,
    CheckpointError,
    OutputError,
    PluginError,
    RequestError,
    SongkitError,
)
from songkit.interfaces.metric import SongMetric
from songkit.interfaces.source import DataSource
from songkit.recipe import Node
from songkit.types import TRACKS, Audio, Song

__all__ = ["Cell", "Results", "build_metrics", "evaluate", "markdown", "song_audio"]


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One metric on one song."""

    song: str
    metric: str
    status: str
    """`ok`, `skipped` (the song lacks what the metric reads) or `failed`."""
    reason: str = ""
    """Why it is not `ok`."""
    values: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    """What the metric says of this song."""


@dataclass(frozen=True)
class Results:
    """All cells of an evaluation and what is pooled of them."""

    cells: tuple[Cell, ...]
    """Song by song, metric by metric."""
    pooled: Mapping[str, Mapping[str, float]]
    """By metric: its numbers over the songs whose cell is `ok`; empty where there is none."""
    metrics: Mapping[str, Mapping[str, Any]]
    """By name: id, revision, options, unit and direction of each metric."""

    @property
    def complete(self) -> bool:
        """Whether no cell has failed."""
        return all(cell.status != "failed" for cell in self.cells)

    def record(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return {
            "format": 1,
            "metrics": {name: dict(values) for name, values in self.metrics.items()},
            "pooled": {name: dict(values) for name, values in self.pooled.items()},
            "cells": [dataclasses.asdict(cell) for cell in self.cells],
        }

    def table(self) -> str:
        """Returns a Markdown table, a row for each song and one pooled, and a line for each reason below it."""
        columns = self._columns()
        rows: dict[str, list[str]] = {}
        for cell in self.cells:
            row = rows.setdefault(cell.song, ["-"] * len(columns))
            for i, (metric, name) in enumerate(columns):
                if metric == cell.metric and cell.status != "ok":
                    row[i] = cell.status
                elif metric == cell.metric and name in cell.values:
                    row[i] = _number(cell.values[name])
        body = [[song, *row] for song, row in rows.items()]
        body.append(["pooled", *(self._pooled(metric, name) for metric, name in columns)])
        heads = ["song", *(f"{metric} {name}" for metric, name in columns)]
        return "\n".join([markdown(heads, body), *self.reasons()])

    def reasons(self) -> list[str]:
        """Returns a line for each reason why cells are not `ok`, with the songs it holds for."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for cell in self.cells:
            if cell.status != "ok":
                groups.setdefault((cell.metric, cell.status, cell.reason), []).append(cell.song)
        return [
            f"{metric} {status} on {len(songs)} of {self._songs} songs ({_some(songs)}): {reason}"
            for (metric, status, reason), songs in groups.items()
        ]

    @property
    def _songs(self) -> int:
        return len({cell.song for cell in self.cells})

    def _columns(self) -> list[tuple[str, str]]:
        columns: dict[tuple[str, str], None] = {}
        for metric, pooled in self.pooled.items():
            rows = [cell.values for cell in self.cells if cell.metric == metric]
            named = [name for row in rows for name, value in row.items() if not isinstance(value, str)]
            named += [name for name in pooled if not name.endswith(("_low", "_high"))]
            columns |= dict.fromkeys((metric, name) for name in named or ["-"])
        return list(columns)

    def _pooled(self, metric: str, name: str) -> str:
        values = self.pooled[metric]
        if name not in values:
            return "-"
        text = _number(values[name])
        if f"{name}_low" in values:
            text += f" [{_number(values[f'{name}_low'])}, {_number(values[f'{name}_high'])}]"
        return text


def evaluate(
    songs: DataSource | Sequence[Song],
    metrics: Mapping[str, SongMetric],
    *,
    nodes: Mapping[str, Node] | None = None,
    references: Mapping[str, Song] | None = None,
    progress: bool = False,
) -> Results:
    """Judges songs one by one.

    Args:
        songs: What to judge; ids are distinct.
        metrics: By name; they are reset first.
        nodes: Where the metrics were built from, to record their options.
        references: By id, the originals for metrics that compare.
        progress: Whether a progress bar is shown.

    Returns:
        A cell for each song and metric. A judge that cannot run at all (not installed, damaged) fails on every song
        with the same reason; the others go on.

    Raises:
        RequestError: If there are no songs or no metrics.
    """
    if not len(songs) or not metrics:
        raise RequestError(f"{len(songs)} songs and {len(metrics)} metrics: expected at least one of each to evaluate")
    for metric in metrics.values():
        metric.reset()
    cells: list[Cell] = []
    unusable: dict[str, str] = {}
    for index in tqdm(range(len(songs)), desc="evaluate", unit="song", disable=not progress):
        song = songs[index]
        reference = (references or {}).get(song.id)
        for name, metric in metrics.items():
            reason = unusable.get(name)
            status = "failed" if reason else "skipped"
            reason = reason or _lacking(metric, song, reference)
            if not reason:
                status, reason = "ok", ""
                try:
                    heard = song_audio(reference, _roles(reference, metric)) if reference else None
                    metric.update(song_audio(song, _roles(song, metric)), [song], heard)
                except (PluginError, CheckpointError, OutputError) as error:  # no other song would fare better
                    status, reason = "failed", str(error)
                    unusable[name] = reason
                except SongkitError as error:
                    status, reason = "failed", str(error)
            if status == "failed":
                log.warning("%s failed on song %s: %s", name, song.id, reason)
            cells.append(Cell(song.id, name, status, reason))
    return Results(
        tuple(_with_values(cells, metrics)),
        {name: _compute(metric, cells, name) for name, metric in metrics.items()},
        {name: _describe(metric, (nodes or {}).get(name)) for name, metric in metrics.items()},
    )


def build_metrics(nodes: Mapping[str, Node]) -> dict[str, SongMetric]:
    """Builds metrics by name."""
    return {name: build(node) for name, node in nodes.items()}


def song_audio(song: Song, roles: Sequence[str]) -> Audio:
    """Returns tracks of a song as a batch of one.

    Raises:
        AudioError: If they have not one rate and one length.
    """
    read = {role: song.tracks[role].read() for role in roles}
    rates = {song.tracks[role].sample_rate for role in roles}
    lengths = {samples.shape[-1] for samples in read.values()}
    if len(rates) != 1 or len(lengths) != 1 or not min(lengths):
        raise AudioError(
            f"the tracks {', '.join(roles)} of song '{song.id}' have rates {sorted(rates)} and lengths "
            f"{sorted(lengths)}; expected one rate and one length above 0. Make the song again."
        )
    tracks = {role: torch.from_numpy(np.ascontiguousarray(samples))[None] for role, samples in read.items()}
    return Audio(tracks, torch.tensor([lengths.pop()]), rates.pop())


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns are aligned for reading as plain text."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(heads))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _lacking(metric: SongMetric, song: Song, reference: Song | None) -> str:
    """Returns what of the metric's needs the song lacks, in words, or an empty string."""
    present = {
        **{role: role in song.tracks for role in TRACKS},
        "lyrics": any(section.lines for section in song.sections),
        "description": bool(song.description),
        "alignment": song.alignment is not None,
        "reference": reference is not None,
    }
    lacking = sorted(need for need in metric.info.needs if not present[need])
    return "the song has no " + ", no ".join(f"{n} track" if n in TRACKS else n for n in lacking) if lacking else ""


def _roles(song: Song, metric: SongMetric) -> list[str]:
    """Returns the tracks that a metric is given of a song: those it needs, or all."""
    return [role for role in TRACKS if role in metric.info.needs and role in song.tracks] or list(song.tracks)


def _with_values(cells: Sequence[Cell], metrics: Mapping[str, SongMetric]) -> Iterable[Cell]:
    rows = {name: {str(row["id"]): row for row in metric.per_song()} for name, metric in metrics.items()}
    for cell in cells:
        row = rows[cell.metric].get(cell.song, {}) if cell.status == "ok" else {}
        yield dataclasses.replace(cell, values={name: value for name, value in row.items() if name != "id"})


def _compute(metric: SongMetric, cells: Iterable[Cell], name: str) -> dict[str, float]:
    if not any(cell.metric == name and cell.status == "ok" for cell in cells):
        return {}
    return {key: float(value) for key, value in metric.compute().items()}


def _describe(metric: SongMetric, node: Node | None) -> dict[str, Any]:
    described: dict[str, Any] = {"unit": metric.info.unit, "higher_is_better": metric.info.higher_is_better}
    if node is not None:
        described |= {"id": node.id, "revision": node.revision, "options": dataclasses.asdict(node.config)}
    return described


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}".rstrip("0").rstrip(".") if value % 1 else f"{value:g}"


def _some(songs: Sequence[str], most: int = 3) -> str:
    return ", ".join(songs[:most]) + (", ..." if len(songs) > most else "")
