"""What this plugin offers: four judges."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_judges.configs import EnsembleConfig, PhonemeErrorsConfig, PitchConfig, StructureConfig

__all__ = ["songkit_components"]


@hookimpl
def songkit_components() -> list[Component]:
    """Returns the judges."""
    return [
        Component(
            kind="metric",
            name="phoneme-errors",
            config=PhonemeErrorsConfig,
            factory="songkit_judges.words:PhonemeErrorsMetric",
            example=PhonemeErrorsConfig(replicates=100),
            tags=frozenset({"slow"}),
        ),
        Component(
            kind="metric",
            name="pitch",
            config=PitchConfig,
            factory="songkit_judges.pitch:PitchMetric",
            example=PitchConfig(replicates=100),
        ),
        Component(
            kind="metric",
            name="structure",
            config=StructureConfig,
            factory="songkit_judges.structure:StructureMetric",
            example=StructureConfig(replicates=100),
        ),
        Component(
            kind="metric",
            name="ensemble",
            config=EnsembleConfig,
            factory="songkit_judges.ensemble:EnsembleMetric",
            example=EnsembleConfig(replicates=100),
        ),
    ]
