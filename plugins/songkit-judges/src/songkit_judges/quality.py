"""The judges of sound quality: faults that can be measured, and opinions about voices that a network predicts."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from songkit.errors import CheckpointError, PluginError
from songkit.interfaces.metric import MetricInfo
from songkit.types import Audio, Song
from songkit_judges.configs import IntegrityConfig, VoiceQualityConfig
from songkit_judges.kept import KeptMetric, check_batch, levelled, track_samples
from songkit_judges.mel import mel_spectrogram
from songkit_judges.whisper import RATE, resample

__all__ = ["IntegrityMetric", "VoiceQualityMetric", "faults", "opinions"]


class IntegrityMetric(KeptMetric):
    """Faults of a recording that need no ear, of one track.

    `clipped`: share of the samples in runs of three or more at the limit of the format. `dropouts`: for each minute,
    gaps of digital silence between 5 and 250 ms in the middle of sound. `offset`: dB of the mean sample below full
    scale (-120 is none). `silent`: share of the 50 ms that are below -60 dB. `flatness`: how like noise the spectrum
    is, from 0 (tones) to 1. `loudness`: dB of the root mean square below full scale. `bandwidth`: Hz below which 99 %
    of the energy lies. Of the last two neither direction is better; they tell when a system differs from another.
    """

    def __init__(self, config: IntegrityConfig) -> None:
        super().__init__(*_FAULTS)
        self.config = config
        self.info = MetricInfo(
            needs=frozenset({config.track}),
            unit="share (dropouts: 1/min; offset, loudness: dB; bandwidth: Hz)",
            higher_is_better=False,
            per_song=True,
        )

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Measures each song."""
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            found = faults(track_samples(generated, self.config.track, i), generated.sample_rate)
            self.keep(song.id, **{name: [value] for name, value in found.items()})

    def compute(self) -> dict[str, Tensor]:
        """Returns the mean of each number over the songs, with its interval."""
        songs = [arrays for _, arrays in self.ordered()]
        out: dict[str, Tensor] = {}
        for name in _FAULTS:
            values = [float(arrays[name][0]) for arrays in songs]
            out |= self.mean(name, values, replicates=self.config.replicates, seed=self.config.seed)
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and all numbers of each song."""
        return [{"id": song, **{name: float(arrays[name][0]) for name in _FAULTS}} for song, arrays in self.kept()]


_FAULTS = ("clipped", "dropouts", "offset", "silent", "flatness", "loudness", "bandwidth")
_LIMIT = 0.9999
"""Of full scale: 16-bit samples at their limit reach .99997."""


def faults(audio: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Returns the numbers of `IntegrityMetric` for float samples [C, T]."""
    mono = np.asarray(audio, np.float64).mean(axis=0)
    hop = round(0.05 * sample_rate)
    frames = mono[: mono.size // hop * hop].reshape(-1, hop)
    quiet = np.square(frames).mean(axis=1) < 1e-6
    size = 2048
    padded = np.pad(mono, (0, max(0, size - mono.size)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::size]
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(size)))) + 1e-12
    loud = power.sum(axis=1) > 1e-4 * power.sum(axis=1).max()
    flat = np.exp(np.log(power[loud]).mean(axis=1)) / power[loud].mean(axis=1)
    total = np.cumsum(power.sum(axis=0))
    edge = int(np.searchsorted(total, 0.99 * total[-1]))
    return {
        "clipped": float(np.mean([_in_runs(np.abs(channel) >= _LIMIT, 3) for channel in audio])) / max(mono.size, 1),
        "dropouts": _gaps(np.abs(audio).max(axis=0), sample_rate) * 60 * sample_rate / max(mono.size, 1),
        "offset": 20 * float(np.log10(max(abs(float(mono.mean())) if mono.size else 0.0, 1e-6))),
        "silent": float(quiet.mean()) if quiet.size else 1.0,
        "flatness": float(flat.mean()),
        "loudness": 10 * float(np.log10(max(float(np.square(mono).mean()) if mono.size else 0.0, 1e-12))),
        "bandwidth": edge * sample_rate / size,
    }


