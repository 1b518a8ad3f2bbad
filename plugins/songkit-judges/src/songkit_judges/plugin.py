"""What this plugin offers: judges."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_judges import configs

__all__ = ["songkit_components"]


@hookimpl
def songkit_components() -> list[Component]:
    """Returns the judges."""
    return [
        _metric("phoneme-errors", configs.PhonemeErrorsConfig, "words:PhonemeErrorsMetric", "slow"),
        _metric("pitch", configs.PitchConfig, "pitch:PitchMetric"),
        _metric("melody", configs.MelodyConfig, "melody:MelodyMetric"),
        _metric("ensemble", configs.EnsembleConfig, "ensemble:EnsembleMetric"),
        _metric("structure", configs.StructureConfig, "structure:StructureMetric"),
        _metric("form", configs.FormConfig, "form:FormMetric"),
        _metric("style", configs.StyleConfig, "style:StyleMetric"),
        _metric("similarity", configs.SimilarityConfig, "style:SimilarityMetric"),
        _metric("integrity", configs.IntegrityConfig, "quality:IntegrityMetric"),
        _metric("voice-quality", configs.VoiceQualityConfig, "quality:VoiceQualityMetric"),
    ]


def _metric(name: str, config: type, factory: str, *tags: str) -> Component:
    return Component(
        kind="metric",
        name=name,
        config=config,
        factory=f"songkit_judges.{factory}",
        example=config(replicates=100),
        tags=frozenset(tags),
    )
