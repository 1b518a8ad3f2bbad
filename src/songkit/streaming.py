"""A song in pieces of audio that come while the rest of it is still being drawn."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch

from songkit._lockstep import Lockstep
from songkit._song_audio import decode_song, decoded_layout, prompt_audio
from songkit.progress import Progress, Reporter
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.singing import check_requests, sing, song_seed
from songkit.song_model import SongModel
from songkit.types import Codes

__all__ = ["stream", "wav_header", "wav_samples"]


def stream(
    model: SongModel,
    request: SongRequest,
    *,
    seed: int = 0,
    settings: GenerateSettings | None = None,
    tracks: Collection[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Sings a request and yields its audio while it is being drawn.

    The codes are those of `sing` with the same seed, and so is the audio, but for rounding (see the codec's `stream`)
    and for loudness: a song that would clip is turned down there as a whole, which nobody can know beforehand here.
    Models whose planner or refiner cannot be drawn step by step sing the whole song first.

    Args:
        model: What sings.
        request: What to sing.
        seed: Same seed, same song.
        settings: How to sample; those of the model's recipe by default.
        tracks: Which are wanted; all that the model makes by default. What they are made of is decoded, nothing else.
        progress: Told how far the drawing is.

    Yields:
        Pieces float32 [C, T] of the tracks and what they are made of, 1 being full scale; the mix is the sum of vocal
        and accompaniment where the model makes both.

    Raises:
        RequestError: If the model cannot sing the request, before any work.
    """
    settings = settings or model.settings()
    [prompt] = check_requests(model, [request], settings)
    own = song_seed(seed, request.id)
    if not Lockstep.can(model):
        [song] = sing(model, [request], seed=seed, settings=settings, tracks=tracks, progress=progress)
        voiceless = request.pure_music
        yield _summed(decode_song(model.codec, song.codes, own, voiceless=voiceless, prompt=prompt, tracks=tracks))
        return
    songs = Lockstep(model, [request], [prompt], [own], settings, places=1)
    layout = decoded_layout(model.codec, songs.layout, voiceless=request.pure_music, tracks=tracks)
    silent = request.pure_music and {"vocal", "accompaniment"} <= set(songs.layout.tracks)
    report = Reporter(progress, 1, 1, 1).stage("draw", songs.most)

    def parts() -> Iterator[Codes]:
        sent = 0
        for _ in songs.run():
            report(songs.frames())
            part = songs.codes(0, sent).arrange(layout)
            if part.ids.shape[2]:
                sent += part.ids.shape[2]
                yield part

    heard = None if prompt is None else prompt_audio(model.codec, prompt)
    pieces = model.codec.stream(parts(), layout=layout, seed=own, prompt=heard)
    some = False
    while True:
        with torch.inference_mode():
            piece = next(pieces, None)
        if piece is None:
            break
        some = True
        tracks = {name: track[0].float().cpu().numpy() for name, track in piece.items()}
        if silent:
            tracks["vocal"] = np.zeros_like(tracks["accompaniment"])
        yield _summed(tracks)
    if not some:
        yield _summed(decode_song(model.codec, songs.codes(0), own, voiceless=request.pure_music, tracks=tracks))


def wav_header(sample_rate: int, channels: int) -> bytes:
    """Returns the beginning of a 16-bit WAV of unknown length: it says the longest, and players read to the end."""
    frame, longest = 2 * channels, 2**32 - 1
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, sample_rate * frame, frame, 16)
    return struct.pack("<4sI4s", b"RIFF", longest, b"WAVE") + form + struct.pack("<4sI", b"data", longest)


def wav_samples(audio: np.ndarray) -> bytes:
    """Returns audio [C, T] as 16-bit samples; what is louder than full scale is cut off."""
    return np.rint(audio.T * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def _summed(tracks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if {"vocal", "accompaniment"} <= set(tracks):
        tracks = {"mix": tracks["vocal"] + tracks["accompaniment"], **tracks}
    return tracks
