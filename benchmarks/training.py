"""What each training of the miniature took, and where it ended: read from its run directories.

python benchmarks/training.py runs/vae runs/tokens runs/diffusion runs/planner runs/refiner
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, in the order of the table")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    runs = [_read(run) for run in args.runs]
    heads = ["training", "steps", "minutes", "of", "last validation"]
    rows = [[r["name"], str(r["steps"]), f"{r['minutes']:.0f}", r["consumed"], r["validation"]] for r in runs]
    finish("Trainings of the miniature", heads, rows, out=args.out, runs=1, record={"trainings": runs})


def _read(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if any(key.startswith("valid_") for key in line)]
    if not steps or not (checks or "preference" in steps[-1]):
        raise SystemExit(f"{run} has no logged steps or no validation yet; let the training reach one.")
    unit = next(key.removesuffix("_per_s") for key in steps[-1] if key.endswith("_per_s"))
    if checks:
        numbers = {key.removeprefix("valid_"): value for key, value in checks[-1].items() if key.startswith("valid_")}
    else:  # preference trainings are validated by singing
        numbers = {f"training {key}": steps[-1][key] for key in ("preference", "margin", "accuracy", "drift")}
    return {
        "name": run.name,
        "steps": int(steps[-1]["step"]),
        "minutes": steps[-1]["seconds"] / 60,
        "consumed": _amount(steps[-1][unit], unit),
        "validation": ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()),
        "numbers": numbers,
    }


def _amount(value: float, unit: str) -> str:
    return f"{value / 3600:.1f} h of audio" if unit == "seconds_of_audio" else f"{value / 1e6:.2f} M {unit}"


if __name__ == "__main__":
    main()
