"""Options to layout and pattern of a `StreamPlanner`."""

from __future__ import annotations

from songkit.interfaces import Backbone
from songkit.patterns import Pattern, interleaved
from songkit.stream_planner import StreamPlanner
from songkit.types import TRACKS, Stream, TokenLayout
from songkit_planners.configs import StreamLMConfig

__all__ = ["build", "layout_of", "pattern_of"]


def build(config: StreamLMConfig, *, tower: Backbone) -> StreamPlanner:
    """Makes the planner with random weights."""
    return StreamPlanner(
        layout_of(config),
        pattern_of(config),
        tower,
        cursor_steps=config.cursor_steps if config.cursor else 0,
        cursor_weight=config.cursor_weight,
        auxiliary=config.auxiliary,
    )


def layout_of(config: StreamLMConfig) -> TokenLayout:
    """Returns the streams: tracks in songkit's order, whatever their turns, each with its levels."""
    tracks = [track for track in TRACKS if track in config.tracks]
    streams = [Stream(t, level, size) for t in tracks for level, size in enumerate(config.codebook_sizes)]
    return TokenLayout(config.frame_rate, tuple(streams))


def pattern_of(config: StreamLMConfig) -> Pattern:
    """Returns where the streams of `layout_of` stand."""
    levels = len(config.codebook_sizes)
    turns, delays = [], []
    for stream in layout_of(config).streams:
        order = config.tracks.index(stream.track)
        turns.append({"parallel": 0, "interleaved": order, "flat": order * levels + stream.level}[config.pattern])
        delays.append(order * config.track_delay + stream.level * config.level_delay)
    return interleaved(turns, delays)
