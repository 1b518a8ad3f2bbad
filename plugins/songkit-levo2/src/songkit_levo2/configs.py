"""Configurations of all components of this plugin. No torch here: listings and validation read this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from songkit.plugin import ref

__all__ = [
    "Behaviour",
    "DiffusionConfig",
    "LeLMConditionerConfig",
    "MixedLMConfig",
    "MusicCodecConfig",
    "QwenConditionerConfig",
    "SemanticConfig",
    "TrackLMConfig",
    "TrainDiffusionConfig",
    "TrainTokensConfig",
    "TrainVAEConfig",
    "VAEConfig",
]


# --- the music codec -----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class VAEConfig:
    """Waveform to continuous latents and back."""

    sample_rate: int = 24000
    """Samples per second."""
    n_fft: int = 960
    """Window of the STFT at both ends, in samples; a multiple of `hop`."""
    hop: int = 240
    """Step of the STFT, in samples."""
    merge: int = 4
    """STFT frames in one latent frame."""
    mels: int = 80
    """Mel bands that the encoder sees."""
    latent: int = 64
    """Values in one latent frame."""
    encoder_dims: list[int] = field(default_factory=lambda: [128, 256])
    """Widths of the encoder at STFT rate and at latent rate."""
    encoder_depths: list[int] = field(default_factory=lambda: [2, 3])
    """Blocks of the encoder at STFT rate and at latent rate."""
    decoder_dims: list[int] = field(default_factory=lambda: [320, 288])
    """Widths of the decoder at latent rate and at STFT rate."""
    decoder_depths: list[int] = field(default_factory=lambda: [3, 6])
    """Blocks of the decoder at latent rate and at STFT rate."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = [] if self.n_fft % self.hop == 0 else [f"n_fft {self.n_fft} must be a multiple of hop {self.hop}"]
        if self.sample_rate % (self.hop * self.merge):
            problems.append(f"hop {self.hop} x merge {self.merge} must divide the sample rate {self.sample_rate}")
        return problems


@dataclass(kw_only=True)
class SemanticConfig:
    """Audio to ids: an encoder, one quantizer a track, and the decoder of features that the diffusion sees."""

    n_fft: int = 960
    """Window of the mel spectrogram that the encoder sees, in samples (LeVo: 2048 at 24 kHz); the hop is the VAE's."""
    mels: int = 80
    """Mel bands that the encoder sees (LeVo: 128)."""
    pitch_n_fft: int = 4096
    """Window of a second spectrogram at token rate, with a band for each semitone, in samples: a mel band holds several
    semitones where voices sing. 0 is none (as LeVo)."""
    pitch_range: list[int] = field(default_factory=lambda: [33, 96])
    """First and last MIDI pitch of that spectrogram."""
    dims: list[int] = field(default_factory=lambda: [128, 320])
    """Widths of the encoder at mel rate and at token rate."""
    depths: list[int] = field(default_factory=lambda: [2, 5])
    """Blocks of the encoder at mel rate and at token rate."""
    taps: dict[str, int] = field(default_factory=lambda: {"mix": 5, "vocal": 5, "accompaniment": 4})
    """After how many blocks at token rate the features of each track are taken (LeVo taps its encoder at three
    depths: 6, 7 and 3 of 12)."""
    codebook_size: int = 4096
    """Ids of each stream."""
    codebook_dim: int = 16
    """Width of the l2-normalised space in which the nearest code is found (LeVo: 32)."""
    warmup: int = 400
    """Batches of each track in which training leaves features unquantized, with noise in place of quantization."""
    warmup_noise: float = 0.15
    """Standard deviation of that noise, for each of `codebook_dim` values on the unit sphere. A channel of
    d values carries d/2 log2(1 + 1/(d noise^2)) bits: 12, those of 4096 codes, at .185 for d = 16."""
    feature_depth: int = 3
    """Blocks behind the quantizer that make the features for the diffusion."""
    teachers: dict[str, int] = field(default_factory=lambda: {"phone": 56, "pitch": 40, "chord": 25})
    """What the encoder learns to tell from the codes besides the mel spectrum, with the number of classes.
    LeVo 2 teaches its encoder by BEST-RQ on 10^5 hours; the miniature has the truth of synthetic songs."""


