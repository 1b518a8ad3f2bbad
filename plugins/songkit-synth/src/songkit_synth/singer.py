"""The singer: the network of hibari-tts, cut open so that durations and pitch are given from outside.

hibari-tts (Apache-2.0) predicts a duration for each token, stretches its states to 80 frames a second, predicts F0,
and from both the parts of a spectrum that `hibari.dsp` turns into sound. Here the two predictions become inputs.

Another singer's vocal tract is made by playing at another speed: the network sings at pitch / formant with
durations * formant, and the sound is resampled, which moves all resonances by `formant` and leaves time and pitch as
asked for. Shifting the envelope alone leaves the part of the sound whose phase the network itself predicts at the
wrong pitch; see the README for what that did to the male voice.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from songkit.errors import PluginError
from songkit.phonemes import VOWELS, phonemize
from songkit.types import Phone
from songkit_synth.voices import Voice

__all__ = ["RATE", "UNVOICED", "Syllable", "Words", "frame_rate", "pronounce", "render", "unit"]

RATE = 24000
"""Samples per second of the singer."""

UNVOICED = frozenset("ptkfθsʃʧh")
"""Phones without pitch."""

_HELD = 7  # units from which an unstressed vowel is given a stress mark, to be held in

_ONSETS = frozenset(
    {"spɹ", "stɹ", "skɹ", "spl", "skw", "sp", "st", "sk", "sm", "sn", "θw"}
    | {first + "ɹ" for first in "pbtdkɡfθʃ"}
    | {first + "l" for first in "pbkɡfs"}
    | {first + "w" for first in "stdkɡ"}
    | {first + "j" for first in "hkmfpbv"}
)


@dataclass(frozen=True)
class Syllable:
    """Positions of a syllable's phones within its line."""

    onset: tuple[int, ...]
    vowel: int
    coda: tuple[int, ...]
    stress: int


@dataclass(frozen=True)
class Words:
    """A line as the singer sees it."""

    text: str
    phones: tuple[Phone, ...]
    syllables: tuple[Syllable, ...]
    natural: tuple[float, ...]
    """How long the network would speak each phone, in seconds."""


def unit(voice: Voice) -> float:
    """Returns the step of a voice's durations in seconds."""
    return 0.025 / voice.formant


def frame_rate(voice: Voice) -> float:
    """Returns how many values of F0 a second a voice takes."""
    return 80.0 * voice.formant


@functools.lru_cache(maxsize=65536)
def pronounce(text: str) -> Words | None:
    """Returns a line's phones, syllables and spoken lengths, or `None` if it has no vowel."""
    phones = phonemize(text)
    syllables = _syllables(phones)
    if not syllables:
        return None
    ids, groups = _tokens(phones, [phone.stress for phone in phones])
    feed = {"ids": np.asarray([ids], np.int64), "speed": np.ones(1, np.float32)}
    spoken = _sessions()[0].run(None, feed)[0].reshape(-1) * 0.025
    natural = [sum(float(spoken[place]) for place in group) for group in groups]
    natural[0] = 0.1  # the silence before a line is part of its first group
    return Words(text, phones, syllables, tuple(natural))


