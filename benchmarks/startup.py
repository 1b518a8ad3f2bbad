"""Start-up with many plugins: what `songkit --help` and the listings take when thirty plugins are installed.

    python benchmarks/startup.py --plugins 30 --runs 15 --out results/startup.json

The plugins are those that `songkit plugins new` writes, of all kinds in turn, installed into a folder of their own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from common import finish

from songkit.scaffold import FACTORIES, write_plugin

COMMANDS = (["--help"], ["plugins", "list"], ["recipes", "ls"], ["recipes", "validate", "mini/song"])
HEAVY = ("torch", "lightning", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", type=int, default=30, help="how many are installed besides those that are there")
    parser.add_argument("--runs", type=int, default=15, help="processes for each command")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), args.plugins)
        # Compiled files are kept, as in every installation; here, because an editable one may lie in a clean checkout.
        env = {**os.environ, "PYTHONPATH": folder, "PYTHONPYCACHEPREFIX": f"{folder}/cache"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        rows, seconds = [], {}
        for words in COMMANDS:
            heavy = imports(words, env, args.plugins)
            name = f"songkit {' '.join(words)}"
            seconds[name] = median([sys.executable, "-m", "songkit", *words], env, args.runs)
            rows.append([name, *(f"{value:.3f}" for value in seconds[name]), ", ".join(heavy) or "none"])
        bare = median([sys.executable, "-c", "pass"], env, args.runs)
        rows.append(["python -c pass", *(f"{value:.3f}" for value in bare), "none"])
    finish(
        f"Start-up with {args.plugins} more plugins",
        ["command", "seconds", "of them computing", f"of {', '.join(HEAVY)} imported"],
        rows,
        out=args.out,
        runs=args.runs,
        record={"seconds": seconds, "plugins": args.plugins},
    )


def install(site: Path, count: int) -> None:
    """Writes `count` plugins and their metadata into a folder, as pip would leave them."""
    kinds = list(FACTORIES)
    for number in range(count):
        project = site / "projects" / str(number)
        write_plugin(kinds[number % len(kinds)], f"bench{number}", project)
        described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        [package] = (project / "src").iterdir()
        package.rename(site / package.name)
        info = site / f"{package.name}-{described['version']}.dist-info"
        info.mkdir()
        metadata = [f"Name: {described['name']}", f"Version: {described['version']}"]
        metadata += [f"Requires-Dist: {text}" for text in described["dependencies"]]
        readme = (project / "README.md").read_text()
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(metadata) + f"\n\n{readme}")
        [(name, value)] = described["entry-points"]["songkit"].items()
        (info / "entry_points.txt").write_text(f"[songkit]\n{name} = {value}\n")


def imports(words: list[str], env: dict[str, str], plugins: int) -> list[str]:
    """Runs a command once, makes sure that it sees all plugins, and returns which heavy packages it imported."""
    code = f"""
import contextlib, io, sys
from songkit.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    assert main({words}) == 0
assert {words} != ["plugins", "list"] or out.getvalue().count("songkit-bench") == {plugins}, out.getvalue()
assert "broken" not in out.getvalue(), out.getvalue()
print(*[name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def median(command: list[str], env: dict[str, str], runs: int) -> tuple[float, float]:
    """Returns the median time and processor time of a command in seconds, after one process that is not counted."""
    seconds, computing = [], []
    for _ in range(runs + 1):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=env, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(time.perf_counter() - start)
        computing.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds[1:]), statistics.median(computing[1:])


if __name__ == "__main__":
    main()