@dataclass(kw_only=True)
class DiffusionConfig:
    """The flow-matching transformer over the latents of the VAE."""

    dim: int = 256
    """Width."""
    depth: int = 6
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    steps: int = 10
    """Euler steps when decoding (LeVo: 10)."""
    guidance: float = 1.5
    """Classifier-free guidance when decoding (LeVo: 1.5); 1 is none and costs half."""
    window_seconds: float = 20.0
    """Length of the windows in which long songs are decoded."""
    overlap_seconds: float = 2.0
    """Part of a window that continues the latents of the window before."""
    opening_seconds: float | None = None
    """New audio in a song's first window: less than a window lets a stream begin sooner. null is a whole window."""
    sigma_min: float = 1e-4
    """Noise left at the end of the path (LeVo: 1e-4)."""


@dataclass(kw_only=True)
class MusicCodecConfig:
    """LeVo's music codec: tokens of mix, vocal and accompaniment; diffusion to latents; a VAE to samples."""

    vae: VAEConfig = field(default_factory=VAEConfig)
    """Waveform to latents and back."""
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    """Waveform to ids."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Ids to latents."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        problems = [f"vae: {p}" for p in self.vae.validate()]
        if self.diffusion.dim % (2 * self.diffusion.heads):
            problems.append(
                f"diffusion: dim {self.diffusion.dim} must be a multiple of 2 x heads {self.diffusion.heads}"
            )
        opening = self.diffusion.opening_seconds
        if opening is not None and opening <= 0:
            problems.append(
                f"diffusion: opening_seconds is {opening}; expected more than 0, or null for a whole window"
            )
        for track, tap in self.semantic.taps.items():
            if not 1 <= tap <= self.semantic.depths[1]:
                problems.append(f"semantic: tap {tap} of {track} must be 1 to {self.semantic.depths[1]} (depths[1])")
        return problems


@dataclass(kw_only=True)
class TrainVAEConfig:
    """Trains the codec's VAE on random crops of all tracks, by spectral distance and a small KL term."""

    crop_seconds: float = 1.28
    """Length of a crop."""
    kl_weight: float = 1e-3
    """Weight of the KL divergence per latent value."""
    track_shares: dict[str, float] = field(default_factory=lambda: {"vocal": 0.5, "accompaniment": 0.25, "mix": 0.25})
    """How often each track is drawn."""


@dataclass(kw_only=True)
class TrainTokensConfig:
    """Trains the codec's encoder and quantizers by what the codes tell: mel spectrum, phones, pitch, chords."""

    crop_seconds: float = 2.56
    """Length of a crop."""
    commitment: float = 0.5
    """Weight of the distance between features and codes."""
    teacher_weights: dict[str, float] = field(default_factory=lambda: {"phone": 0.5, "pitch": 0.3, "chord": 0.2})
    """Weight of each teacher's cross-entropy beside the mel distance."""
    track_shares: dict[str, float] = field(default_factory=lambda: {"vocal": 0.45, "accompaniment": 0.25, "mix": 0.3})
    """How often each track is drawn."""


@dataclass(kw_only=True)
class TrainDiffusionConfig:
    """Trains the codec's flow-matching transformer; encoder, quantizers and VAE stay as they are."""

    crop_seconds: float = 4.0
    """Length of a crop."""
    code_dropout: float = 0.1
    """Probability that a crop's codes are hidden, for guidance (LeVo: 0.1)."""
    continue_share: float = 0.3
    """Probability that a crop begins with given latents that are to be continued (LeVo: 0.5)."""
    track_shares: dict[str, float] = field(default_factory=lambda: {"vocal": 0.5, "accompaniment": 0.35, "mix": 0.15})
    """How often each track is drawn."""


# --- the language model --------------------------------------------------------------------------------------

Behaviour = Literal["mended", "released"]
"""Whether known defects of the released sampler are mended; each is told at the option that has this type."""