class VoiceQualityMetric(KeptMetric):
    """Mean opinion scores of the voice by DNSMOS (Reddy et al., arXiv 2110.01763), from 1 to 5.

    `signal`: how undistorted the voice is; `background`: how free of noise; `overall`: both. The network learnt from
    opinions about noisy telephone speech, not about singing.
    """

    info = MetricInfo(needs=frozenset({"vocal"}), unit="mean opinion score", higher_is_better=True, per_song=True)

    def __init__(self, config: VoiceQualityConfig) -> None:
        super().__init__(*_OPINIONS)
        self.config = config

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Listens to the vocal track of each song."""
        check_batch(generated, songs)
        for i, song in enumerate(songs):
            (vocal,) = levelled(track_samples(generated, "vocal", i), _LEVEL)
            found = opinions(vocal, generated.sample_rate, hop=self.config.hop)
            self.keep(song.id, **{name: [value] for name, value in found.items()})

    def compute(self) -> dict[str, Tensor]:
        """Returns the mean scores over the songs, with their intervals."""
        songs = [arrays for _, arrays in self.ordered()]
        out: dict[str, Tensor] = {}
        for name in _OPINIONS:
            values = [float(arrays[name][0]) for arrays in songs]
            out |= self.mean(name, values, replicates=self.config.replicates, seed=self.config.seed)
        return out

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id` and the scores of each song."""
        return [{"id": song, **{name: float(arrays[name][0]) for name in _OPINIONS}} for song, arrays in self.kept()]


_OPINIONS = ("signal", "background", "overall", "speech")
_LEVEL = 0.05
"""Root mean square at which a voice is heard: 26 dB below full scale, as in the listening tests (ITU-T P.835)."""
_WINDOW = 144160
"""Samples (9.01 s) that DNSMOS hears at once."""
_CURVES = {
    "signal": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}
"""Parabolas that map the network's outputs to opinions (speechmos/dnsmos.py of 0.0.1.1)."""

_MODELS = {
    "dnsmos_models/sig_bak_ovr.onnx": "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
    "dnsmos_models/model_v8.onnx": "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
}
"""Files of speechmos 0.0.1.1 with their SHA-256: P.835 (three scores) and P.808 (one)."""


def opinions(audio: np.ndarray, sample_rate: int, *, hop: float = 1.0) -> dict[str, float]:
    """Returns DNSMOS's `signal`, `background`, `overall` (P.835) and `speech` (P.808), means over windows of 9 s.

    Args:
        audio: Float samples [T] or [C, T]; repeated until there are 9 s.
        sample_rate: Samples per second.
        hop: Seconds between windows; 1 is what speechmos does.

    Raises:
        PluginError: If the package speechmos or onnxruntime is not installed.
        CheckpointError: If a file of it is not the one that is pinned here.
        AudioError: If the audio is not finite or has no samples.
    """
    samples = np.clip(resample(audio, sample_rate, RATE), -1.0, 1.0)
    while samples.size < _WINDOW:
        samples = np.concatenate([samples, samples])
    rows = []
    for start in range(0, samples.size - _WINDOW + 1, max(1, round(hop * RATE))):
        part = samples[start : start + _WINDOW]
        (three,) = _session("dnsmos_models/sig_bak_ovr.onnx").run(None, {"input_1": part[None]})[0]
        mel = mel_spectrogram(part[:-160], RATE, size=321, hop=160, bands=120)
        level = 10 * np.log10(np.maximum(mel, 1e-10))
        level = np.maximum(level - level.max(), -80.0)  # as librosa.power_to_db(ref=np.max)
        ((one,),) = _session("dnsmos_models/model_v8.onnx").run(None, {"input_1": ((level + 40) / 40)[None]})[0]
        rows.append([*(np.polyval(curve, raw) for curve, raw in zip(_CURVES.values(), three, strict=True)), one])
    return dict(zip(_OPINIONS, np.mean(rows, axis=0).tolist(), strict=True))


@functools.cache
def _session(name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise PluginError("the judge of voice quality needs onnxruntime: pip install onnxruntime") from error
    spec = importlib.util.find_spec("speechmos")
    if spec is None or not spec.origin:
        raise PluginError(
            "the judge of voice quality needs the networks in the package speechmos, which is not installed: "
            "pip install songkit-judges[voice-quality] (9 MB)"
        )
    path = Path(spec.origin).parent / name
    remedy = "pip install --force-reinstall speechmos==0.0.1.1"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path} of speechmos: {error}. {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != _MODELS[name]:
        raise CheckpointError(
            f"{path} is not that of speechmos 0.0.1.1: its SHA-256 is {found}, expected {_MODELS[name]}. {remedy}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the same sums in the same order everywhere
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _in_runs(hit: np.ndarray, least: int) -> int:
    """Returns how many true values [T] are in runs of at least `least`."""
    lengths = _runs(hit)[1]
    return int(lengths[lengths >= least].sum())


def _gaps(level: np.ndarray, sample_rate: int) -> int:
    """Returns the gaps of digital silence (5 to 250 ms) between sound of at least -40 dB on both sides (20 ms)."""
    starts, lengths = _runs(level < 1 / 32768)
    beside = round(0.02 * sample_rate)
    count = 0
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        if 0.005 * sample_rate <= length <= 0.25 * sample_rate:
            sides = level[max(0, start - beside) : start], level[start + length : start + length + beside]
            count += all(side.size and side.max() > 0.01 for side in sides)
    return count


def _runs(hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns start and length of each run of true values [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hit, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]
