"""Audio files and samples: read in a guarded process, convert, write atomically. No torchaudio, no torch."""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from songkit._decoder import DECODER
from songkit.errors import AudioError, OutputError
from songkit.types import Track

__all__ = ["SUFFIXES", "AudioFile", "SumTrack", "convert", "open_audio", "read_audio", "write_flac"]

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
"""Endings of the audio files that are read."""

_RATES = (4_000, 384_000)
_MOST_CHANNELS = 16


def read_audio(
    path: Path,
    sample_rate: int | None = None,
    channels: int | None = None,
    *,
    start: float = 0.0,
    stop: float | None = None,
    max_seconds: float = 1800.0,
) -> tuple[np.ndarray, int]:
    """Reads an audio file, or a part of it.

    Args:
        path: WAV, FLAC, MP3 or OGG; it may be damaged or malicious.
        sample_rate: Wanted rate; `None` keeps the file's own.
        channels: Wanted number of channels; `None` keeps the file's own.
        start: Where to begin, in seconds.
        stop: Where to end, in seconds; `None` is the end.
        max_seconds: The longest part that is read.

    Returns:
        float32 [C, T] and its rate.

    Raises:
        AudioError: The file is missing, damaged, empty or no audio, or the part is too long.
    """
    track = open_audio(path)
    begin = min(round(start * track.sample_rate), track.samples)
    end = track.samples if stop is None else min(round(stop * track.sample_rate), track.samples)
    seconds = (end - begin) / track.sample_rate
    if seconds <= 0:
        raise AudioError(
            f"audio file {path} has nothing from {start:g} s to {'its end' if stop is None else f'{stop:g} s'}: it is "
            f"{track.samples / track.sample_rate:.2f} s long. Choose a part inside it."
        )
    if seconds > max_seconds:
        raise too_long(path, seconds, max_seconds)
    audio = track.read(begin, end)
    rate = sample_rate or track.sample_rate
    return convert(audio, track.sample_rate, rate, channels), rate


def open_audio(path: Path) -> AudioFile:
    """Returns a track of an audio file, of which only the header is read now.

    Raises:
        AudioError: The file is missing, damaged, empty or no audio.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(f"audio file {path} cannot be read: {error.strerror}. Check the path.") from error
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"audio file {path} cannot be read: it is not a regular file. Name a file.")
    if not os.access(path, os.R_OK):
        raise AudioError(f"audio file {path} cannot be read: permission denied. Make it readable.")
    if status.st_size == 0:
        raise AudioError(f"audio file {path} is empty (0 bytes). Replace it.")
    track = AudioFile(path, **DECODER.properties(path))
    if not _RATES[0] <= track.sample_rate <= _RATES[1] or not 1 <= track.channels <= _MOST_CHANNELS:
        raise AudioError(
            f"audio file {path} has {track.sample_rate} Hz and {track.channels} channels; expected {_RATES[0]} to "
            f"{_RATES[1]} Hz and at most {_MOST_CHANNELS} channels. Convert it, or replace it if it is damaged."
        )
    return track


@dataclass(frozen=True)
class AudioFile:
    """A `Track` that reads from an audio file whatever range it is asked for."""

    path: Path
    sample_rate: int
    channels: int
    samples: int

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns float32 audio [C, T] of the samples from `start` up to `stop`.

        Raises:
            AudioError: The file is damaged there, or has changed.
        """
        begin, end, _ = slice(start, stop).indices(self.samples)
        audio = DECODER.read(self.path, begin, max(begin, end)).T
        if audio.shape != (self.channels, max(0, end - begin)):
            raise AudioError(f"audio file {self.path} has changed while it was in use. Open it again.")
        if not np.isfinite(audio).all():
            raise AudioError(f"audio file {self.path} holds samples that are no numbers (NaN or infinite). Replace it.")
        return np.ascontiguousarray(audio)


def too_long(path: Path, seconds: float, max_seconds: float) -> AudioError:
    """Returns the error for audio that is longer than allowed."""
    return AudioError(
        f"audio file {path} is {_duration(seconds)} long; at most {_duration(max_seconds)} are read. Cut it, or choose "
        "a part of it, or raise the limit."
    )


def convert(audio: np.ndarray, sample_rate: int, to_rate: int, channels: int | None = None) -> np.ndarray:
    """Resamples audio and changes its number of channels.

    Args:
        audio: float32 [C, T].
        sample_rate: Its rate.
        to_rate: The wanted rate.
        channels: The wanted number; fewer channels are the mean of all, more are copies of a mono signal.
            `None` keeps them.

    Returns:
        float32 [channels, round(T * to_rate / sample_rate)].
    """
    if channels is not None and channels != len(audio):
        mono = audio.mean(axis=0, keepdims=True, dtype=np.float32)
        audio = np.repeat(mono, channels, axis=0)
    if sample_rate == to_rate:
        return audio
    length = round(audio.shape[1] * to_rate / sample_rate)
    out = np.asarray(soxr.resample(np.ascontiguousarray(audio.T), sample_rate, to_rate, quality="HQ")).T
    # soxr's own rounding may differ by a sample
    return np.pad(out[:, :length], ((0, 0), (0, max(0, length - out.shape[1])))).astype(np.float32, copy=False)


@dataclass(frozen=True)
class SumTrack:
    """A `Track` that is a weighted sum of others of the same rate, channels and length."""

    parts: tuple[Track, ...]
    weights: tuple[float, ...] = ()
    """One for each part; all 1 when empty."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.parts[0].sample_rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.parts[0].channels

    @property
    def samples(self) -> int:
        """Length in samples."""
        return self.parts[0].samples

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns float32 audio [C, T] of the samples from `start` up to `stop`."""
        weights = self.weights or (1.0,) * len(self.parts)
        first, *rest = (np.float32(w) * part.read(start, stop) for w, part in zip(weights, self.parts, strict=True))
        return sum(rest, start=first)


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """Writes a 16-bit FLAC file so that at its name there is always either the old or the complete new content.

    Args:
        path: The file; its folder exists.
        audio: int16, or float32 that is rounded and clipped to [-1, 1), [C, T].
        sample_rate: Samples per second.

    Raises:
        AudioError: The samples are no numbers.
        OutputError: The file cannot be written; nothing is left behind.
    """
    if audio.dtype != np.int16:
        if not np.isfinite(audio).all():
            raise AudioError(f"{path} is not written: the audio holds samples that are no numbers (NaN or infinite).")
        audio = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
    content = io.BytesIO()
    soundfile.write(content, audio.T, sample_rate, format="FLAC", subtype="PCM_16")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose another."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{math.floor(seconds / 60)} min {seconds % 60:.0f} s"
