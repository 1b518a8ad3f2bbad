"""Audio at both ends of a song: prompts that are read, and codes that become tracks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch

from songkit.audio import read_audio
from songkit.devices import device_of
from songkit.interfaces import Codec
from songkit.types import TRACKS, Audio, Codes, TokenLayout

__all__ = ["Prompt", "decode_song", "decoded_layout", "encode_prompt", "mixed", "prompt_audio", "read_prompt"]

_STEMS = {"vocal", "accompaniment"}

Prompt = Mapping[str, np.ndarray]
"""An audio prompt, float32 [C, T] by track, as the codec wants it."""


def decoded_layout(
    codec: Codec, layout: TokenLayout, *, voiceless: bool, tracks: Collection[str] | None = None
) -> TokenLayout:
    """Returns what has to be decoded of a song's codes, in the order that the codec knows.

    Args:
        codec: What decodes.
        layout: Of the song's codes.
        voiceless: Whether it is a song without a voice: its vocal track is silent, and is not decoded.
        tracks: Which are wanted; all by default. The mix is the sum of vocal and accompaniment where there are both.
    """
    layout = codec.layout.select(layout.tracks)
    made = set(codec.decodes(layout))
    wanted = made if tracks is None else set(tracks)
    if made >= _STEMS:
        wanted = (wanted | _STEMS if "mix" in wanted else wanted) - {"mix"}
        wanted = {"accompaniment"} if voiceless else wanted
    return layout.select(wanted)


@torch.inference_mode()
def decode_song(
    codec: Codec,
    codes: Codes,
    seed: int,
    *,
    voiceless: bool,
    prompt: Prompt | None = None,
    tracks: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Decodes one song to float32 [C, T] by track; long ones need the memory, and padding costs time for nothing.

    `decoded_layout` says which tracks. With an audio prompt the song goes on where the prompt ends.
    """
    heard = codes.to(device_of(codec)).arrange(decoded_layout(codec, codes.layout, voiceless=voiceless, tracks=tracks))
    silent = voiceless and set(codes.layout.tracks) >= _STEMS
    # A song that ended before it began is a frame of silence: audio files without samples cannot be read.
    if int(codes.lengths[0]) == 0:
        shape = (codec.channels, math.ceil(codec.sample_rate / codes.layout.frame_rate))
        song = {track: np.zeros(shape, np.float32) for track in codec.decodes(heard.layout)}
    elif prompt is None:
        audio = codec.decode(heard, seeds=[seed])
        samples = int(audio.lengths[0])
        song = {name: track[0, :, :samples].float().cpu().numpy() for name, track in audio.tracks.items()}
    else:
        pieces = list(codec.stream([heard], layout=heard.layout, seed=seed, prompt=prompt_audio(codec, prompt)))
        song = {name: torch.cat([piece[name] for piece in pieces], 2)[0].float().cpu().numpy() for name in pieces[0]}
    if silent:
        song["vocal"] = np.zeros_like(song["accompaniment"])
    return song


def mixed(audio: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns a song's tracks into int16 with a mix that is exactly their sum, turned down together if it would clip.

    A stem alone is turned down only if it would clip itself.
    """
    broken = [name for name, samples in audio.items() if not np.isfinite(samples).all()]
    if broken:
        raise FloatingPointError(f"the codec decoded samples that are not numbers in {', '.join(broken)}")
    parts = {name: audio[name] for name in ("vocal", "accompaniment") if name in audio}
    summed = len(parts) == 2
    everything = {**audio, "mix": parts["vocal"] + parts["accompaniment"]} if summed else dict(audio)
    peak = max(float(np.abs(samples).max(initial=0.0)) for samples in everything.values())
    # 32766 leaves room for the rounding of two tracks in their sum.
    gain = min(32768.0, 32766.0 / peak) if peak > 0 else 32768.0
    out = {name: np.rint(samples * gain).astype(np.int16) for name, samples in audio.items()}
    if summed:
        out["mix"] = out["vocal"] + out["accompaniment"]
    return {name: out[name] for name in TRACKS if name in out}


def read_prompt(codec: Codec, path: Path, seconds: float) -> Prompt:
    """Reads the start of a prompt: a mix, and its stems where they lie beside it as in a folder of songkit."""
    files = {"mix": path}
    stems = {track: path.with_name(f"{track}{path.suffix}") for track in ("vocal", "accompaniment")}
    if path.stem == "mix" and all(stem.is_file() for stem in stems.values()):
        files.update(stems)
    tracks = {}
    for track, file in files.items():
        tracks[track], _ = read_audio(file, codec.sample_rate, codec.channels, stop=seconds)
    return tracks


def encode_prompt(codec: Codec, prompt: Prompt) -> Codes:
    """Returns the codes of an audio prompt."""
    return codec.encode(prompt_audio(codec, prompt))


def prompt_audio(codec: Codec, prompt: Prompt) -> Audio:
    """Returns an audio prompt, as a batch of one song."""
    samples = min(track.shape[1] for track in prompt.values())
    device = device_of(codec)
    tracks = {name: torch.from_numpy(track[None, :, :samples]).to(device) for name, track in prompt.items()}
    return Audio(tracks, torch.tensor([samples], device=device), codec.sample_rate)
