"""A codec with one codebook of waveforms: a frame becomes the nearest piece, a piece becomes its frame again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.interfaces import Codec
from songkit.types import Audio, Codes, Stream, TokenLayout

from .configs import CodecConfig

__all__ = ["PieceCodec"]


class PieceCodec(Codec):
    """Vector quantization of the samples themselves, in mono."""

    channels = 1

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.sample_rate, self.frame = config.sample_rate, config.frame
        self.tracks = self.decoded_tracks = tuple(config.tracks)
        streams = tuple(Stream(track, 0, config.codes) for track in config.tracks)
        self.layout = TokenLayout(config.sample_rate / config.frame, streams)
        self.pieces = nn.Parameter(0.1 * torch.randn(config.codes, config.frame))

    def encode(self, audio: Audio) -> Codes:
        """Finds the nearest piece of every frame."""
        layout = self.layout.select(audio.tracks)
        lengths = -(-audio.lengths // self.frame)
        frames = int(lengths.max())
        rows = [self._nearest(audio.tracks[stream.track], frames) for stream in layout.streams]
        beyond = torch.arange(frames, device=lengths.device) >= lengths[:, None]
        return Codes(torch.stack(rows, 1).masked_fill(beyond[:, None], 0), lengths, layout)

    def decode(
        self, codes: Codes, *, seeds: Sequence[int] = (), progress: Callable[[float], None] | None = None
    ) -> Audio:
        """Strings pieces together; the seeds are not needed."""
        samples = codes.lengths * self.frame
        inside = torch.arange(codes.ids.shape[2] * self.frame, device=codes.ids.device) < samples[:, None]
        tracks = {}
        for number, stream in enumerate(codes.layout.streams):
            wave = self.pieces[codes.ids[:, number]].flatten(1)  # [B, F] to [B, F * frame]
            tracks[stream.track] = (wave * inside)[:, None]
            if progress is not None:
                progress(float(samples.sum()) * (number + 1) / self.sample_rate)
        return Audio(tracks, samples, self.sample_rate)

    def _nearest(self, track: Tensor, frames: int) -> Tensor:
        """Returns ids [B, F] of a track [B, C, T]; behind a song's end it is zero."""
        wave = functional.pad(track.mean(1), (0, frames * self.frame - track.shape[2]))  # cuts where that is negative
        pieces = wave.unflatten(1, (frames, self.frame))
        return (self.pieces.square().sum(1) - 2 * pieces @ self.pieces.T).argmin(-1)
