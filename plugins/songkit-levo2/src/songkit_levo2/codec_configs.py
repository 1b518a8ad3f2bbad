"""Configurations of the music codec at LeVo's full size. No torch here: listings and validation read this file.

The defaults are the released sizes (tencent-ailab/SongGeneration at b1b03ec, codeclm/tokenizer/Flow1dVAE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["ConformerConfig", "DualTrackCodecConfig", "DualTrackFlowConfig", "OobleckConfig"]


@dataclass(kw_only=True)
class OobleckConfig:
    """Waveform to continuous latents and back, by strided convolutions."""

    sample_rate: int = 48000
    """Samples per second."""
    audio_channels: int = 2
    """Channels of the audio."""
    channels: int = 128
    """Width next to the waveform; `multiples` count in it."""
    multiples: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    """Width behind each stride, in `channels`."""
    strides: list[int] = field(default_factory=lambda: [2, 4, 4, 6, 10])
    """Even steps from samples to latent frames; their product is the samples in a frame."""
    latent: int = 64
    """Values in one latent frame."""
    chunk_frames: int = 128
    """Latent frames that are decoded at once; 0 is all of a song."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = []
        if len(self.multiples) != len(self.strides):
            problems.append(f"multiples has {len(self.multiples)} values and strides {len(self.strides)}")
        if any(stride < 2 or stride % 2 for stride in self.strides):
            problems.append(f"strides {self.strides} must be even")
        if self.chunk_frames < 0:
            problems.append(f"chunk_frames is {self.chunk_frames}; expected 1 or more, or 0 for all at once")
        return problems


@dataclass(kw_only=True)
class ConformerConfig:
    """Audio to ids: a conformer that hears 24 kHz mono, and one quantizer a track."""

    mels: int = 128
    """Mel bands."""
    front: int = 512
    """Channels of the two convolution stages that make one frame of four spectra."""
    dim: int = 1024
    """Width of the conformer, and of the features that the diffusion sees."""
    layers: int = 7
    """Conformer layers. The released encoder has 12; those behind the deepest tap change nothing."""
    heads: int = 16
    """Attention heads."""
    feedforward: int = 4096
    """Width inside the two feed-forward parts of a layer."""
    kernel: int = 31
    """Frames that a layer's depthwise convolution spans."""
    taps: dict[str, int] = field(default_factory=lambda: {"mix": 6, "vocal": 7, "accompaniment": 3})
    """After how many layers the features of each track are taken; the tracks that can be encoded."""
    codebook_size: int = 16384
    """Ids of each stream."""
    codebook_dim: int = 32
    """Width of the l2-normalised space in which the nearest code is found."""
    window_seconds: float = 40.0
    """Length of the windows that are encoded one by one; shorter audio is repeated up to it, as the last window is
    filled up from the song's start."""
    peak: float = 0.8
    """Louder songs are turned down to this largest sample before they are encoded."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = [
            f"tap {tap} of {track} must be 1 to {self.layers} (layers)"
            for track, tap in self.taps.items()
            if not 1 <= tap <= self.layers
        ]
        if self.dim % (2 * self.heads):
            problems.append(f"dim {self.dim} must be a multiple of 2 x heads {self.heads}")
        if self.window_seconds <= 0:
            problems.append(f"window_seconds is {self.window_seconds}; expected more than 0")
        return problems


@dataclass(kw_only=True)
class DualTrackFlowConfig:
    """The flow-matching transformer that hears the codes of vocal and accompaniment together."""

    flag_dim: int = 24
    """Width of the embedding that tells given frames from frames to be made."""
    layers: int = 16
    """Transformer blocks."""
    heads: int = 20
    """Attention heads."""
    feedforward: int = 4400
    """Width inside a block's feed-forward part."""
    positions: int = 1000
    """Learned positions, the longest window in frames."""
    steps: int = 10
    """Euler steps."""
    guidance: float = 1.5
    """Classifier-free guidance; 1 is none and costs half."""
    sigma_min: float = 1e-4
    """Noise left at the end of the path."""


@dataclass(kw_only=True)
class DualTrackCodecConfig:
    """LeVo's music codec at full size: 48 kHz stereo; vocal and accompaniment are decoded together."""

    vae: OobleckConfig = field(default_factory=OobleckConfig)
    """Waveform to latents and back."""
    semantic: ConformerConfig = field(default_factory=ConformerConfig)
    """Waveform to ids."""
    diffusion: DualTrackFlowConfig = field(default_factory=DualTrackFlowConfig)
    """Ids to latents."""
    window_seconds: float = 40.0
    """Length of the windows in which songs are decoded."""
    overlap_seconds: float = 10.0
    """Part of a window that is given by the window before."""
    opening_seconds: float | None = None
    """New audio in a song's first window: less than a window lets a stream begin sooner. null is a whole window, which
    is all that the released transformer knows."""
    fill_windows: bool = True
    """Whether a song's ids are repeated to fill the last window, as in the released decoder, whose transformer always
    hears whole windows. Without it short songs cost less."""
    silence: dict[str, int] = field(default_factory=lambda: {"vocal": 3142, "accompaniment": 9670})
    """The id that stands for a silent track when the other one is decoded alone."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        parts = {"vae": self.vae.validate(), "semantic": self.semantic.validate()}
        problems = [f"{part}: {problem}" for part, found in parts.items() for problem in found]
        width = self.width
        if width % (2 * self.diffusion.heads):
            problems.append(f"diffusion: width {width} must be a multiple of 2 x heads {self.diffusion.heads}")
        if (self.vae.sample_rate, math.prod(self.vae.strides)) != (48000, 1920):
            problems.append(
                f"vae: {self.vae.sample_rate} Hz in frames of {math.prod(self.vae.strides)} samples (strides "
                f"{self.vae.strides}); the encoder of `semantic` makes frames of 1920 samples at 48000 Hz"
            )
        if self.window_seconds * 25 > self.diffusion.positions:
            problems.append(
                f"window_seconds {self.window_seconds} is {self.window_seconds * 25:g} frames; diffusion has "
                f"{self.diffusion.positions} positions"
            )
        if not 0 <= self.overlap_seconds < self.window_seconds:
            problems.append(f"overlap_seconds {self.overlap_seconds} must be less than window_seconds")
        if self.opening_seconds is not None and self.opening_seconds <= 0:
            problems.append(
                f"opening_seconds is {self.opening_seconds}; expected more than 0, or null for a whole window"
            )
        for track, code in self.silence.items():
            if not 0 <= code < self.semantic.codebook_size:
                problems.append(f"silence: id {code} of {track} must be below {self.semantic.codebook_size}")
        return problems

    @property
    def width(self) -> int:
        """Width of the flow transformer: all that it is told of a frame, side by side."""
        return self.diffusion.flag_dim + 2 * self.vae.latent + 2 * self.semantic.dim
