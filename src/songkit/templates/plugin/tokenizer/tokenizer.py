"""A random-projection quantizer: tokens without any training (Chiu et al. 2022, arXiv 2202.01855)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from songkit.interfaces import Tokenizer
from songkit.types import Audio, Codes, Stream, TokenLayout

from .configs import TokenizerConfig

__all__ = ["RandomProjectionTokenizer"]


class RandomProjectionTokenizer(Tokenizer):
    """The id of a frame is the entry of a random codebook that points most like its projected spectrum."""

    channels = 1

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.sample_rate, self.frame, self.tracks = config.sample_rate, config.frame, tuple(config.tracks)
        streams = tuple(Stream(track, 0, config.codes) for track in config.tracks)
        self.layout = TokenLayout(config.sample_rate / config.frame, streams)
        # Buffers: they are saved with the weights, and no optimizer moves them.
        self.register_buffer("projection", torch.randn(config.frame // 2 + 1, config.dim))
        self.register_buffer("codebook", functional.normalize(torch.randn(config.codes, config.dim), dim=1))

    def encode(self, audio: Audio) -> Codes:
        """Finds the entry of every frame."""
        layout = self.layout.select(audio.tracks)
        lengths = -(-audio.lengths // self.frame)
        frames = int(lengths.max())
        rows = [self._tokens(audio.tracks[stream.track], frames) for stream in layout.streams]
        beyond = torch.arange(frames, device=lengths.device) >= lengths[:, None]
        return Codes(torch.stack(rows, 1).masked_fill(beyond[:, None], 0), lengths, layout)

    def _tokens(self, track: Tensor, frames: int) -> Tensor:
        """Returns ids [B, F] of a track [B, C, T]; behind a song's end it is zero."""
        wave = functional.pad(track.mean(1), (0, frames * self.frame - track.shape[2]))  # cuts where that is negative
        spectra = torch.fft.rfft(wave.unflatten(1, (frames, self.frame))).abs()  # [B, F, frame / 2 + 1]
        projected = torch.log1p(spectra) @ self.get_buffer("projection")
        return (projected @ self.get_buffer("codebook").T).argmax(-1)
