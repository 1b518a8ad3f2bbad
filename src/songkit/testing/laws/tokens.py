"""The laws of tokenizers and codecs."""

from __future__ import annotations

import math
from typing import Any

import torch

from songkit.interfaces import Codec, Tokenizer
from songkit.testing import samples
from songkit.testing.checks import law, require
from songkit.testing.subject import Subject
from songkit.types import TRACKS, Audio, Codes

__all__: list[str] = []

ENCODING = ("tokenizer", "codec")

FRAMES = (14, 9)
"""Lengths of the songs that are decoded."""


@law("layout", *ENCODING)
def layout(subject: Subject) -> None:
    """The layout tells the truth: ids [B, K, F] are whole numbers of its streams, each below its stream's size."""
    built: Tokenizer = subject.build()
    streams = built.layout.streams
    require(built.layout.frame_rate > 0, f"the frame rate is {built.layout.frame_rate}")
    require(
        len({(s.track, s.level) for s in streams}) == len(streams) > 0, f"streams repeat, or there are none: {streams}"
    )
    for track in (*built.layout.tracks, *built.tracks):
        require(track in TRACKS, f"the track '{track}' is none of {', '.join(TRACKS)}")
    codes = _encode(built, samples.audio(built))
    require(codes.layout == built.layout, f"encode gives {codes.layout}, and the layout is {built.layout}")
    require(codes.ids.dtype == torch.int64, f"ids are {codes.ids.dtype}; expected torch.int64")
    shape = (2, len(streams), int(codes.lengths.max()))
    require(codes.ids.shape == shape, f"ids have the shape {list(codes.ids.shape)}; expected {list(shape)}")
    for k, stream in enumerate(streams):
        low, high = int(codes.ids[:, k].min()), int(codes.ids[:, k].max())
        require(low >= 0 and high < stream.size, f"ids of {stream} go from {low} to {high}")


@law("frames", *ENCODING)
def frames(subject: Subject) -> None:
    """T samples give ceil(T * frame rate / sample rate) frames, whatever T; frames beyond a song's length are zero."""
    built: Tokenizer = subject.build()
    audio = samples.audio(built, (1.0, 0.37))
    codes = _encode(built, audio)
    expected = [math.ceil(t * built.layout.frame_rate / built.sample_rate) for t in audio.lengths.tolist()]
    found = codes.lengths.tolist()
    require(found == expected, f"{audio.lengths.tolist()} samples gave {found} frames; expected {expected}")
    for row, length in zip(codes.ids, found, strict=True):
        require(not row[:, length:].any(), "ids beyond a song's length are not zero")


@law("batch", *ENCODING)
def batch(subject: Subject) -> None:
    """A song's ids are the same alone and in a batch."""
    built: Tokenizer = subject.build()
    audio = samples.audio(built)
    together = _encode(built, audio)
    for i in range(2):
        alone = _encode(built, samples.listened(audio, slice(i, i + 1)))
        _same_ids(together, i, alone, "in a batch of two than alone")


@law("padding", *ENCODING)
def padding(subject: Subject) -> None:
    """Zeros behind the end of a song change none of its ids."""
    built: Tokenizer = subject.build()
    audio = samples.listened(samples.audio(built), slice(0, 1))
    length = int(audio.lengths[0])
    padded = _encode(built, samples.listened(audio, slice(0, 1), length + built.sample_rate))
    _same_ids(padded, 0, _encode(built, audio), "with a second of padding than without")


@law("silence", *ENCODING)
def silence(subject: Subject) -> None:
    """Silence has ids like any other audio, and a codec makes finite samples of them."""
    built: Tokenizer = subject.build()
    codes = _encode(built, samples.audio(built, silent=True))
    sizes = torch.tensor([stream.size for stream in codes.layout.streams])[:, None]
    require(bool(((codes.ids >= 0) & (codes.ids < sizes)).all()), "the ids of silence lie outside of the layout")
    if isinstance(built, Codec):
        _require_finite(_decode(built, codes.select(built.decoded_tracks)))


@law("inputs-kept", *ENCODING)
def inputs_kept(subject: Subject) -> None:
    """Encoding leaves the audio as it was, and decoding the ids."""
    built: Tokenizer = subject.build()
    audio = samples.audio(built)
    before = {name: track.clone() for name, track in audio.tracks.items()}
    codes = _encode(built, audio)
    for name, track in before.items():
        require(torch.equal(track, audio.tracks[name]), f"encode changed the {name} track in place")
    if isinstance(built, Codec):
        ids = codes.ids.clone()
        _decode(built, codes)
        require(torch.equal(ids, codes.ids), "decode changed the ids in place")


