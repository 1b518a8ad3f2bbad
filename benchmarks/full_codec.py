"""Times the parts of the codec at its released sizes, with random weights, and says how much memory they take.

    python benchmarks/full_codec.py --out results/full-codec.json

One window of 40 seconds is encoded, one of the solver's evaluations of the flow transformer is made over it (a track
takes 20: ten steps, with guidance), and one chunk of 128 latents is decoded. So the cost of a song follows by counting.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from songkit_levo2.codec import build_dual_track
from songkit_levo2.codec_configs import DualTrackCodecConfig


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    codec = build_dual_track(DualTrackCodecConfig()).eval().to(args.device)
    rows = {"weights": {"megabytes": round(sum(t.nbytes for t in codec.state_dict().values()) / 1e6)}}
    window, flow = codec.window, codec.diffusion
    wave = 0.1 * torch.randn(1, window * codec.vae.frame, device=args.device)
    latents = torch.randn(1, window, codec.vae.latent, device=args.device)
    condition, flag = flow.hidden_condition(window, 1), latents[:, :, :1] * 0
    context = codec.vae.chunk + 2 * codec.vae.reach
    parts: dict[str, tuple[float, Callable[[], Any]]] = {
        "encode a window, deepest tap": (40.0, lambda: codec.semantic.ids(wave, "vocal")),
        "one evaluation of the flow over a window": (
            40.0,
            lambda: flow.velocity(latents, latents[:, 0, 0], condition, latents, flag),
        ),
        "decode a chunk of 128 latents": (5.12, lambda: codec.vae.decode(latents[:, :context])),
    }
    for name, (seconds, run) in parts.items():
        clock = [timed(run, args.device) for _ in range(args.runs + 1)][1:]
        rows[name] = {
            "seconds": round(sorted(clock)[len(clock) // 2], 3),
            "of_audio": seconds,
            "peak_mb": peak(args.device),
        }
        print(name, rows[name], flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"device": args.device, "threads": args.threads, "rows": rows}, indent=2) + "\n")


def timed(run: Callable[[], Any], device: str) -> float:
    """Returns the seconds that a call takes."""
    start = time.perf_counter()
    with torch.no_grad():
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(device: str) -> int:
    """Returns the most memory that was in use so far, in megabytes."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


if __name__ == "__main__":
    main()
