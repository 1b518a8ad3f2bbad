"""What songkit-synth offers."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_synth.configs import SynthSongsConfig

__all__ = ["songkit_components"]


@hookimpl
def songkit_components() -> list[Component]:
    """Returns the source of made songs."""
    return [
        Component(
            kind="source",
            name="songs",
            config=SynthSongsConfig,
            factory="songkit_synth.source:build",
            example=SynthSongsConfig(
                songs=2, seconds_min=8.0, seconds_max=16.0, sample_rate=24000, channels=1, tracks=["vocal"]
            ),
            revision=2,
        )
    ]
