"""What this plugin offers."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_encodec.configs import Encodec24Config, Encodec48Config


@hookimpl
def songkit_components() -> list[Component]:
    """The two published models."""
    return [
        Component(
            kind="codec",
            name="encodec-24khz",
            config=Encodec24Config,
            factory="songkit_encodec.causal:build",
            example=Encodec24Config(bandwidth=1.5, filters=2, dimension=8),
        ),
        Component(
            kind="codec",
            name="encodec-48khz",
            config=Encodec48Config,
            factory="songkit_encodec.segments:build",
            example=Encodec48Config(bandwidth=3.0, filters=2, dimension=8),
        ),
    ]
