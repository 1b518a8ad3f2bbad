"""What this plugin offers."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_levo2.configs import (
    DiffusionConfig,
    LeLMConditionerConfig,
    MixedLMConfig,
    MusicCodecConfig,
    SemanticConfig,
    TrackLMConfig,
    TrainDiffusionConfig,
    TrainTokensConfig,
    TrainVAEConfig,
    VAEConfig,
)

_TINY_CODEC = MusicCodecConfig(
    vae=VAEConfig(
        mels=20, latent=8, encoder_dims=[16, 16], encoder_depths=[1, 1], decoder_dims=[16, 16], decoder_depths=[1, 1]
    ),
    semantic=SemanticConfig(
        mels=20,
        dims=[16, 16],
        depths=[1, 2],
        taps={"mix": 2, "vocal": 2, "accompaniment": 1},
        codebook_size=32,
        codebook_dim=4,
        feature_depth=1,
    ),
    diffusion=DiffusionConfig(dim=16, depth=1, heads=2, steps=2),
)


@hookimpl
def songkit_components() -> list[Component]:
    """The codec, the language model's parts and the codec's training tasks."""
    return [
        Component(
            kind="codec",
            name="music-codec",
            config=MusicCodecConfig,
            factory="songkit_levo2.codec:build",
            example=_TINY_CODEC,
        ),
        Component(
            kind="conditioner",
            name="lelm-conditioner",
            config=LeLMConditionerConfig,
            factory="songkit_levo2.conditioner:build",
            example=LeLMConditionerConfig(width=16, codebook_size=32, tape_depth=1, style_words=["female", "pop"]),
        ),
        Component(
            kind="planner",
            name="mixed-lm",
            config=MixedLMConfig,
            factory="songkit_levo2.planner:build",
            example=MixedLMConfig(codebook_size=32),
        ),
        Component(
            kind="refiner",
            name="track-lm",
            config=TrackLMConfig,
            factory="songkit_levo2.refiner:build",
            example=TrackLMConfig(codebook_size=32, source_codebook_size=32, source_width=16, delay=2),
        ),
        Component(
            kind="task",
            name="train-vae",
            config=TrainVAEConfig,
            factory="songkit_levo2.tasks:TrainVAE",
            example=TrainVAEConfig(),
        ),
        Component(
            kind="task",
            name="train-tokens",
            config=TrainTokensConfig,
            factory="songkit_levo2.tasks:TrainTokens",
            example=TrainTokensConfig(),
        ),
        Component(
            kind="task",
            name="train-diffusion",
            config=TrainDiffusionConfig,
            factory="songkit_levo2.tasks:TrainDiffusion",
            example=TrainDiffusionConfig(),
        ),
    ]
