"""A codec under the judges: what encoding and decoding costs in words and in sound, beside yardsticks.

    python benchmarks/codec.py --songs 50 --out results/codec.json
    python benchmarks/codec.py --recipe levo2/mini/diffusion --set codec.weights=runs/codec.safetensors

Each vocal of the synthesiser's test split is encoded from its own stream and decoded. Beside it stand the originals,
the codec's autoencoder without tokens (where it has one), a mel spectrogram inverted without a model, and a mel
spectrogram that is quantized to as many bits as the codec spends on a track (k-means on training songs).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, interval, mean_interval, test_songs
from mel import FFT, HOP, VectorMel, log_mel, log_mel_distance, mel_inversion
from tqdm import tqdm

from songkit.build import build
from songkit.interfaces import Codec
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import Audio, Song

System = Callable[[np.ndarray], np.ndarray]
"""A recording [T] to another of about the same length."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mini/song", help="recipe with the codec (default mini/song)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change to the recipe")
    parser.add_argument("--track", default="vocal", choices=("vocal", "accompaniment"))
    parser.add_argument("--songs", type=int, default=50, help="number of songs (default 50)")
    parser.add_argument("--train-songs", type=int, default=300, help="songs for the k-means yardstick (default 300)")
    parser.add_argument("--seed", type=int, default=2027, help="of the songs (default 2027)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    node = load(args.recipe, args.set, registry=Registry.discover()).roles["codec"]
    codec: Codec = build(node, require_weights=True)
    codec.eval().requires_grad_(False)
    rate = codec.sample_rate
    if rate % 24000:
        raise SystemExit(f"the codec runs at {rate} Hz; this benchmark makes songs at 24000 or 48000 Hz")
    options = {"sample_rate": rate, "tracks": [args.track]}
    songs = test_songs(args.songs, seed=args.seed, shortest=10, longest=25, **options)

    bits = codec_bits(codec, args.track)
    vector = quantized_mel(args, rate, codec, options)
    clock: list[float] = []
    systems: dict[str, tuple[float | None, System]] = {
        "original": (None, lambda wave: wave),
        f"{node.id}": (bits, lambda wave: through(codec, wave, args.track, clock)),
        f"mel at the same bits ({vector.entries} codes)": (vector.bits_per_second, vector.resynthesize),
        "mel, not quantized": (None, lambda wave: mel_inversion(log_mel(torch.from_numpy(wave), rate), rate)),
    }
    if hasattr(codec, "vae"):
        systems["its autoencoder, no tokens"] = (None, lambda wave: through_latents(codec, wave))

    rows, record = [], {}
    for name, (spent, system) in systems.items():
        scores = judge(name, system, songs, rate, args.track)
        record[name] = scores
        rows.append(
            [name, "-" if spent is None else f"{spent:.0f}", scores["per_text"], interval(scores["distance"], 2)]
        )
    seconds = [song.seconds for song in songs]
    factor = mean_interval([wall / length for wall, length in zip(clock, seconds, strict=True)])
    print(f"\ndecoding: RTF {factor[0]:.3f} [{factor[1]:.3f}, {factor[2]:.3f}] for one track")
    finish(
        f"{len(songs)} {args.track} tracks ({sum(seconds) / 60:.1f} min) after {node.id}",
        ["system", "bit/s", "phoneme error rate", "log-mel distance, nats"],
        rows,
        out=args.out,
        runs=1,
        record={"systems": record, "decode_rtf_one_track": factor},
    )


def judge(name: str, system: System, songs: list[Song], rate: int, track: str) -> dict[str, Any]:
    """Returns the phoneme error rate (of vocals) and the distance of every song after a system."""
    from songkit_judges.phonemes import phoneme_errors
    from songkit_judges.whisper import transcribe
    from songkit_judges.words import lyrics

    heard, distance = [], []
    for song in tqdm(songs, desc=name, unit="song"):
        wave = song.tracks[track].read()[0]
        out = system(wave)
        distance.append(log_mel_distance(wave, out, rate))
        if track == "vocal":
            heard.append(transcribe(out, rate))
    if track != "vocal":
        return {"per_text": "-", "distance": distance}
    errors = phoneme_errors([lyrics(song) for song in songs], heard)
    text = f"{errors.per:.3f} [{errors.low:.3f}, {errors.high:.3f}]"
    return {
        "per_text": text,
        "per": errors.per,
        "per_songs": errors.songs,
        "control": errors.control,
        "distance": distance,
    }


def through(codec: Codec, wave: np.ndarray, track: str, clock: list[float]) -> np.ndarray:
    """Returns a recording after encoding and decoding; adds the seconds that decoding took to `clock`."""
    samples = torch.from_numpy(wave)[None, None].expand(1, codec.channels, -1)
    codes = codec.encode(Audio({track: samples}, torch.tensor([wave.size]), codec.sample_rate))
    start = time.perf_counter()
    out = codec.decode(codes.select([track]), seeds=[0])
    clock.append(time.perf_counter() - start)
    return out.tracks[track][0].mean(0)[: wave.size].numpy()


def through_latents(codec: Any, wave: np.ndarray) -> np.ndarray:
    """Returns a recording after the autoencoder inside a codec."""
    padded = torch.nn.functional.pad(torch.from_numpy(wave)[None], (0, -wave.size % codec.vae.frame))
    return codec.vae.decode(codec.vae.encode(padded[None]))[0, 0, : wave.size].numpy()


def codec_bits(codec: Codec, track: str) -> float:
    """Returns the bits a codec spends on a second of a track."""
    return sum(math.log2(s.size) for s in codec.layout.streams if s.track == track) * codec.layout.frame_rate


def quantized_mel(args: argparse.Namespace, rate: int, codec: Codec, options: dict[str, Any]) -> VectorMel:
    """Returns the yardstick with about the codec's bits: one codebook at the nearest rate that mel frames allow."""
    from songkit_synth.configs import SynthSongsConfig
    from songkit_synth.source import build as build_songs

    stack = max(1, round(rate / HOP / codec.layout.frame_rate))
    bits = codec_bits(codec, args.track) / (rate / HOP / stack)
    config = SynthSongsConfig(
        split="train", songs=args.train_songs, seed=9, seconds_min=10, seconds_max=25, channels=1, **options
    )
    source = build_songs(config)
    waves = [
        source[i].tracks[args.track].read()[0] for i in tqdm(range(len(source)), desc="training songs", unit="song")
    ]
    assert all(wave.size > FFT for wave in waves)
    return VectorMel(rate, entries=2 ** min(14, round(bits)), stack=stack).fit(waves)


if __name__ == "__main__":
    main()