@law("decoded-tracks", "codec")
def decoded_tracks(subject: Subject) -> None:
    """`decode` makes the tracks that `decoded_tracks` promises for whole codes, and `decodes` for those of a track."""
    built: Codec = subject.build()
    codes = samples.codes(built.layout, FRAMES)
    made = _decode(built, codes).tracks
    require(set(made) == set(built.decoded_tracks), f"made {sorted(made)}; promised {sorted(built.decoded_tracks)}")
    for track in built.decoded_tracks:
        part = codes.select([track])
        if len(part.layout):
            made, promised = _decode(built, part).tracks, built.decodes(part.layout)
            require(set(made) == set(promised), f"made {sorted(made)} of {track}; promised {sorted(promised)}")


@law("decoded-length", "codec")
def decoded_length(subject: Subject) -> None:
    """F frames give audio [B, C, T] of F / frame rate seconds, to within a frame."""
    built: Codec = subject.build()
    audio = _decode(built, samples.codes(built.layout, FRAMES))
    frame = built.sample_rate / built.layout.frame_rate
    require(audio.sample_rate == built.sample_rate, f"the audio is at {audio.sample_rate} Hz, not {built.sample_rate}")
    for count, found in zip(FRAMES, audio.lengths.tolist(), strict=True):
        require(abs(found - count * frame) <= frame, f"{count} frames gave {found} samples; expected {count * frame:g}")
    for name, track in audio.tracks.items():
        fits = (
            track.dim() == 3 and track.shape[:2] == (2, built.channels) and track.shape[2] >= int(audio.lengths.max())
        )
        require(fits, f"{name} has the shape {list(track.shape)} for 2 songs of {built.channels} channels")
        require(track.dtype == torch.float32, f"{name} is {track.dtype}; expected torch.float32")


@law("finite", "codec")
def finite(subject: Subject) -> None:
    """All samples are finite, whatever the ids."""
    built: Codec = subject.build()
    _require_finite(_decode(built, samples.codes(built.layout, FRAMES, seed=3)))


@law("decoded-alone", "codec")
def decoded_alone(subject: Subject) -> None:
    """A song's samples depend on its own ids and seed only, and are zero beyond its length."""
    built: Codec = subject.build()
    codes = samples.codes(built.layout, FRAMES)
    together = _decode(built, codes, seeds=[3, 4])
    for i, length in enumerate(FRAMES):
        part = Codes(codes.ids[i : i + 1, :, :length], codes.lengths[i : i + 1], codes.layout)
        alone = _decode(built, part, seeds=[3 + i])
        count = int(alone.lengths[0])
        require(count == int(together.lengths[i]), f"song {i} has {count} samples alone and {int(together.lengths[i])}")
        for name, track in together.tracks.items():
            error = (track[i, :, :count] - alone.tracks[name][0, :, :count]).abs().max()
            require(float(error) < 1e-4, f"the {name} of song {i} is off by {float(error):.2g} beside another song")
            require(not track[i, :, count:].any(), f"the {name} of song {i} goes on beyond its length")


@law("decoded-track", "codec")
def decoded_track(subject: Subject) -> None:
    """A track that can be decoded alone, as `songkit generate --tracks` does, is what it is beside the others."""
    built: Codec = subject.build()
    codes = samples.codes(built.layout, FRAMES)
    together = _decode(built, codes, seeds=[3, 4]).tracks
    for track in built.decoded_tracks:
        part = codes.select([track])
        if len(part.layout) and built.decodes(part.layout) == (track,):
            alone = _decode(built, part, seeds=[3, 4]).tracks[track]
            error = (together[track] - alone).abs().max()
            require(float(error) < 1e-4, f"the {track} is off by {float(error):.2g} beside the other tracks")


def _encode(built: Tokenizer, audio: Audio) -> Codes:
    with torch.no_grad():
        return built.encode(audio)


def _decode(built: Codec, codes: Codes, **options: Any) -> Audio:
    with torch.no_grad():
        return built.decode(codes, **options)


def _require_finite(audio: Audio) -> None:
    for name, track in audio.tracks.items():
        require(bool(torch.isfinite(track).all()), f"the decoded {name} holds samples that are not finite")


def _same_ids(one: Codes, row: int, other: Codes, how: str) -> None:
    length = int(other.lengths[0])
    require(int(one.lengths[row]) == length, f"song {row} has {int(one.lengths[row])} frames {how}: {length}")
    share = (one.ids[row, :, :length] != other.ids[0, :, :length]).float().mean()
    require(float(share) == 0, f"{100 * float(share):.0f}% of the ids of song {row} are others {how}")
