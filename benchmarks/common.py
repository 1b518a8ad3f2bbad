"""What the benchmarks share: saying where numbers were measured, and writing them down."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from songkit.evaluate import markdown
from songkit.request import SongRequest
from songkit.types import Song

__all__ = ["finish", "machine", "mean_interval", "test_songs"]


def test_songs(count: int, *, seed: int, shortest: float, longest: float, **options: Any) -> list[Song]:
    """Returns songs of the synthesiser whose words are in no training song: those of the test split, unless told."""
    from songkit_synth.configs import SynthSongsConfig
    from songkit_synth.source import build

    options = {"split": "test", "sample_rate": 24000, "channels": 1, "tracks": ["vocal"], **options}
    config = SynthSongsConfig(songs=count, seed=seed, seconds_min=shortest, seconds_max=longest, **options)
    source = build(config)
    return [source[i] for i in range(count)]


def requests_of(songs: Iterable[Song]) -> list[SongRequest]:
    """Returns what one would ask for to get these songs."""
    return [SongRequest.of(song) for song in songs]


def machine(runs: int) -> dict[str, Any]:
    """Returns where and how often something was measured."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("songkit", "torch", "numpy")},
        "runs": runs,
    }


def mean_interval(values: Sequence[float], *, replicates: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Returns the mean of values [N] and its 95 % interval by bootstrap."""
    numbers = np.asarray(values, dtype=np.float64)
    means = numbers[np.random.default_rng(seed).integers(len(numbers), size=(replicates, len(numbers)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(numbers.mean()), float(low), float(high)


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Returns `mean [low, high]` as text."""
    mean, low, high = mean_interval(values)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def finish(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    out: Path | None,
    runs: int,
    record: dict[str, Any],
) -> None:
    """Prints a Markdown table with the machine below it, and writes everything as JSON."""
    rows = [list(row) for row in rows]
    where = machine(runs)
    print(f"### {title}\n")
    print(markdown(heads, rows))
    print(
        f"\nMeasured on {where['cores']} cores of {where['cpu']} with {where['threads']} threads, "
        f"load {where['load']} at the end, {where['runs']} runs; [ ] are 95 % bootstrap intervals."
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "title": title,
            "machine": where,
            "table": [dict(zip(heads, row, strict=True)) for row in rows],
            **record,
        }
        out.write_text(json.dumps(values, ensure_ascii=False, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
