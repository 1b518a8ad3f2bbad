"""EnCodec at 48 kHz: segments of a second that overlap by a hundredth, each coded at the same loudness."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from songkit.published import PublishedCodec
from songkit_encodec.configs import Encodec48Config
from songkit_encodec.model import ENTRIES, make_model, state_of

__all__ = ["SegmentedEncodec", "build", "loudness_id", "loudness_of"]

_RATE, _HOP = 48000, 320
_LEVELS = 16
_FRAMES = 150
"""Frames of a segment."""
_STEPS, _FULL_SCALE = 8, 960
"""Loudness ids to a decibel, and the id of an RMS of 1: from -120 dB to +7.9 dB in steps of 1/8 dB."""


def build(config: Encodec48Config) -> SegmentedEncodec:
    """Makes the codec with random weights."""
    return SegmentedEncodec(config)


class SegmentedEncodec(PublishedCodec):
    """The 48 kHz model of "High Fidelity Neural Audio Compression" (Défossez et al., 2022), run by its own package.

    The package codes a segment as ids and a factor, its loudness. Here the loudness is one more stream, in steps of
    1/8 dB and the same in all frames of a segment, so that ids alone make the song. Segments begin 47520 samples apart
    and have 150 frames, hence the frame rate of 150 / 0.99 Hz. The last segment ends where its frames do: the song is
    continued by silence up to there, at most 480 samples past the last frame's end.
    """

    def __init__(self, config: Encodec48Config) -> None:
        model = make_model(config, sample_rate=_RATE, channels=2, levels=_LEVELS, causal=False, segment=1.0)
        used = model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, config.bandwidth)
        frame_rate = _RATE * _FRAMES / model.segment_stride
        super().__init__(config.tracks, [ENTRIES] * (used + 1), frame_rate=frame_rate, sample_rate=_RATE, channels=2)
        self.model = model
        self._stride, self._length = model.segment_stride, model.segment_length

    def published_state(self, content: Any) -> Mapping[str, Tensor]:
        """Returns the state of a file such as `encodec_48khz-7e698e3e.th`."""
        return state_of(content, "encodec_48khz")

    def encode_track(self, wave: Tensor) -> Tensor:
        """Turns samples [2, T] into ids [levels, F]; the last level is the loudness."""
        frames = math.ceil(wave.shape[1] * self.layout.frame_rate / _RATE)
        end = self._samples(frames)
        parts = []
        for number in range(-(-frames // _FRAMES)):
            start = number * self._stride
            segment = wave[None, :, start : start + self._length]
            wanted = min(self._length, end - start)
            codes, scale = self.model._encode_frame(functional.pad(segment, (0, wanted - segment.shape[2])))
            loudness = codes.new_full((1, codes.shape[2]), loudness_id(float(scale)))
            parts.append(torch.cat([codes[0], loudness]))
        return torch.cat(parts, 1)

    def decode_track(self, ids: Tensor) -> Tensor:
        """Turns ids [levels, F] into samples [2, T], T = F / frame rate; a segment has its median loudness."""
        frames = ids.shape[1]
        # A triangle over each segment weighs it against its neighbours, as the package does.
        longest = self._length if frames >= _FRAMES else frames * _HOP
        weight = 0.5 - (torch.linspace(0, 1, longest + 2, device=ids.device)[1:-1] - 0.5).abs()
        wave = torch.zeros(2, self._samples(frames), device=ids.device)
        total = wave.new_zeros(wave.shape[1])
        for number, segment in enumerate(ids.split(_FRAMES, 1)):
            scale = wave.new_full((1, 1), loudness_of(int(segment[-1].median())))
            made = self.model._decode_frame((segment[None, :-1], scale))[0]
            part = slice(number * self._stride, number * self._stride + made.shape[1])
            wave[:, part] += weight[: made.shape[1]] * made
            total[part] += weight[: made.shape[1]]
        return (wave / total)[:, : round(frames * _RATE / self.layout.frame_rate)]

    def _samples(self, frames: int) -> int:
        """Returns where the last segment of so many frames ends."""
        segments = -(-frames // _FRAMES)
        return (segments - 1) * self._stride + (frames - (segments - 1) * _FRAMES) * _HOP


def loudness_id(scale: float) -> int:
    """Returns the id of a segment's loudness, the root mean square of its channels' mean."""
    decibels = 20 * math.log10(scale)
    return min(max(round(_STEPS * decibels) + _FULL_SCALE, 0), ENTRIES - 1)


def loudness_of(loudness: int) -> float:
    """Returns the loudness that an id stands for."""
    return 10.0 ** ((loudness - _FULL_SCALE) / (20 * _STEPS))
