"""The music codec: three token streams at 25 Hz, diffusion to latents, a VAE to samples.

The stages follow LeVo 2 (tencent-ailab/SongGeneration at b1b03ec, codeclm/tokenizer/Flow1dVAE). `MusicCodec` puts three
exchangeable parts together; `build` makes the miniature of them and `build_dual_track` the released model. Each track
is decoded by itself, so that the mix is the sum of its stems: from its own stream alone, or, where the flow transformer
hears both tracks, beside an id that stands for silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import LayoutError
from songkit.interfaces import Codec
from songkit.types import TRACKS, Audio, Codes, Stream, TokenLayout
from songkit_levo2.codec_configs import DualTrackCodecConfig
from songkit_levo2.configs import MusicCodecConfig
from songkit_levo2.conformer import ConformerTokenizer
from songkit_levo2.diffusion import FlowMatching, FlowTransformer
from songkit_levo2.dual_track import DualTrackFlow
from songkit_levo2.oobleck import OobleckVAE
from songkit_levo2.semantic import Semantic, SemanticTokenizer
from songkit_levo2.vae import VAE, LatentVAE

__all__ = ["MusicCodec", "build", "build_dual_track"]


def build(config: MusicCodecConfig) -> MusicCodec:
    """Makes the miniature's codec with random weights."""
    return MusicCodec(
        VAE(config.vae),
        SemanticTokenizer(config.semantic, config.vae),
        FlowTransformer(config.diffusion, features=config.semantic.dims[1], latent=config.vae.latent),
        sample_rate=config.vae.sample_rate,
        window_seconds=config.diffusion.window_seconds,
        overlap_seconds=config.diffusion.overlap_seconds,
    )


def build_dual_track(config: DualTrackCodecConfig) -> MusicCodec:
    """Makes the codec at full size with random weights."""
    return MusicCodec(
        OobleckVAE(config.vae),
        ConformerTokenizer(config.semantic),
        DualTrackFlow(config.diffusion, features=config.semantic.dim, latent=config.vae.latent),
        sample_rate=config.vae.sample_rate,
        window_seconds=config.window_seconds,
        overlap_seconds=config.overlap_seconds,
        fill_windows=config.fill_windows,
        silence=config.silence,
    )


