"""Runs every hostile case of tests/hostile and counts what was refused, what was executed, and what it took.

python benchmarks/attacks.py --out results/attacks.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from common import finish
from hostile import plugins, recipes, weights
from hostile.attack import MOST_BYTES, Case, Outcome, attack

GROUPS = {
    "recipes": recipes.CASES,
    "weights and training states": weights.CASES,
    "plugin files and run folders": plugins.CASES,
}
HEADS = ("", "cases", "refused", "executed", "longest message", "CPU seconds (median)", "most CPU seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what hostile files achieve.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {group: [(case, run(case)) for case in cases] for group, cases in GROUPS.items()}
    everything = [pair for pairs in results.values() for pair in pairs]
    record = {
        case.name: {"status": done.status, "executed": done.executed, "seconds": done.seconds, "message": done.message}
        for case, done in everything
    }
    finish(
        "Hostile files",
        HEADS,
        [row(group, pairs) for group, pairs in {**results, "all": everything}.items()],
        out=args.out,
        runs=1,
        record={"address space that a case may add, in bytes": MOST_BYTES, "cases": record},
    )


def run(case: Case) -> Outcome:
    """Runs a case in a new empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        return attack(case, Path(folder))


def row(group: str, pairs: list[tuple[Case, Outcome]]) -> list[str]:
    """Returns a row of the table; refused means status 2 and one message, and code that was asked for may run."""
    refused = sum(done.status == 2 and "error: " in done.message for _, done in pairs)
    executed = sum(bool(done.executed) for _, done in pairs)
    seconds = sorted(done.seconds for _, done in pairs)
    slowest = max(pairs, key=lambda pair: pair[1].seconds)
    return [
        group,
        str(len(pairs)),
        str(refused),
        str(executed),
        f"{max(len(done.message) for _, done in pairs):,} letters",
        f"{seconds[len(seconds) // 2]:.3f}",
        f"{seconds[-1]:.2f} ({slowest[0].name})",
    ]


if __name__ == "__main__":
    main()
