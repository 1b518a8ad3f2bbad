"""What this plugin offers."""

from __future__ import annotations

from songkit.plugin import Component, hookimpl
from songkit_levo2.codec_configs import ConformerConfig, DualTrackCodecConfig, DualTrackFlowConfig, OobleckConfig
from songkit_levo2.configs import (
    DiffusionConfig,
    LeLMConditionerConfig,
    MixedLMConfig,
    MusicCodecConfig,
    QwenConditionerConfig,
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

_TINY_DUAL_TRACK = DualTrackCodecConfig(
    vae=OobleckConfig(channels=2, multiples=[1, 2, 2, 2, 2], latent=4, chunk_frames=16),
    semantic=ConformerConfig(
        mels=16,
        front=4,
        dim=8,
        layers=2,
        heads=2,
        feedforward=16,
        kernel=3,
        taps={"mix": 2, "vocal": 2, "accompaniment": 1},
        codebook_size=32,
        codebook_dim=4,
        window_seconds=2.0,
    ),
    diffusion=DualTrackFlowConfig(flag_dim=4, layers=1, heads=2, feedforward=16, positions=50, steps=2),
    window_seconds=2.0,
    overlap_seconds=0.5,
    silence={"vocal": 3, "accompaniment": 9},
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
            kind="codec",
            name="dual-track-codec",
            config=DualTrackCodecConfig,
            factory="songkit_levo2.codec:build_dual_track",
            example=_TINY_DUAL_TRACK,
        ),
        Component(
            kind="conditioner",
            name="lelm-conditioner",
            config=LeLMConditionerConfig,
            factory="songkit_levo2.conditioner:build",
            example=LeLMConditionerConfig(width=16, codebook_size=32, tape_depth=1, style_words=["female", "pop"]),
        ),
        Component(
            kind="conditioner",
            name="qwen-conditioner",
            config=QwenConditionerConfig,
            factory="songkit_levo2.qwen_conditioner:build",
            example=QwenConditionerConfig(
                width=16, lyrics_length=64, style_length=24, prompt_seconds=1, codebook_size=32
            ),
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


@hookimpl
def songkit_importer() -> str:
    """What reads the released checkpoints."""
    return "songkit_levo2.importing:run"
