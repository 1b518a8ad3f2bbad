"""What the reward hears of a song: measures of tune, harmony, time and sound, and musicnn's embedding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from songkit.errors import RequestError
from songkit.evaluate import song_audio
from songkit.types import Audio, Song
from songkit_judges.ensemble import band_key, vocal_level
from songkit_judges.harmony import CHROMA_SECONDS, chroma_frames, hear_chords
from songkit_judges.kept import levelled, track_samples
from songkit_judges.melody import fifths_apart, share_on
from songkit_judges.musicnn import listen
from songkit_judges.pitch import best_key_share, chance_of_best_key, scale_share, track_pitch
from songkit_judges.quality import faults
from songkit_judges.tempo import hear_tempo, onset_strength

__all__ = ["MEASURES", "SIZE", "features_of", "measures", "stems"]

MEASURES = (
    "off_grid",  # cents between voiced frames and the nearest semitone
    "over_chance",  # voiced frames in the best key, over what random notes reach
    "wobble",  # cents by which the pitch moves around its mean over .3 s: vibrato, or unsteadiness
    "glides",  # share of the voiced frames that move more than 30 cents in 20 ms
    "voiced",  # share of the frames that are voiced
    "on_chord",
    "in_band_key",
    "band_in_key",
    "keys_apart",
    "chord_fit",  # share of the band's tonal energy on the triads that are heard
    "clashes",  # product of neighbouring pitch classes, as a share of all products
    "vocal_level",  # dB of the voice over the band
    "vocal_level_squared",  # too loud is as wrong as too soft
    "pulse_band",
    "pulse_voice",
    "together",  # correlation of the onsets of voice and band
    "accents",  # spread of the strength of the band's onsets over their mean
    "dynamics",  # dB of the spread of the mix's level
    "flatness",
)
"""Names of the measures, in order; each is 0 where it cannot be told."""

_LEVEL = 0.1
"""Root mean square at which every song is heard."""
SIZE = len(MEASURES) + 200
"""Features of a song: the measures, then the embedding."""


def features_of(audio: Audio) -> Tensor:
    """Returns the features of each song of a batch, float32 [B, SIZE]; each song is heard alone.

    Raises:
        RequestError: If there is no vocal or no accompaniment.
        PluginError: If the package musicnn is not installed.
    """
    missing = {"vocal", "accompaniment"} - set(audio.tracks)
    if missing:
        raise RequestError(
            f"musicality is heard in vocal and accompaniment, and there is no {', no '.join(sorted(missing))}; "
            f"the songs have {', '.join(audio.tracks) or 'no tracks'}"
        )
    rows = []
    for i in range(len(audio.lengths)):
        vocal, band = (track_samples(audio, name, i) for name in ("vocal", "accompaniment"))
        vocal, band = levelled(vocal + band, _LEVEL, vocal, band)
        found = measures(vocal, band, audio.sample_rate)
        heard = listen(vocal + band, audio.sample_rate, "msd").embedding
        rows.append(np.concatenate([[found[name] for name in MEASURES], heard]))
    return torch.from_numpy(np.stack(rows)).float()


def stems(song: Song) -> Audio:
    """Returns the vocal and the accompaniment of a song as a batch of one.

    Raises:
        RequestError: If one of them is missing.
        AudioError: If they differ in rate or length.
    """
    lacking = {"vocal", "accompaniment"} - set(song.tracks)
    if lacking:
        raise RequestError(
            f"song '{song.id}' has no {', no '.join(sorted(lacking))}, so its musicality cannot be heard"
        )
    return song_audio(song, ["vocal", "accompaniment"])


def measures(vocal: np.ndarray, band: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Returns the measures of a song by name.

    Args:
        vocal: Float samples [C, T].
        band: Float samples [C, T].
        sample_rate: Samples per second.
    """
    mix = vocal + band
    found = dict.fromkeys(MEASURES, 0.0)
    times, midi = track_pitch(vocal, sample_rate)
    voiced = np.isfinite(midi)
    sung = midi[voiced]
    classes = chroma_frames(band, sample_rate)
    total = classes.sum(axis=0)
    chords = hear_chords(classes)
    found["voiced"] = float(voiced.mean()) if voiced.size else 0.0
    if sung.size:
        found["off_grid"] = 100 * float(np.abs(sung - np.round(sung)).mean())
        found["over_chance"] = best_key_share(sung) - chance_of_best_key(midi, draws=50)
        found["wobble"], found["glides"] = _steadiness(midi)
    if total.any():
        scale, found["band_in_key"] = band_key(total)
        found["chord_fit"] = float(classes[chords].sum() / classes.sum())
        share = total / total.sum()
        found["clashes"] = float((share * np.roll(share, 1)).sum() / (1 - np.square(share).sum() + 1e-9))
        if sung.size:
            frame = np.round(times[voiced] / CHROMA_SECONDS - 1).astype(int).clip(0, len(chords) - 1)
            hits, frames = share_on(sung, chords[frame])
            found["on_chord"] = hits / max(frames, 1)
            found["in_band_key"] = scale_share(sung, scale)
            found["keys_apart"] = float(fifths_apart(sung, total))
    level = vocal_level(vocal, band, sample_rate)
    if level is not None:
        found["vocal_level"] = float(np.clip(level, -30, 30))
        found["vocal_level_squared"] = found["vocal_level"] ** 2
    found["pulse_band"], found["pulse_voice"] = (hear_tempo(track, sample_rate)[1] for track in (band, vocal))
    onsets = [onset_strength(track, sample_rate) for track in (vocal, band)]
    found["together"] = _correlation(*onsets)
    peaks = onsets[1][1:-1][(onsets[1][1:-1] > onsets[1][:-2]) & (onsets[1][1:-1] >= onsets[1][2:])]
    peaks = peaks[peaks > 1.0]  # dB
    found["accents"] = float(peaks.std() / peaks.mean()) if peaks.size else 0.0
    hop = round(0.4 * sample_rate)
    parts = mix[:, : mix.shape[1] // hop * hop].reshape(mix.shape[0], -1, hop)
    if parts.size:
        found["dynamics"] = float(np.std(10 * np.log10(np.square(parts).mean(axis=(0, 2)) + 1e-6)))
    found["flatness"] = faults(mix, sample_rate)["flatness"]
    return found


def _steadiness(midi: np.ndarray) -> tuple[float, float]:
    """Returns how far the pitch moves around its running mean, in cents, and how often it glides."""
    around = 9  # frames of 16 ms on both sides
    if midi.size <= 2 * around:
        return 0.0, 0.0
    windows = np.lib.stride_tricks.sliding_window_view(midi, 2 * around + 1)
    held = np.isfinite(windows).all(axis=1)
    held[held] = np.ptp(windows[held], axis=1) < 1.5  # semitones: within a note
    wobble = 100 * float(windows[held].std(axis=1).mean()) if held.any() else 0.0
    steps = np.abs(np.diff(midi))
    steps = steps[np.isfinite(steps)]
    return wobble, float((steps > 0.3).mean()) if steps.size else 0.0


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length > 0 else 0.0
