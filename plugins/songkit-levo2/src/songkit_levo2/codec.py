"""The music codec: three token streams at 25 Hz, diffusion to latents, a VAE to samples.

The stages follow LeVo 2 (tencent-ailab/SongGeneration at b1b03ec, codeclm/tokenizer/Flow1dVAE). `MusicCodec` puts three
exchangeable parts together; `build` makes the miniature of them and `build_dual_track` the released model. Each track
is decoded by itself, so that the mix is the sum of its stems: from its own stream alone, or, where the flow transformer
hears both tracks, beside an id that stands for silence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from songkit.errors import LayoutError
from songkit.types import Audio, Codes, TokenLayout
from songkit_levo2.codec_configs import DualTrackCodecConfig
from songkit_levo2.configs import MusicCodecConfig
from songkit_levo2.conformer import ConformerTokenizer
from songkit_levo2.diffusion import FlowTransformer
from songkit_levo2.dual_track import DualTrackFlow
from songkit_levo2.oobleck import OobleckVAE
from songkit_levo2.semantic import SemanticTokenizer
from songkit_levo2.vae import VAE
from songkit_levo2.windows import WindowedCodec

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
        opening_seconds=config.diffusion.opening_seconds,
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
        opening_seconds=config.opening_seconds,
        fill_windows=config.fill_windows,
        silence=config.silence,
    )


class MusicCodec(WindowedCodec):
    """Semantic tokenizer, flow transformer and VAE as one codec; `windows` has how ids become latents."""

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
            for i, frames in enumerate(codes.lengths.tolist()):
                place = 0
                for piece in self.stream_track([stream[i : i + 1, :frames]], name, seeds[i]):
                    waves[i, :, place : place + piece.shape[2]] = piece[0]
                    place += piece.shape[2]
                done += frames / self.layout.frame_rate
                if progress is not None:
                    progress(done)
            tracks[name] = waves
        return Audio(tracks, codes.lengths * self.vae.frame, self.sample_rate)

    def lighten(self) -> None:
        """Lets the flow transformer multiply in bfloat16, if it can."""
        self.diffusion.light = self.diffusion.can_be_light

    def stream(
        self, parts: Iterable[Codes], *, layout: TokenLayout, seed: int = 0, prompt: Audio | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Decodes one song while its codes arrive; the first pieces come after the first window.

        They are those of `decode` where the VAE decodes in chunks, and else differ from them by rounding: by less than
        1e-4 of the largest sample. With a prompt, a track goes on where the prompt's ends, as a window goes on where
        the one before ends.
        """
        names = self.decodes(layout)
        chunk = self.vae.chunk or round(_PIECE_SECONDS * self.layout.frame_rate)
        arriving = itertools.tee(parts, len(names))
        rows = [map(functools.partial(_row, track=name), own) for name, own in zip(names, arriving, strict=True)]
        tracks = [
            self.stream_track(own, name, seed, chunk=chunk, prompt=prompt)
            for name, own in zip(names, rows, strict=True)
        ]
        for pieces in zip(*tracks, strict=True):
            yield dict(zip(names, pieces, strict=True))

    @torch.no_grad()
    def stream_track(
        self,
        parts: Iterable[Tensor],
        track: str,
        seed: int,
        *,
        chunk: int | None = None,
        prompt: Audio | None = None,
    ) -> Iterator[Tensor]:
        """Turns ids [1, F] that arrive in parts into waveform, in pieces [1, C, T] that are yielded when they are done.

        The first piece comes after the first window, however long the song is; memory does not grow with the song.

        Args:
            parts: The track's ids, in order.
            track: Its name.
            seed: Of the noise.
            chunk: Frames in a piece. By default the VAE's own (0, all, for the miniature), which `decode` returns too;
                others differ from it by rounding.
            prompt: What comes before the song. It is no part of the result.
        """
        known = self._known(prompt, track)
        latents = (self.vae.restore(part) for part in self._windows(parts, track, seed, known))
        if known is None:
            yield from self.vae.decode_stream(latents, chunk)
            return
        # The first samples depend on the latents before them, too.
        before = self.vae.restore(known.latents[:, -self.vae.reach :])
        yield from self.vae.decode_stream(itertools.chain([before], latents), chunk, before=before.shape[1])

    def code_vectors(self, track: str) -> Tensor:
        """Returns the codes [V, d] of a track's quantizer: those in near directions sound alike."""
        return self.semantic.quantizers[track].codes  # type: ignore[return-value]  # a Quantizer's buffer


def _row(codes: Codes, track: str) -> Tensor:
    return codes.ids[:, codes.layout.index(track)]


_PIECE_SECONDS = 2.0
"""Length of a streamed piece where the VAE has none of its own."""
