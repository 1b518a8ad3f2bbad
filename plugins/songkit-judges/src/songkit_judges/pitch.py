"""The judge of pitch: is the voice on the notes, and is it in a key?"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from songkit.errors import PluginError, RequestError
from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Note, Song
from songkit_judges.configs import PitchConfig
from songkit_judges.kept import KeptMetric, check_batch, track_samples
from songkit_judges.remembered import remembered
from songkit_judges.whisper import RATE, resample

__all__ = [
    "PitchMetric",
    "best_key_share",
    "chance_of_best_key",
    "note_errors",
    "pitch_class",
    "scale_of",
    "scale_share",
    "track_pitch",
]

_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_TONICS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_BINS = 12


class PitchMetric(KeptMetric):
    """Shares of the sung notes, and of the voiced frames, that are where they should be.

    `voiced`: share of the notes in which the tracker finds a voice at all, of songs whose notes are known. `in_tune`:
    share of those that are within the tolerance; `octave`: the same but for whole octaves.
    `in_key`: voiced frames within 50 cents of a note of the song's own key, where it is known; chance is 7/12.
    `in_best_key`: the same for the best of all 24 major and natural minor keys, and `best_key_chance`, what a melody
    of the same note lengths at random pitches reaches. `off_grid`: cents between a voiced frame and the nearest
    semitone, on average (lower is better); 25 for a voice that takes no notice of the semitones.
    """

    info = MetricInfo(
        needs=frozenset({"vocal"}),
        unit="share (off_grid: cents)",
        higher_is_better=True,
        per_song=True,
        opposite=frozenset({"off_grid"}),
    )

    def __init__(self, config: PitchConfig) -> None:
        super().__init__("right", "octave", "voiced", "notes", "in_key", "keyed", "best", "chance", "off", "frames")
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Tracks the pitch of the vocal track of each song."""
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            times, midi = track_pitch(
                track_samples(generated, "vocal", i), generated.sample_rate, tracker=self.config.tracker
            )
            notes = song.alignment.notes if song.alignment else ()
            errors = note_errors(notes, times, midi)
            known = errors[np.isfinite(errors)]
            folded = np.abs((known + 600) % 1200 - 600)
            sung = midi[np.isfinite(midi)]
            self.keep(
                song.id,
                right=[(np.abs(known) <= self.config.tolerance).sum()],
                octave=[(folded <= self.config.tolerance).sum()],
                voiced=[known.size],
                notes=[len(notes)],
                in_key=[scale_share(sung, scale_of(song.key), self.config.tolerance) * sung.size if song.key else 0],
                keyed=[sung.size if song.key else 0],
                best=[best_key_share(sung, self.config.tolerance) * sung.size],
                chance=[chance_of_best_key(midi, seed=self.config.seed) * sung.size],
                off=[100 * np.abs(sung - np.round(sung)).sum()],
                frames=[sung.size],
            )

    def compute(self) -> dict[str, Tensor]:
        """Returns the pooled shares, each with its interval; those that no song has the truth for are left out."""
        out: dict[str, Tensor] = {}
        for name, (parts, wholes) in _SHARES.items():
            out |= self.pool(name, parts, wholes, replicates=self.config.replicates, seed=self.config.seed)
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and the shares of each song; a `note` says why one has none."""
        rows: list[dict[str, float | str]] = []
        for song, arrays in self.kept():
            row: dict[str, float | str] = {"id": song}
            for name, (parts, wholes) in _SHARES.items():
                if arrays[wholes].sum() > 0:
                    row[name] = float(arrays[parts].sum() / arrays[wholes].sum())
            if not arrays["frames"].sum():
                row["note"] = "no voiced frame in the vocal track"
            rows.append(row)
        return rows


_SHARES = {
    "in_tune": ("right", "voiced"),
    "octave": ("octave", "voiced"),
    "voiced": ("voiced", "notes"),
    "in_key": ("in_key", "keyed"),
    "in_best_key": ("best", "frames"),
    "best_key_chance": ("chance", "frames"),
    "off_grid": ("off", "frames"),
}


@remembered
def track_pitch(audio: np.ndarray, sample_rate: int, *, tracker: str = "swift-f0") -> tuple[np.ndarray, np.ndarray]:
    """Tracks the pitch of a voice.

    Args:
        audio: Float samples [T] or [C, T].
        sample_rate: Samples per second.
        tracker: `swift-f0` or `harvest`.

    Returns:
        Times of the frames in seconds [N] and MIDI pitch [N] (69 = 440 Hz), NaN where no voice is found.

    Raises:
        PluginError: If the tracker's package is not installed.
    """
    samples = resample(audio, sample_rate, RATE)
    if tracker == "harvest":
        times, hertz = _harvest(samples)
    else:
        found = _swift().detect(samples, RATE)
        times, hertz = found.timestamps, np.where(found.confidence >= 0.5, found.pitch_hz, 0.0)
    with np.errstate(divide="ignore"):
        midi = 69 + 12 * np.log2(np.asarray(hertz) / 440)
    return np.asarray(times), np.where(np.isfinite(midi), midi, np.nan)


def note_errors(notes: Sequence[Note], times: np.ndarray, midi: np.ndarray) -> np.ndarray:
    """Returns how many cents the voice is off on each note [N], NaN where it is not voiced.

    The error of a note is the median over the voiced frames of its middle: the first fifth and the last tenth, where
    singers glide, are left out.
    """
    errors = np.full(len(notes), np.nan)
    for i, note in enumerate(notes):
        length = note.end - note.start
        inside = (times >= note.start + 0.2 * length) & (times <= note.end - 0.1 * length) & np.isfinite(midi)
        if inside.sum() >= 2:  # a single frame is as likely the tracker's mistake
            errors[i] = 100 * (np.median(midi[inside]) - note.pitch)
    return errors


def scale_of(key: str) -> np.ndarray:
    """Returns the pitch classes of a key's scale, bool [12]; minor is natural minor.

    Raises:
        RequestError: If the key is not written like `C:maj`, `F#:maj` or `Bb:min`.
    """
    tonic, _, mode = key.partition(":")
    if mode not in ("maj", "min"):
        raise RequestError(f"key '{key}' is not understood; expected tonic and mode, such as C:maj, F#:maj or Bb:min")
    root = pitch_class(tonic) + (3 if mode == "min" else 0)
    scale = np.zeros(_BINS, dtype=bool)
    scale[(root + np.array(_MAJOR)) % _BINS] = True
    return scale


def pitch_class(note: str) -> int:
    """Returns the number of semitones of a note such as `C`, `F#` or `Bb` above C.

    Raises:
        RequestError: If it is written in another way.
    """
    if not note or note[0] not in _TONICS or set(note[1:]) - set("#b"):
        raise RequestError(f"note '{note}' is not understood; expected a letter from A to G, with # or b behind it")
    return (_TONICS[note[0]] + note.count("#") - note[1:].count("b")) % _BINS


def scale_share(midi: np.ndarray, scale: np.ndarray, tolerance: float = 50.0) -> float:
    """Returns the share of the pitches [N] that lie within `tolerance` cents of a note of the scale, 0 of none."""
    nearest = np.round(midi)
    close = 100 * np.abs(midi - nearest) <= tolerance
    inside = scale[nearest.astype(int) % _BINS]
    return float((close & inside).mean()) if midi.size else 0.0


def best_key_share(midi: np.ndarray, tolerance: float = 50.0) -> float:
    """Returns the greatest `scale_share` over all keys."""
    scale = scale_of("C:maj")
    return max(scale_share(midi, np.roll(scale, shift), tolerance) for shift in range(_BINS))


def chance_of_best_key(midi: np.ndarray, *, seed: int = 0, draws: int = 200) -> float:
    """Returns the `best_key_share` that random pitches reach on average, 0 without a voice.

    Every run of frames on one semitone keeps its length and is given a pitch class at random: the fewer and longer the
    notes, the easier it is to find a key that holds them.

    Args:
        midi: Pitches of all frames [N], NaN where there is no voice.
        seed: Seed of the draws.
        draws: Number of random melodies.
    """
    semitone = np.where(np.isfinite(midi), np.round(midi), -1)
    borders = np.flatnonzero(np.diff(semitone)) + 1
    starts, ends = np.append(0, borders), np.append(borders, semitone.size)
    lengths = (ends - starts)[semitone[starts] >= 0] if semitone.size else np.zeros(0)
    if not lengths.size:
        return 0.0
    classes = np.random.default_rng(seed).integers(_BINS, size=(draws, lengths.size))
    weights = np.stack([((classes == c) * lengths).sum(axis=1) for c in range(_BINS)], axis=1)  # [draws, 12]
    scales = np.stack([np.roll(scale_of("C:maj"), shift) for shift in range(_BINS)], axis=1)  # [12, keys]
    return float(((weights @ scales).max(axis=1) / lengths.sum()).mean())


@functools.cache
def _swift() -> Any:
    try:
        from swift_f0 import SwiftF0
    except ImportError as error:
        raise PluginError("the pitch judge needs swift-f0, which is not installed: pip install swift-f0") from error
    return SwiftF0(threads=1, spin=False)


def _harvest(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hertz, times = _world().harvest(samples.astype(np.float64), RATE, f0_floor=60.0, f0_ceil=1200.0, frame_period=10.0)
    return times, hertz


@functools.cache
def _world() -> Any:
    package = importlib.util.find_spec("pyworld")
    if package is None or not package.submodule_search_locations:
        raise PluginError("the tracker harvest needs pyworld, which is not installed: pip install pyworld")
    # The package's __init__ (0.3.5) asks pkg_resources for its version, which setuptools has dropped; all that is
    # needed is its compiled module.
    finder = importlib.machinery.FileFinder(
        package.submodule_search_locations[0],
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    spec = finder.find_spec("pyworld")
    if spec is None or spec.loader is None:
        raise PluginError("pyworld is installed without its compiled module; pip install --force-reinstall pyworld")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