class MusicCodec(Codec):
    """Semantic tokenizer, flow transformer and VAE as one codec."""

    def __init__(
        self,
        vae: LatentVAE,
        semantic: Semantic,
        diffusion: FlowMatching,
        *,
        sample_rate: int,
        window_seconds: float,
        overlap_seconds: float,
        fill_windows: bool = False,
        silence: Mapping[str, int] | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            vae: Waveform to latents and back.
            semantic: Waveform to ids, ids to features.
            diffusion: Features to latents.
            sample_rate: Samples per second.
            window_seconds: Length of the windows in which latents are made.
            overlap_seconds: Part of a window that is given by the window before; at most half of it counts.
            fill_windows: Whether a song's ids are repeated to fill the last window.
            silence: For flow transformers that hear several tracks together, the id of each that is silent. By default
                a track is made of its own ids alone.
        """
        super().__init__()
        self.sample_rate, self.channels = sample_rate, vae.channels
        self.vae, self.semantic, self.diffusion = vae, semantic, diffusion
        self.silence = dict(silence or {})
        rate = sample_rate / vae.frame
        self.window = max(2, round(window_seconds * rate))
        self.overlap = min(round(overlap_seconds * rate), self.window // 2)
        self.fill_windows = fill_windows
        self.tracks = tuple(track for track in TRACKS if track in semantic.quantizers)
        self.layout = TokenLayout(rate, tuple(Stream(track, 0, semantic.size) for track in self.tracks))

    @property
    def decoded_tracks(self) -> tuple[str, ...]:  # type: ignore[override]  # read-only here
        """Vocal and accompaniment; some codecs make `mix` instead when they are given the mixed stream alone."""
        return ("vocal", "accompaniment")

    def decodes(self, layout: TokenLayout) -> tuple[str, ...]:
        """Returns the tracks of a layout; the mixed stream is decoded when it is alone and the flow can make it."""
        return ("mix",) if layout.tracks == ("mix",) and not self.silence else super().decodes(layout)

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
                f"the codec encodes {', '.join(self.tracks)}; the audio has {', '.join(audio.tracks) or 'none'}"
            )
        lengths = -(-audio.lengths // self.vae.frame)
        ids = torch.zeros(len(lengths), len(layout), int(lengths.max()), dtype=torch.int64, device=audio.lengths.device)
        for row, stream in enumerate(layout.streams):
            for b, samples in enumerate(audio.lengths.tolist()):
                if samples:
                    wave = audio.tracks[stream.track][b, :, :samples]
                    ids[b, row, : lengths[b]] = self.semantic.song_ids(wave, stream.track)
        return Codes(ids, lengths, layout)

    def encoding_module(self) -> nn.Module:
        """Returns the semantic tokenizer: codes stay valid when VAE or flow transformer are trained on."""
        return self.semantic

    @torch.no_grad()
    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        """Turns ids [B, K, F] into one waveform [B, C, F * frame] for each track of the codes.

        The mixed stream is decoded only when it is alone: otherwise the mix is the sum of the other tracks.
        """
        names = self.decodes(codes.layout)
        seeds = list(seeds) or [0] * len(codes.lengths)
        longest = int(codes.lengths.max()) * self.vae.frame
        tracks = {}
        done = 0.0
        for name in names:
            stream = codes.ids[:, codes.layout.index(name)]
            waves = torch.zeros(len(seeds), self.channels, longest, device=stream.device)
            for wave, ids, frames, seed in zip(waves, stream, codes.lengths.tolist(), seeds, strict=True):
                place = 0
                for piece in self.stream(ids[None, :frames], name, seed):
                    wave[:, place : place + piece.shape[2]] = piece[0]
                    place += piece.shape[2]
                done += frames / self.layout.frame_rate
                if progress is not None:
                    progress(done)
            tracks[name] = waves
        return Audio(tracks, codes.lengths * self.vae.frame, self.sample_rate)

    @torch.no_grad()
    def stream(self, ids: Tensor, track: str, seed: int, chunk: int | None = None) -> Iterator[Tensor]:
        """Turns a track's ids [1, F] into its waveform, in pieces [1, C, T] that are yielded when they are done.

        The first piece comes after the first window, however long the song is; memory does not grow with the song.

        Args:
            ids: Of the whole track.
            track: Its name.
            seed: Of the noise.
            chunk: Frames in a piece. By default the VAE's own (0, all, for the miniature), which `decode` returns too;
                others differ from it by rounding.
        """
        if ids.shape[1]:
            windows = (self.vae.restore(latents) for latents in self._windows(ids, track, seed))
            yield from self.vae.decode_stream(windows, ids.shape[1], chunk)

    def code_vectors(self, track: str) -> Tensor:
        """Returns the codes [V, d] of a track's quantizer: those in near directions sound alike."""
        return self.semantic.quantizers[track].codes  # type: ignore[return-value]  # a Quantizer's buffer

    def latents(self, ids: Tensor, track: str, seed: int) -> Tensor:
        """Returns standardised latents [1, F, D] of a track's ids [1, F]."""
        return torch.cat(list(self._windows(ids, track, seed)), 1)

    def _windows(self, ids: Tensor, track: str, seed: int) -> Iterator[Tensor]:
        """Yields the new latents [1, F, D] of windows that continue each other."""
        frames = total = ids.shape[1]
        if self.fill_windows:
            hop = self.window - self.overlap
            total = self.window + hop * -(-max(0, frames - self.window) // hop)
            ids = ids[:, torch.arange(total, device=ids.device) % frames]
        heard = {other: torch.full_like(ids, silent) for other, silent in self.silence.items()} | {track: ids}
        features = {name: self.semantic.features_of(row, name) for name, row in heard.items()}
        condition = self.diffusion.condition(features, track)
        # One draw a frame for the whole song: the noise of a frame does not depend on where windows begin.
        draw = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), TRACKS.index(track)]))
        noise = torch.from_numpy(draw.standard_normal((1, total, self.vae.latent), dtype=np.float32)).to(ids.device)
        known, done = noise[:, :0], 0
        while done < frames:
            start = done - known.shape[1]
            part = slice(start, min(total, start + self.window))
            given = functional.pad(known, (0, 0, 0, part.stop - done))
            flag = (torch.arange(start, part.stop, device=ids.device) < done).float()[None, :, None]
            latents = self.diffusion.sample(condition[:, part], given, flag, noise[:, part])
            yield latents[:, done - start : frames - start]
            known, done = latents[:, latents.shape[1] - self.overlap :], part.stop
