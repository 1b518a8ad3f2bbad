"""What this plugin offers: judges, and a reward with what trains and uses it."""

from __future__ import annotations

from pathlib import Path

from songkit.plugin import Component, hookimpl
from songkit_judges import configs

__all__ = ["songkit_components", "songkit_recipes"]


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
        _metric("musicality", configs.MusicalityScoreConfig, "reward:MusicalityMetric"),
        Component(
            kind="reward",
            name="musicality",
            config=configs.MusicalityConfig,
            factory="songkit_judges.reward:MusicalityReward",
            example=configs.MusicalityConfig(hidden=4),
        ),
        Component(
            kind="source",
            name="tiered",
            config=configs.TieredConfig,
            factory="songkit_judges.tiered:TieredSongs",
            example=configs.TieredConfig(),
        ),
        Component(
            kind="task",
            name="train-reward",
            config=configs.TrainRewardConfig,
            factory="songkit_judges.train_reward:TrainReward",
            example=configs.TrainRewardConfig(held_out=0.0),
            revision=2,  # writes odds and thresholds that are fitted to held-out songs
        ),
    ]


@hookimpl
def songkit_recipes() -> Path:
    """Returns the folder of the recipes around the musicality reward."""
    return Path(__file__).parent / "recipes"


def _metric(name: str, config: type, factory: str, *tags: str) -> Component:
    return Component(
        kind="metric",
        name=name,
        config=config,
        factory=f"songkit_judges.{factory}",
        example=config(replicates=100),
        tags=frozenset(tags),
    )
