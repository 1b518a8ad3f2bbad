"""One size of the released models in a process of its own, for `decoding.py`: random weights, bf16."""

from __future__ import annotations

import json
import resource
import statistics
import time
from pathlib import Path

import torch
from decoding_systems import BYTES, PREFIX, RELEASED, Memory, build, random_conditions, weight_bytes

from songkit.checkpoint import load_weights
from songkit.decoding import Stage, run
from songkit.importing import Converted, write_converted
from songkit.interfaces import Sampling
from songkit.kernels import pack

__all__ = ["child"]


@torch.no_grad()
def child(name: str, folder: Path, steps: int) -> None:
    """Writes the weights of a size, or, where they are written, loads them and decodes; prints what that took."""
    size, files = RELEASED[name], [folder / f"{part}.safetensors" for part in ("planner", "refiner")]
    with torch.device("meta"):
        parts = build(size)
    if not files[0].is_file():
        for part, file in zip(parts, files, strict=True):
            made = [
                Converted(key, tuple(tensor.shape), lambda tensor=tensor: _random(tensor))  # type: ignore[misc]
                for key, tensor in part.state_dict().items()
            ]
            write_converted(file, made, {}, torch.bfloat16)  # one tensor at a time, as an importer does
        return
    before = time.perf_counter()
    for part, file in zip(parts, files, strict=True):
        load_weights(file, part)
        part.eval().requires_grad_(False)
    planner, refiner = parts
    total, parameters = weight_bytes(*parts, "bf16"), sum(p.numel() for part in parts for p in part.parameters())
    for part in parts:
        pack(part, "bf16")
    loaded = time.perf_counter() - before
    frames = steps + 100
    sampling = Sampling(temperature=0.0, top_k=0, guidance=1.5, min_frames=frames)
    conditions = random_conditions(1, size["dim"])
    plans, tracks = planner.drawing(sampling=sampling, max_frames=frames), refiner.drawing(sampling=sampling)
    plans.add(conditions, 0, 0)
    tracks.add(plans.songs[0], conditions, 0, 0)
    rounds = run(Stage(plans, [0]), Stage(tracks, [0]))
    next(rounds)
    first = time.perf_counter() - before
    for _ in range(12):
        next(rounds)
    memory = Memory(200)
    read, seconds = [], []
    for _ in range(steps):
        read += memory.burst(1)
        begin = time.perf_counter()
        next(rounds)
        seconds.append(time.perf_counter() - begin)
    layers = size["layers"] + size["refiner_layers"]
    total += 2 * (PREFIX + 12 + steps // 2) * layers * 2 * size["dim"] * BYTES["bf16"]
    bandwidth = memory.bytes() / statistics.median(read)
    result = {
        "parameters": parameters,
        "load": loaded,
        "first": first,
        "seconds": statistics.median(seconds),
        "bound": total / bandwidth,
        "bandwidth": bandwidth,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    print(json.dumps(result))


def _random(tensor: torch.Tensor) -> torch.Tensor:
    """Returns bf16 weights of a shape: gains are 1."""
    made = torch.empty(tensor.shape, dtype=torch.bfloat16)
    return made.fill_(1.0) if tensor.dim() == 1 else made.normal_(std=0.02)
