"""What this plugin offers."""

from __future__ import annotations

from typing import Any

from songkit.plugin import Component, hookimpl
from songkit_dac.configs import Dac16Config, Dac24Config, Dac44Config

_TINY: dict[str, Any] = {"encoder_dim": 2, "latent_dim": 8, "decoder_dim": 32, "levels": 2, "n_codebooks": 3}


@hookimpl
def songkit_components() -> list[Component]:
    """One architecture in the sizes of the published models."""
    configs = {"dac-16khz": Dac16Config, "dac-24khz": Dac24Config, "dac-44khz": Dac44Config}
    return [
        Component(kind="codec", name=name, config=config, factory="songkit_dac.codec:build", example=config(**_TINY))
        for name, config in configs.items()
    ]
