"""Published codecs beside their own packages: the same ids and samples, whole and in parts, and in how much memory.

    python benchmarks/codec_parity.py --out results/codec_parity.json
    python benchmarks/codec_parity.py --codecs dac/dac-24khz --memory 0

The models have their published sizes and random weights, scaled so that ids vary as a trained model's do: the published
weights may not be passed on, and parity does not depend on them. The audio is noise that swells and fades.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import finish
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from songkit.interfaces import Codec
from songkit.published import load_published
from songkit.registry import Registry
from songkit.types import Audio, Codes

warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="+", default=[*SETTINGS], choices=[*SETTINGS], metavar="ID")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of the audio that is compared (default 2.5)")
    parser.add_argument("--part", type=float, default=1.0, help="length of the parts that are compared (default 1)")
    parser.add_argument(
        "--memory",
        type=float,
        default=30.0,
        help="memory is measured for this and for three times as many seconds (default 30; 0 for not at all)",
    )
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--child", nargs=3, metavar=("ID", "SECONDS", "CHUNK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.child:
        print(json.dumps(usage(args.child[0], float(args.child[1]), float(args.child[2]))))
        return

    rows, record = [], {}
    for name in args.codecs:
        for options in tqdm(SETTINGS[name], desc=name):
            found = compare(name, options, args.seconds, args.part)
            record[f"{name} {options}"] = found
            rows.append([name, said(options), *cells(found)])
    heads = [
        "codec",
        "setting",
        "ids (different ones)",
        "differ from the package's",
        "samples differ by",
        "ids that differ in parts",
        "samples in parts differ by",
    ]
    finish(
        f"Parity over {args.seconds:g} s, in parts of {args.part:g} s",
        heads,
        rows,
        out=args.out,
        runs=1,
        record={"parity": record},
    )
    if args.memory:
        print()
        memory(args)


SETTINGS: dict[str, list[dict[str, Any]]] = {
    "encodec/encodec-24khz": [{"bandwidth": bandwidth} for bandwidth in (1.5, 3.0, 6.0, 12.0, 24.0)],
    "encodec/encodec-48khz": [{"bandwidth": bandwidth} for bandwidth in (3.0, 6.0, 12.0, 24.0)],
    "dac/dac-16khz": [{"levels": 0}],
    "dac/dac-24khz": [{"levels": 0}],
    "dac/dac-44khz": [{"levels": 0}],
}
"""Options by codec."""


def compare(name: str, options: dict[str, Any], seconds: float, part: float) -> dict[str, Any]:
    """Returns how a codec differs from its package, and how it differs in parts."""
    torch.manual_seed(0)
    codec = make(name, **options)
    package = published(name, codec)
    wave = noise(round(seconds * codec.sample_rate) + 7, codec.channels)
    audio = Audio({"mix": wave}, torch.tensor([wave.shape[2]]), codec.sample_rate)
    codes = codec.encode(audio)
    made = codec.decode(codes).tracks["mix"]
    ids, samples = by_package(name, package, wave, codes, options)
    found: dict[str, Any] = {
        "ids": ids.numel(),
        "different": len(ids.unique()),
        "ids_differ": int((codes.ids[:, : ids.shape[1]] != ids).sum()),
        "samples_differ": float((made - samples[..., : made.shape[2]]).abs().max()),
        "peak": float(made.abs().max()),
    }
    if in_parts(name):
        chunked = make(name, **options, chunk_seconds=part)
        chunked.load_state_dict(codec.state_dict())
        found["parts_ids_differ"] = int((chunked.encode(audio).ids != codes.ids).sum())
        found["parts_samples_differ"] = float((chunked.decode(codes).tracks["mix"] - made).abs().max())
    return found


def make(name: str, **options: Any) -> Codec:
    """Returns a codec in its published size with random weights; whole unless `chunk_seconds` is given."""
    component = Registry.discover().get("codec", name).component
    module, _, factory = component.factory.partition(":")
    build = getattr(importlib.import_module(module), factory)
    if in_parts(name):
        options = {"chunk_seconds": 0.0, **options}
    return build(component.config(**options))


def in_parts(name: str) -> bool:
    """Tells whether a codec has a choice between a song as a whole and in parts."""
    return hasattr(default_config(name), "chunk_seconds")


def default_config(name: str) -> Any:
    return Registry.discover().get("codec", name).component.config()


def published(name: str, codec: Codec) -> Any:
    """Returns the package's own model, after giving the codec its weights by a file as the package publishes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.th"
        if name.startswith("encodec"):
            from songkit_encodec.model import encodec

            model = getattr(encodec.EncodecModel, f"encodec_model_{name[-5:]}")(pretrained=False)
            spread(model)
            torch.save(model.state_dict(), path)
        else:
            from songkit_dac.codec import dac

            names = ("encoder_rates", "decoder_rates", "n_codebooks", "sample_rate")
            model = dac.DAC(**{option: getattr(default_config(name), option) for option in names}).eval()
            amplify(model.encoder, 3)
            model.save(path, package=False)
        load_published(path, codec)
    return model


