"""Declares the core's components, through the same hooks as any plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from songkit.components.configs import (
    PairsConfig,
    PreparedConfig,
    SongFolderConfig,
    TrainPlannerConfig,
    TrainRefinerConfig,
    TransformerConfig,
)
from songkit.components.preference_configs import (
    DPOConfig,
    IPOConfig,
    KTOConfig,
    ObjectiveConfig,
    ORPOConfig,
    RobustDPOConfig,
    SimPOConfig,
    TrainPreferenceConfig,
)
from songkit.plugin import Component, hookimpl

__all__ = ["songkit_components", "songkit_recipes"]


@hookimpl
def songkit_components() -> list[Component]:
    """Returns the built-in components."""
    return [
        Component(
            kind="backbone",
            name="transformer",
            config=TransformerConfig,
            factory="songkit.components.transformer:build",
            example=TransformerConfig(dim=16, layers=2, heads=2, feed_forward=32),
        ),
        Component(
            kind="source",
            name="pairs",
            config=PairsConfig,
            factory="songkit.pairs:build",
            example=PairsConfig(root="mined"),
            tags=frozenset({"needs-files"}),
        ),
        Component(
            kind="source",
            name="prepared",
            config=PreparedConfig,
            factory="songkit.components.prepared:build",
            example=PreparedConfig(root="prepared"),
            tags=frozenset({"needs-files"}),
        ),
        Component(
            kind="source",
            name="song-folder",
            config=SongFolderConfig,
            factory="songkit.components.song_folder:build",
            example=SongFolderConfig(root="songs"),
            tags=frozenset({"needs-files"}),
        ),
        Component(
            kind="task",
            name="train-planner",
            config=TrainPlannerConfig,
            factory="songkit.tasks.planner:TrainPlanner",
            example=TrainPlannerConfig(max_seconds=5.0),
        ),
        Component(
            kind="task",
            name="train-refiner",
            config=TrainRefinerConfig,
            factory="songkit.tasks.refiner:TrainRefiner",
            example=TrainRefinerConfig(max_seconds=5.0),
        ),
        Component(
            kind="task",
            name="train-preference",
            config=TrainPreferenceConfig,
            factory="songkit.tasks.preference:TrainPreference",
            example=TrainPreferenceConfig(),
        ),
        *(_objective(name, config, factory) for name, (config, factory) in _OBJECTIVES.items()),
    ]


_OBJECTIVES: Mapping[str, tuple[type[ObjectiveConfig], str]] = {
    "dpo": (DPOConfig, "DPO"),
    "robust-dpo": (RobustDPOConfig, "RobustDPO"),
    "ipo": (IPOConfig, "IPO"),
    "simpo": (SimPOConfig, "SimPO"),
    "orpo": (ORPOConfig, "ORPO"),
    "kto": (KTOConfig, "KTO"),
}
"""The preference objectives by name: config, and class in `songkit.components.preference`."""


def _objective(name: str, config: type[ObjectiveConfig], factory: str) -> Component:
    path = f"songkit.components.preference:{factory}"
    return Component(kind="objective", name=name, config=config, factory=path, example=config())


@hookimpl
def songkit_recipes() -> Path:
    """Returns the core's recipes: inside the package when installed, at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"