@dataclass(kw_only=True)
class QwenConditionerConfig:
    """LeLM's prefix as released: Qwen2 BPE of lyrics and style, of fixed lengths, and the codes of an audio prompt."""

    width: int = 1536
    """Width D of the embeddings; that of both towers."""
    tiers: bool = True
    """Whether the style has tokens for the five tiers and for pure music (LeVo 2, not LeVo)."""
    lyrics_length: int = 600
    """Tokens of lyrics; longer ones are refused."""
    style_length: int = 100
    """Tokens of the description; longer ones are refused."""
    prompt_seconds: float = 10.0
    """Length of audio prompts; shorter ones are padded."""
    codebook_size: int = 16384
    """Ids of each stream of an audio prompt."""
    frame_rate: float = 25.0
    """Frames per second of audio prompts."""
    behaviour: Behaviour = "mended"
    """With `released`, two defects of the released sampler come back: pure music without a description loses its tags,
    and the ids of an audio prompt's mix may not be drawn in the whole song."""
    style_dropout: float = 0.5
    """Probability that the description is hidden in training (LeVo: 0.5)."""
    null_dropout: float = 0.15
    """Probability that all conditions are hidden in training, for guidance (LeVo: 0.15)."""


@dataclass(kw_only=True)
class LeLMConditionerConfig:
    """Lyrics with structure embeddings, style words, musicality tier and audio prompt, as LeLM's prefix."""

    width: int = 256
    """Width D of the embeddings; that of both towers."""
    style_words: list[str] = field(default_factory=list)
    """The words that descriptions may use; others are reported and ignored. Order is meaning: append only."""
    codebook_size: int = 4096
    """Ids of each stream of an audio prompt."""
    tape_depth: int = 2
    """Convolution blocks that give each lyrics token its context; 0 is LeVo's plain embedding."""
    cursor_reach: int = 3
    """Furthest move of a cursor in one frame, in lyrics tokens; the planner's `cursor_steps`."""
    prompt_seconds: float = 3.0
    """Length of audio prompts (LeVo: 10)."""
    frame_rate: float = 25.0
    """Frames per second of audio prompts and cursors."""
    style_dropout: float = 0.25
    """Probability that the description is hidden in training (LeVo: 0.5)."""
    null_dropout: float = 0.1
    """Probability that all conditions are hidden in training, for guidance (LeVo: 0.15)."""


@dataclass(kw_only=True)
class MixedLMConfig:
    """LeLM's planner, the Mixed Semantic LM: mixed tokens after the prefix of conditions."""

    codebook_size: int = 4096
    """Ids of the mixed stream; the end of song is one more."""
    frame_rate: float = 25.0
    """Frames per second of the mixed stream."""
    tower: Any = ref("backbone")
    """The transformer."""
    cursor: bool = True
    """Whether the planner follows the lyrics: at each frame it is told which lyrics token is being sung, and
    predicts how far to move on. LeVo 2 has no such thing (false); see the docs on the miniature."""
    cursor_steps: int = 3
    """Furthest move of the cursor in one frame, in lyrics tokens."""
    cursor_weight: float = 0.3
    """Weight of the cursor's cross-entropy."""
    tail: int = 0
    """Steps that it runs on after the song, for a refiner with `after: planner`: its delay (LeVo: 250)."""


@dataclass(kw_only=True)
class TrackLMConfig:
    """LeLM's refiner, the Track-Specific LM: vocal and accompaniment in parallel, delayed, on the planner's states."""

    codebook_size: int = 4096
    """Ids of the vocal and of the accompaniment stream."""
    source_codebook_size: int = 4096
    """Ids of the mixed stream of the plans."""
    source_width: int = 256
    """Width of the planner's hidden states."""
    frame_rate: float = 25.0
    """Frames per second."""
    delay: int = 8
    """Frames that both tracks run behind the mixed stream (LeVo: 250)."""
    after: Literal["learned", "planner"] = "learned"
    """What stands for the planner's state after the song's last frame, while the tracks catch up: one learned vector,
    or the states of a planner that runs on (`tail`; LeVo)."""
    ends: bool = False
    """Whether each track has a logit for its own end of song (LeVo: true). The plan says when a song ends, and what
    the tracks think of it only counts with `behaviour: released`."""
    behaviour: Behaviour = "mended"
    """With `released`, which needs `ends`, a song is cut where the first of its tracks ends, as in LeVo; with `mended`
    it is as long as its plan, so that a voice that falls silent before an outro cuts nothing off."""
    tower: Any = ref("backbone")
    """The transformer; LeVo's is as wide as the planner's and has a third to two fifths of its layers."""

    def validate(self) -> list[str]:
        """Returns what is wrong with the values."""
        if self.behaviour == "released" and not self.ends:
            return ["behaviour is 'released', which cuts songs where a track ends: that needs ends: true"]
        return []
