"""The picture of a song: spectrograms of its tracks with sections and lyrics over time.

Drawn with Matplotlib's object interface, from its own defaults and without dates, so that the same song gives the
same bytes whatever the user's Matplotlib settings are.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from songkit.types import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_song", "mel_spectrogram"]

_DPI = 100
_FLOOR_DB = -80.0
_BANDS = 128
_INK = "#1f2430"
_MOST_LYRIC_ROWS = 6
_LETTER = 4.6 / 72  # inches, the width of a letter of size 8
_SECTION_COLOURS = {
    "verse": "#8fb8de",
    "chorus": "#f2a65a",
    "bridge": "#b8a1d9",
    "intro": "#a8d5ba",
    "outro": "#a8d5ba",
    "inst": "#f7d774",
    "silence": "#d7d9de",
}
_OTHER_COLOUR = "#c9c2b8"


@dataclass(frozen=True)
class _Panel:
    """One row of the figure."""

    name: str
    height: float
    """In inches."""


def draw_song(
    tracks: Mapping[str, np.ndarray],
    sample_rate: int,
    *,
    title: str,
    sections: Sequence[Span] = (),
    lines: Sequence[Span] = (),
) -> bytes:
    """Draws a song.

    Args:
        tracks: Samples [C, T] by role, int16 or float within ±1, each drawn as one spectrogram, from top to bottom.
        sample_rate: Samples per second.
        title: What stands over the picture.
        sections: Sections with their times in seconds: a coloured band with their labels.
        lines: Lyrics lines with their times in seconds: a strip of text under the spectrograms.

    Returns:
        The bytes of a PNG file.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = max((t.shape[-1] for t in tracks.values()), default=0) / sample_rate
    panels = [_Panel("sections", 0.34)] if sections else []
    panels += [_Panel(name, 2.3 if i == 0 else 1.7) for i, name in enumerate(tracks)]
    width = float(np.clip(0.25 * seconds, 11.0, 24.0))
    # As many rows of lyrics as are needed to write them out, half as much again for their uneven spread.
    rows = int(np.clip(np.ceil(1.5 * sum(len(x.label) for x in lines) * _LETTER / width), 2, _MOST_LYRIC_ROWS))
    panels += [_Panel("lyrics", 0.24 * rows + 0.12)] if lines else []
    gap, top, bottom, left, right = 0.07, 0.55, 0.5, 0.75, 0.25
    height = top + bottom + sum(p.height for p in panels) + gap * (len(panels) - 1)

    with matplotlib.rc_context(dict(matplotlib.rcParamsDefault)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        _text(
            figure, left / width, 1 - 0.2 / height, _shorten(title, int(width * 11)), size=12, weight="bold", va="top"
        )
        y = height - top
        for panel in panels:
            y -= panel.height
            axes = figure.add_axes((left / width, y / height, (width - left - right) / width, panel.height / height))
            y -= gap
            axes.set_xlim(0.0, max(seconds, 1e-3))
            if panel.name == "sections":
                _draw_sections(axes, sections, width - left - right)
            elif panel.name == "lyrics":
                _draw_lines(axes, lines, rows, width - left - right)
            else:
                _draw_spectrogram(axes, tracks[panel.name], sample_rate, panel.name, sections)
            _finish_axes(axes, panel is panels[-1], seconds)
        buffer = io.BytesIO()
        canvas.print_png(buffer, metadata={"Software": "songkit", "Title": title})
    return buffer.getvalue()


def mel_spectrogram(samples: np.ndarray, sample_rate: int, columns: int, bands: int = _BANDS) -> np.ndarray:
    """Computes a log-mel spectrogram of about `columns` windows, evenly spread over the samples.

    Args:
        samples: [C, T], int16 or float within ±1.
        sample_rate: Samples per second.
        columns: Number of windows at most; shorter audio gets one for each 10 ms.
        bands: Number of mel bands from 40 Hz to the lower of 16 kHz and half the sample rate.

    Returns:
        Decibels below the loudest cell, float32 [bands, columns], not under -80.
    """
    mono: np.ndarray = samples.astype(np.float32).mean(axis=0)
    size = 1 << round(np.log2(0.045 * sample_rate))
    count = int(np.clip(len(mono) // max(1, sample_rate // 100), 1, columns))
    starts = np.linspace(0, len(mono), count, endpoint=False).astype(np.int64)
    padded = np.pad(mono, (size // 2, size))
    window = np.hanning(size).astype(np.float32)
    filters = _mel_filters(sample_rate, size, bands)
    power = np.empty((bands, count), dtype=np.float32)
    for first in range(0, count, 256):  # in blocks, to keep the windows of a long song out of memory
        part = starts[first : first + 256]
        spectrum = np.fft.rfft(padded[part[:, None] + np.arange(size)] * window, axis=1)
        power[:, first : first + len(part)] = filters @ (np.abs(spectrum) ** 2).T.astype(np.float32)
    reference = max(float(power.max()), 1e-10)
    decibels: np.ndarray = 10.0 * np.log10(np.maximum(power / reference, 1e-12))
    return decibels.clip(min=_FLOOR_DB)


def _mel_filters(sample_rate: int, size: int, bands: int) -> np.ndarray:
    """Returns triangular filters [bands, size // 2 + 1], evenly spaced on the mel scale."""
    edges = np.linspace(_to_mel(40.0), _to_mel(min(16000.0, sample_rate / 2)), bands + 2)
    edges_hz = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(size, 1.0 / sample_rate)
    # A filter is at least as wide as two bins, otherwise the lowest bands would fall between bins and stay black.
    half = np.maximum(np.diff(edges_hz), sample_rate / size)
    centre = edges_hz[1:-1, None]
    rising = (bins - centre) / half[:-1, None] + 1.0
    falling = (centre - bins) / half[1:, None] + 1.0
    filters: np.ndarray = np.clip(np.minimum(rising, falling), 0.0, None)
    filters /= filters.sum(axis=1, keepdims=True)
    return filters.astype(np.float32)


def _to_mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _draw_spectrogram(axes: Axes, samples: np.ndarray, sample_rate: int, name: str, sections: Sequence[Span]) -> None:
    seconds = max(samples.shape[-1] / sample_rate, 1e-3)
    top = min(16000.0, sample_rate / 2)
    low, high = _to_mel(40.0), _to_mel(top)
    axes.imshow(
        mel_spectrogram(samples, sample_rate, columns=2400),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
        cmap="magma",
        vmin=_FLOOR_DB,
        vmax=0.0,
        extent=(0.0, seconds, low, high),
    )
    ticks = [hz for hz in (100, 500, 1000, 2000, 4000, 8000) if hz < top * 0.9]
    axes.set_yticks([_to_mel(hz) for hz in ticks], [f"{hz / 1000:g} k" if hz >= 1000 else str(hz) for hz in ticks])
    axes.set_ylabel("Hz", fontsize=8, color=_INK)
    for section in sections:
        if section.start > 0:
            axes.axvline(section.start, color="white", linewidth=0.8, alpha=0.6, linestyle=(0, (4, 3)))
    label = _text(axes, 0.006, 0.94, name, size=9, va="top", color="white", transform=axes.transAxes, weight="bold")
    label.set_bbox({"boxstyle": "round,pad=0.25", "facecolor": "black", "alpha": 0.45, "edgecolor": "none"})


def _draw_sections(axes: Axes, sections: Sequence[Span], inches: float) -> None:
    from matplotlib.patches import Rectangle

    axes.set_ylim(0.0, 1.0)
    per_second = inches * 72 / max(axes.get_xlim()[1], 1e-3)  # points
    for section in sections:
        length = section.end - section.start
        kind = section.label.split("-")[0]
        colour = _SECTION_COLOURS.get(kind, _OTHER_COLOUR)
        axes.add_patch(Rectangle((section.start, 0.0), length, 1.0, facecolor=colour, edgecolor="white", linewidth=1.2))
        room = int(length * per_second / 5.4)  # letters of size 9 are about 5.4 points wide
        label = section.label if len(section.label) <= room else _shorten(kind, room)
        _text(axes, section.start + length / 2, 0.48, label, size=9, va="center", ha="center")
    axes.axis("off")


def _draw_lines(axes: Axes, lines: Sequence[Span], rows: int, inches: float) -> None:
    axes.set_ylim(0.0, float(rows))
    end = max(axes.get_xlim()[1], 1e-3)
    for i, line in enumerate(lines):
        y = rows - i % rows - 0.55
        until = lines[i + rows].start if i + rows < len(lines) else end
        axes.plot([line.start, line.end], [y - 0.34, y - 0.34], color="#e07a3f", linewidth=1.6, alpha=0.75)
        words = _shorten(line.label, int((until - line.start) * inches / end / _LETTER) - 1)
        _text(axes, line.start, y, words, size=8, va="center")


def _finish_axes(axes: Axes, last: bool, seconds: float) -> None:
    """Gives an axes its frame, and the lowest one its time axis."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK, length=3)
    if axes.axison and not axes.images:
        axes.set_yticks([])
    if not last:
        axes.set_xticks([])
        return
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60) if seconds / s <= 24), 120)
    ticks = np.arange(0.0, seconds + 1e-6, step)
    axes.set_xticks(ticks, [f"{int(t) // 60}:{int(t) % 60:02d}" for t in ticks])
    axes.set_xlabel("time, minutes:seconds", fontsize=8, color=_INK)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color("#b5b8c0")


def _text(owner: Any, x: float, y: float, text: str, *, size: float, color: str = _INK, **options: Any) -> Any:
    """Adds text as it is: dollars and backslashes of lyrics are no formulae."""
    return owner.text(x, y, text, fontsize=size, color=color, parse_math=False, **options)


def _shorten(text: str, room: int) -> str:
    """Cuts a text to `room` letters, with an ellipsis; nothing is left where there is no room for two."""
    text = " ".join(text.split())
    if len(text) <= room:
        return text
    return text[: room - 1].rstrip() + "…" if room >= 2 else ""
