"""What this plugin offers."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_planners.configs import StreamLMConfig

__all__ = ["songkit_components"]


@hookimpl
def songkit_components() -> list[Component]:
    """One planner; the systems are recipes (baselines/*)."""
    return [
        Component(
            kind="planner",
            name="stream-lm",
            config=StreamLMConfig,
            factory="songkit_planners.planner:build",
            example=StreamLMConfig(tracks=["accompaniment", "vocal"], pattern="interleaved", codebook_sizes=[32]),
        )
    ]