def render(
    words: Words,
    units: Sequence[int],
    f0: np.ndarray,
    voice: Voice,
    *,
    before: int,
    after: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sings a line.

    Args:
        words: The line.
        units: How many steps of `unit(voice)` each phone lasts; they follow each other without a gap.
        f0: Hz at `frame_rate(voice)`, from `before` units before the first phone to `after` units behind the last.
        voice: Who sings.
        before: Units of silence that come first.
        after: Units of silence that come last.
        rng: For the noise.

    Returns:
        float32 mono sound at `RATE`.
    """
    marked = [
        phone.stress if phone.stress or steps < _HELD or phone.symbol not in VOWELS else 2
        for phone, steps in zip(words.phones, units, strict=True)
    ]
    ids, groups = _tokens(words.phones, marked)
    durations = np.zeros(len(ids), np.float32)
    durations[0] = before
    for group, steps in zip(groups, units, strict=True):
        durations[group] = 1
        durations[group[-1]] = steps - len(group) + 1
    durations[-3], durations[-2], durations[-1] = 1, 2, after - 3
    voiced = np.zeros(2 * int(durations.sum()), bool)
    start = 2 * before
    for phone, steps in zip(words.phones, units, strict=True):
        voiced[start : start + 2 * steps] = phone.symbol not in UNVOICED
        start += 2 * steps
    pitch = (f0 / voice.formant).astype(np.float32)
    feed = {
        "ids": np.asarray([ids], np.int64),
        "speed": np.ones(1, np.float32),
        "dur_in": durations,
        "f0_in": np.where(voiced, pitch, 0.0).astype(np.float32)[None],
    }
    parts = [part[0] for part in _sessions()[1].run(["lh", "theta", "ln", "lr", "phi"], feed)]
    sound = _synthesize(parts, pitch, voiced, voice, rng)
    if voice.formant == 1.0:
        return sound
    return soxr.resample(sound, round(RATE * voice.formant), RATE, quality="HQ").astype(np.float32)


def _synthesize(
    parts: list[np.ndarray], pitch: np.ndarray, voiced: np.ndarray, voice: Voice, rng: np.random.Generator
) -> np.ndarray:
    """Turns the network's spectra [601, F] into sound, as `hibari.dsp.synth` does but with a gated pulse train.

    `dsp.synth` reads F0 = 0 as unvoiced and glides through all pitches at each edge; here the pitch goes on and the
    pulses are faded instead.
    """
    from hibari import dsp

    harmonic, theta, noise, rest, phi = parts
    frames = np.arange(len(voiced)) * dsp.HOP + dsp.HOP // 2
    gate = np.interp(np.arange(len(voiced) * dsp.HOP), frames, voiced).astype(np.float32)
    spectrum = dsp.stft(dsp.pulses(pitch) * gate, harmonic.shape[1])
    turn = np.empty(harmonic.shape, np.complex64)
    angle = np.tanh(theta) * np.pi
    np.cos(angle, out=turn.real)
    np.sin(angle, out=turn.imag)
    spectrum *= turn * dsp.ex(harmonic)
    white = rng.standard_normal((noise.shape[0], 2 * noise.shape[1]), dtype=np.float32).view(np.complex64)
    spectrum += white * dsp.ex(noise) * np.float32(10 ** (voice.breath / 20))
    np.cos(phi, out=turn.real)
    np.sin(phi, out=turn.imag)
    spectrum += turn * dsp.ex(rest)
    return np.asarray(dsp.ola(spectrum), np.float32)


def _tokens(phones: Sequence[Phone], stresses: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Returns a line's token ids, and for each phone the places of the tokens during which it sounds.

    The network sounds a phone while it is at the token *before* it: a long "s" of "see" comes from a long space, its
    long vowel from a long stress mark, and a long vowel token is silence if a space follows. So the tokens of a phone
    are the symbol of the phone before it, the space and the stress mark, and most of the time goes to the last.
    A space before an unstressed vowel is left out, because a long one is a pause.
    """
    vocabulary = _vocabulary()
    ids, groups = [0, vocabulary[" "]], []
    group = [1]
    for i, phone in enumerate(phones):
        if phone.word_start and i and (phone.stress or phone.symbol not in VOWELS):
            group.append(len(ids))
            ids.append(vocabulary[" "])
        if stresses[i]:
            group.append(len(ids))
            ids.append(vocabulary["ˈ" if stresses[i] == 1 else "ˌ"])
        groups.append(group)
        group = [len(ids)]
        ids.append(vocabulary[phone.symbol])
    return [*ids, vocabulary["."], 0], groups


def _syllables(phones: Sequence[Phone]) -> tuple[Syllable, ...]:
    """Groups the phones of a line by vowel; consonants between two go to the second as far as English allows."""
    vowels = [i for i, phone in enumerate(phones) if phone.symbol in VOWELS]
    cuts = [0]
    for left, right in itertools.pairwise(vowels):
        between = range(left + 1, right)
        cut = next((i for i in range(left + 1, right + 1) if phones[i].word_start), None)
        if cut is None:
            cut = right - min(1, len(between))
            for size in (3, 2):
                if len(between) >= size and "".join(p.symbol for p in phones[right - size : right]) in _ONSETS:
                    cut = right - size
                    break
            if cut < right and phones[right - 1].symbol == "ŋ":
                cut = right
        cuts.append(cut)
    cuts.append(len(phones))
    return tuple(
        Syllable(tuple(range(start, vowel)), vowel, tuple(range(vowel + 1, end)), phones[vowel].stress)
        for start, vowel, end in zip(cuts, vowels, cuts[1:], strict=False)
    )


@functools.cache
def _vocabulary() -> dict[str, int]:
    return {str(k): int(v) for k, v in json.loads((_assets() / "vocab.json").read_text(encoding="utf-8")).items()}


def _assets() -> Path:
    spec = importlib.util.find_spec("hibari")
    if spec is None or not spec.submodule_search_locations:
        raise PluginError("the singer is missing: the package hibari-tts is not installed: pip install hibari-tts")
    return Path(spec.submodule_search_locations[0]) / "assets"


@functools.cache
def _sessions() -> tuple[Any, Any]:
    """Returns the network up to its durations, and the network with durations and F0 as inputs."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from onnx.utils import Extractor

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def session(model: Any) -> Any:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    model = onnx.load(str(_assets() / "hibari.onnx"))
    spoken = [node for node in model.graph.node if node.op_type == "Clip" and node.name == "/Clip"]
    uses = [n for n in model.graph.node if n.op_type == "Cast" and spoken and n.input[0] == spoken[0].output[0]]
    pitch = [n for n in model.graph.node if n.op_type == "Relu" and n.input[0] == "f0"]
    if len(spoken) != 1 or len(uses) != 1 or len(pitch) != 1:
        raise PluginError(
            "the network of hibari-tts is not built as expected (durations behind /Clip, F0 before a Relu); "
            "songkit-synth works with hibari-tts 0.2.1: pip install hibari-tts==0.2.1"
        )
    name = spoken[0].output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["L"]))
    lengths = session(Extractor(model).extract_model(["ids", "speed"], [name]))
    model.graph.output.pop()
    uses[0].input[0] = "dur_in"
    pitch[0].input[0] = "f0_in"
    model.graph.input.append(helper.make_tensor_value_info("dur_in", TensorProto.FLOAT, ["L"]))
    model.graph.input.append(helper.make_tensor_value_info("f0_in", TensorProto.FLOAT, [1, "F"]))
    sing = Extractor(model).extract_model(["ids", "speed", "dur_in", "f0_in"], ["lh", "theta", "ln", "lr", "phi"])
    return lengths, session(sing)