def by_package(name: str, model: Any, wave: Tensor, codes: Codes, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns ids [1, K, F] and samples [1, C, T] as the package's own functions make them."""
    if name.startswith("dac"):
        ids = model.encode(model.preprocess(wave, model.sample_rate), options["levels"] or None)[1]
        return ids, model.decode(model.quantizer.from_codes(ids)[0])
    model.set_target_bandwidth(options["bandwidth"])
    if model.segment is None:
        [(ids, _)] = model.encode(wave)
        return ids, model.decode([(ids, None)])
    from songkit_encodec.segments import loudness_id, loudness_of

    frames, stride = codes.ids.shape[2], model.segment_stride
    segments = -(-frames // 150)
    end = (segments - 1) * stride + (frames - (segments - 1) * 150) * 320
    coded = model.encode(functional.pad(wave, (0, end - wave.shape[2])))[:segments]
    rounded = [(ids, torch.tensor([[loudness_of(loudness_id(float(scale)))]])) for ids, scale in coded]
    return torch.cat([ids for ids, _ in coded], 2), model.decode(rounded)


def spread(model: Any) -> None:
    """Gives a random EnCodec gain, and codes that lie where its frames do."""
    amplify(model.encoder, 2)
    generator = torch.Generator().manual_seed(1)
    residual = model.encoder(noise(200 * 320, model.channels))[0].T
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.copy_(
            residual.mean(0) + residual.std(0) * torch.randn(1024, residual.shape[1], generator=generator)
        )
        residual = residual - layer.decode(layer.encode(residual.T[None]))[0].T


def amplify(model: Any, gain: float) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("weight_g"):
            parameter.mul_(gain)


def noise(samples: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    swell = 0.01 + 0.2 * torch.sin(torch.linspace(0, samples / 8000, samples)) ** 2
    return swell * torch.randn(1, channels, samples, generator=generator)


def said(options: dict[str, Any]) -> str:
    if "bandwidth" in options:
        return f"{options['bandwidth']:g} kbit/s"
    return f"{options['levels'] or 'all'} levels"


def cells(found: dict[str, Any]) -> list[str]:
    parts = "parts_ids_differ" in found
    return [
        f"{found['ids']} ({found['different']})",
        str(found["ids_differ"]),
        f"{found['samples_differ']:g} (peak {found['peak']:.2f})",
        str(found["parts_ids_differ"]) if parts else "always in segments",
        f"{found['parts_samples_differ']:.1e}" if parts else "",
    ]


def memory(args: argparse.Namespace) -> None:
    """Prints the memory that encoding and decoding take, each in a process of its own."""
    rows, record = [], {}
    short, long = args.memory, 3 * args.memory
    for name in args.codecs:
        runs = {
            "parts, short": (short, -1.0),
            "parts, long": (long, -1.0),
            "whole, short": (short, 0.0),
        }
        found = {}
        for run, (seconds, chunk) in tqdm(runs.items(), desc=f"{name}, memory"):
            command = [sys.executable, __file__, "--child", name, str(seconds), str(chunk)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[run] = json.loads(done.stdout.splitlines()[-1])
        record[name] = found
        extra = {run: f"{values['peak'] - values['loaded']:.0f} MB" for run, values in found.items()}
        timed = found["parts, long"]
        rows.append(
            [
                name,
                f"{timed['loaded']:.0f} MB",
                extra["whole, short"],
                extra["parts, short"],
                extra["parts, long"],
                f"{timed['encode']:.2f}",
                f"{timed['decode']:.2f}",
            ]
        )
    heads = [
        "codec",
        "loaded",
        f"whole, {short:g} s",
        f"as set, {short:g} s",
        f"as set, {long:g} s",
        "RTF of encoding",
        "RTF of decoding",
    ]
    out = args.out.with_name(f"{args.out.stem}_memory.json") if args.out else None
    finish("Peak memory beyond the loaded model", heads, rows, out=out, runs=1, record={"memory": record})


def usage(name: str, seconds: float, chunk: float) -> dict[str, float]:
    """Returns the peak memory of this process in MB, before and after a song, and real-time factors."""
    options: dict[str, Any] = {"bandwidth": 6.0} if name.startswith("encodec") else {}
    if in_parts(name):
        options["chunk_seconds"] = default_config(name).chunk_seconds if chunk < 0 else chunk
    torch.manual_seed(0)
    codec = make(name, **options)
    length = math.ceil(seconds * codec.sample_rate)
    audio = Audio({"mix": noise(length, codec.channels)}, torch.tensor([length]), codec.sample_rate)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    codes = codec.encode(audio)
    between = time.perf_counter()
    codec.decode(codes)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"loaded": loaded, "peak": peak, "encode": (between - start) / seconds, "decode": (end - between) / seconds}


if __name__ == "__main__":
    main()
