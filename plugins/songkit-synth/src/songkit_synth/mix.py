"""The mixing desk: dry voice and raw band to int16 tracks whose sum never clips."""

from __future__ import annotations

import functools

import numpy as np
import soxr
from scipy.signal import butter, oaconvolve, sosfilt

from songkit_synth.band import RATE as BAND_RATE
from songkit_synth.singer import RATE as VOICE_RATE
from songkit_synth.voices import Voice

__all__ = ["finish_band", "finish_voice"]

_VOICE_LEVEL = 0.085  # RMS of the voice where it sounds
_BAND_LEVEL = 0.060  # RMS of the band
_CEILING = 0.49  # peak of either, so that the sum of two stays below 1


def finish_voice(dry: np.ndarray, voice: Voice, *, sample_rate: int, channels: int, samples: int) -> np.ndarray:
    """Filters, compresses and places a voice in a room.

    Args:
        dry: float32 mono [T] at 24 kHz.
        voice: Whose equaliser is used.
        sample_rate: Of the result.
        channels: Of the result, 1 or 2.
        samples: Length of the result.

    Returns:
        int16 [C, samples].
    """
    sound = sosfilt(_equaliser(voice), dry).astype(np.float32)
    power = sosfilt(butter(1, 8, fs=VOICE_RATE, output="sos"), sound.astype(np.float64) ** 2)
    envelope = np.sqrt(np.maximum(power, 1e-10)).astype(np.float32)
    loud = envelope > 0.1 * float(envelope.max(initial=1e-5))
    level = float(np.sqrt(np.mean(sound[loud] ** 2))) if loud.any() else 1.0
    sound *= np.minimum(4.0, (level / np.maximum(envelope, 0.15 * level)) ** 0.5) / max(level, 1e-6)
    wet = [oaconvolve(sound, response)[: len(sound)] for response in _room(channels)]
    sound = np.stack([sound + 0.16 * w for w in wet]).astype(np.float32)
    active = sound[:, loud] if loud.any() else sound
    sound *= _VOICE_LEVEL / max(1e-6, float(np.sqrt(np.mean(active**2))))
    if sample_rate != VOICE_RATE:
        sound = soxr.resample(sound.T, VOICE_RATE, sample_rate, quality="HQ").T
    return _to_int16(sound, sample_rate, samples)


def finish_band(raw: np.ndarray, gain: float, *, sample_rate: int, channels: int, samples: int) -> np.ndarray:
    """Levels a band.

    Args:
        raw: float32 [2, T] at 48 kHz.
        gain: dB on top of the usual level.
        sample_rate: Of the result.
        channels: Of the result, 1 or 2.
        samples: Length of the result.

    Returns:
        int16 [C, samples].
    """
    sound = raw if channels == 2 else raw.mean(axis=0, keepdims=True)
    if sample_rate != BAND_RATE:
        sound = soxr.resample(sound.T, BAND_RATE, sample_rate, quality="HQ").T
    level = float(np.sqrt(np.mean(sound**2)))
    sound = sound * (_BAND_LEVEL * 10 ** (gain / 20) / max(level, 1e-6))
    return _to_int16(sound, sample_rate, samples)


def _to_int16(sound: np.ndarray, sample_rate: int, samples: int) -> np.ndarray:
    """Limits to the ceiling, fades the last tenth of a second, pads or cuts to `samples`."""
    count = min(samples, sound.shape[1])
    sound = np.array(sound[:, :count], np.float32)
    knee = 0.6 * _CEILING
    over = np.abs(sound) > knee
    size = np.abs(sound[over])
    sound[over] = np.sign(sound[over]) * (knee + (_CEILING - knee) * np.tanh((size - knee) / (_CEILING - knee)))
    tail = min(count, sample_rate // 10)
    sound[:, count - tail :] *= np.linspace(1, 0, tail, dtype=np.float32)
    sound *= 32767.0
    out = np.zeros((sound.shape[0], samples), np.int16)
    out[:, :count] = np.rint(sound, out=sound)
    return out


@functools.lru_cache(maxsize=16)
def _equaliser(voice: Voice) -> np.ndarray:
    """Returns second-order sections: rumble filter, one peak, one high shelf (RBJ audio-EQ cookbook)."""
    rate = VOICE_RATE
    centre, gain = voice.peak
    amp, w, alpha = 10 ** (gain / 40), 2 * np.pi * centre / rate, np.sin(2 * np.pi * centre / rate) / 2
    peak = [1 + alpha * amp, -2 * np.cos(w), 1 - alpha * amp, 1 + alpha / amp, -2 * np.cos(w), 1 - alpha / amp]
    amp, w = 10 ** (voice.tilt / 40), 2 * np.pi * 3000.0 / rate
    alpha, cos = np.sin(w) / np.sqrt(2), np.cos(w)
    root = 2 * np.sqrt(amp) * alpha
    shelf = [
        amp * (amp + 1 + (amp - 1) * cos + root),
        -2 * amp * (amp - 1 + (amp + 1) * cos),
        amp * (amp + 1 + (amp - 1) * cos - root),
        amp + 1 - (amp - 1) * cos + root,
        2 * (amp - 1 - (amp + 1) * cos),
        amp + 1 - (amp - 1) * cos - root,
    ]
    sections = [np.array(s) / s[3] for s in (peak, shelf)]
    return np.vstack([butter(2, 70.0, "highpass", fs=rate, output="sos"), *sections])


@functools.lru_cache(maxsize=2)
def _room(channels: int) -> tuple[np.ndarray, ...]:
    """Returns the room's impulse responses, of unit energy: noise that decays, without lows and highs."""
    rng = np.random.default_rng(20)
    count = int(0.7 * VOICE_RATE)
    decay = np.exp(-np.arange(count) / (0.13 * VOICE_RATE))
    band = butter(2, [250.0, 6000.0], "bandpass", fs=VOICE_RATE, output="sos")
    responses = [sosfilt(band, rng.standard_normal(count) * decay) for _ in range(channels)]
    delay = np.zeros(int(0.015 * VOICE_RATE))
    return tuple(np.concatenate([delay, r / np.sqrt(np.sum(r**2))]).astype(np.float32) for r in responses)
