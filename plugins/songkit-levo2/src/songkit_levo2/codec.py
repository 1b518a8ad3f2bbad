"""The music codec: three token streams at 25 Hz, diffusion to latents, a VAE to samples.

The stages follow LeVo 2 (tencent-ailab/SongGeneration at b1b03ec, codeclm/tokenizer/Flow1dVAE); the released
model decodes vocal and accompaniment together into a stereo mix. Here each track is decoded from its own stream,
so that the mix is the sum of its stems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import LayoutError
from songkit.interfaces import Codec
from songkit.types import TRACKS, Audio, Codes, Stream, TokenLayout
from songkit_levo2.configs import MusicCodecConfig
from songkit_levo2.diffusion import FlowTransformer
from songkit_levo2.semantic import SemanticTokenizer
from songkit_levo2.vae import VAE

__all__ = ["MusicCodec", "build"]


def build(config: MusicCodecConfig) -> MusicCodec:
    """Makes the codec with random weights."""
    return MusicCodec(config)


class MusicCodec(Codec):
    """Semantic tokenizer, flow transformer and VAE as one codec."""

    channels = 1
    tracks = TRACKS

    def __init__(self, config: MusicCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.vae.sample_rate
        self.vae = VAE(config.vae)
        self.semantic = SemanticTokenizer(config.semantic, config.vae)
        self.diffusion = FlowTransformer(config.diffusion, features=config.semantic.dims[1], latent=config.vae.latent)
        size = config.semantic.codebook_size
        self.layout = TokenLayout(self.sample_rate / self.vae.frame, tuple(Stream(track, 0, size) for track in TRACKS))

    @property
    def decoded_tracks(self) -> tuple[str, ...]:  # type: ignore[override]  # read-only here
        """Vocal and accompaniment; `decode` makes `mix` instead when it is given the mixed stream alone."""
        return ("vocal", "accompaniment")

    def decodes(self, layout: TokenLayout) -> tuple[str, ...]:
        """Returns the tracks of a layout; the mixed stream is decoded when it is alone."""
        return ("mix",) if layout.tracks == ("mix",) else super().decodes(layout)

    @torch.no_grad()
    def encode(self, audio: Audio) -> Codes:
        """Turns the tracks that are there, [B, C, T], into ids [B, K, F]; channels are averaged.

        Songs are encoded one at a time and at their own length, so that neither padding nor company changes ids.

        Raises:
            LayoutError: If the sample rate is not the codec's or no track is known.
        """
        if audio.sample_rate != self.sample_rate:
            raise LayoutError(f"the codec encodes audio at {self.sample_rate} Hz, this is at {audio.sample_rate} Hz")
        layout = self.layout.select(audio.tracks)
        if not layout.streams:
            raise LayoutError(
                f"the codec encodes {', '.join(TRACKS)}; the audio has {', '.join(audio.tracks) or 'none'}"
            )
        frame = self.vae.frame
        lengths = -(-audio.lengths // frame)
        ids = torch.zeros(len(lengths), len(layout), int(lengths.max()), dtype=torch.int64, device=audio.lengths.device)
        for row, stream in enumerate(layout.streams):
            mono = audio.tracks[stream.track].mean(1)
            for b, samples in enumerate(audio.lengths.tolist()):
                wave = functional.pad(mono[b : b + 1, :samples], (0, -samples % frame))
                ids[b, row, : lengths[b]] = self.semantic.ids(wave, stream.track)[0]
        return Codes(ids, lengths, layout)

    def encoding_module(self) -> nn.Module:
        """Returns the semantic tokenizer: codes stay valid when VAE or flow transformer are trained on."""
        return self.semantic

    @torch.no_grad()
    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        """Turns ids [B, K, F] into one waveform [B, 1, F * frame] for each track of the codes.

        The mixed stream is decoded only when it is alone: otherwise the mix is the sum of the other tracks.
        """
        names = tuple(t for t in codes.layout.tracks if t != "mix") or ("mix",)
        seeds = list(seeds) or [0] * len(codes.lengths)
        longest = int(codes.lengths.max()) * self.vae.frame
        tracks = {}
        done = 0.0
        for name in names:
            stream = codes.ids[:, codes.layout.index(name)]
            waves = []
            for ids, frames, seed in zip(stream, codes.lengths.tolist(), seeds, strict=True):
                wave = self._decode_track(ids[None, :frames], name, seed) if frames else stream.new_zeros(1, 0).float()
                waves.append(functional.pad(wave, (0, longest - wave.shape[1])))
                done += frames / self.layout.frame_rate
                if progress is not None:
                    progress(done)
            tracks[name] = torch.stack(waves)
        return Audio(tracks, codes.lengths * self.vae.frame, self.sample_rate)

    def code_vectors(self, track: str) -> Tensor:
        """Returns the codes [V, d] of a track's quantizer, unit vectors: near ones sound alike."""
        return self.semantic.quantizers[track].codes  # type: ignore[return-value]  # a Quantizer's buffer

    def latents(self, ids: Tensor, track: str, seed: int) -> Tensor:
        """Returns standardised latents [1, F, D] of ids [1, F], in windows that continue each other."""
        settings = self.config.diffusion
        window = max(2, round(settings.window_seconds * self.layout.frame_rate))
        overlap = min(round(settings.overlap_seconds * self.layout.frame_rate), window // 2)
        frames = ids.shape[1]
        features = self.semantic.features_of(ids, track)
        condition = self.diffusion.condition({track: features}, track)
        # One draw a frame for the whole song: the noise of a frame does not depend on where windows begin.
        draw = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), TRACKS.index(track)]))
        noise = torch.from_numpy(draw.standard_normal((1, frames, self.vae.latent), dtype=np.float32)).to(ids.device)
        made = noise.new_zeros(1, 0, self.vae.latent)
        while made.shape[1] < frames:
            start = max(0, made.shape[1] - overlap)
            part = slice(start, min(frames, start + window))
            known = made[:, start:]
            given = functional.pad(known, (0, 0, 0, part.stop - start - known.shape[1]))
            flag = (torch.arange(start, part.stop, device=ids.device) < made.shape[1]).float()[None, :, None]
            latents = self.diffusion.sample(condition[:, part], given, flag, noise[:, part])
            made = torch.cat([made[:, :start], latents], 1)
        return made

    def _decode_track(self, ids: Tensor, track: str, seed: int) -> Tensor:
        return self.vae.decode(self.vae.restore(self.latents(ids, track, seed)))
