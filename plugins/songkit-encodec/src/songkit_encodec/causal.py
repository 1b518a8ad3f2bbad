"""EnCodec at 24 kHz: causal, so that long songs are coded in parts with the network's state handed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from songkit.published import PublishedCodec
from songkit_encodec.configs import Encodec24Config
from songkit_encodec.model import ENTRIES, make_model, state_of
from songkit_encodec.streaming import Streamed

__all__ = ["CausalEncodec", "build"]

_RATE, _HOP = 24000, 320
_LEVELS = 32


def build(config: Encodec24Config) -> CausalEncodec:
    """Makes the codec with random weights."""
    return CausalEncodec(config)


class CausalEncodec(PublishedCodec):
    """The 24 kHz model of "High Fidelity Neural Audio Compression" (Défossez et al., 2022), run by its own package.

    Songs of up to `chunk_seconds` go through the package's own functions. Longer ones go through the same layers part
    by part, which is the same sum in another order: samples differ by rounding.
    """

    def __init__(self, config: Encodec24Config) -> None:
        model = make_model(config, sample_rate=_RATE, channels=1, levels=_LEVELS, causal=True, segment=None)
        used = model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, config.bandwidth)
        super().__init__(
            config.tracks, [ENTRIES] * used, frame_rate=float(model.frame_rate), sample_rate=_RATE, channels=1
        )
        self.model = model
        self._chunk = round(config.chunk_seconds * model.frame_rate)
        """Frames of a part."""

    def published_state(self, content: Any) -> Mapping[str, Tensor]:
        """Returns the state of a file such as `encodec_24khz-d7cc33bc.th`."""
        return state_of(content, "encodec_24khz")

    def encode_track(self, wave: Tensor) -> Tensor:
        """Turns samples [1, T] into ids [levels, F]."""
        samples = wave.shape[1]
        if not self._chunk or samples <= self._chunk * _HOP:
            [(codes, _)] = self.model.encode(wave[None])
            return codes[0]
        encoder = Streamed(self.model.encoder)
        parts = []
        for start, stop, last in self._parts(samples, self._chunk * _HOP):
            frames = encoder(wave[None, :, start:stop], last=last)
            parts.append(self.model.quantizer.encode(frames, self.model.frame_rate, self.model.bandwidth)[:, 0])
        return torch.cat(parts, 1)

    def decode_track(self, ids: Tensor) -> Tensor:
        """Turns ids [levels, F] into samples [1, 320 F]."""
        frames = ids.shape[1]
        if not self._chunk or frames <= self._chunk:
            return self.model.decode([(ids[None], None)])[0]
        decoder = Streamed(self.model.decoder)
        wave = torch.empty(1, frames * _HOP, device=ids.device)
        for start, stop, last in self._parts(frames, self._chunk):
            embedded = self.model.quantizer.decode(ids[:, None, start:stop])
            wave[:, start * _HOP : stop * _HOP] = decoder(embedded, last=last)[0]
        return wave

    @staticmethod
    def _parts(length: int, part: int) -> Iterator[tuple[int, int, bool]]:
        """Yields start and stop of each part, and whether it is the last."""
        for start in range(0, length, part):
            stop = min(start + part, length)
            yield start, stop, stop == length
