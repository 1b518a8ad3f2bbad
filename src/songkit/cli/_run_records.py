"""What the folder of a run tells beside its lineage: how far it came, and what its rounds or its mining found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from songkit._yaml import plain, read_yaml
from songkit.lineage import MARK, Run, read_json

__all__ = ["records_of", "state_of", "told"]


def state_of(run: Run) -> str:
    """Returns `finished`, `unfinished` and how far it came, or nothing where the records do not tell.

    A run that is still going on is unfinished like one that was interrupted.

    Raises:
        OutputError: If a record is damaged.
        RecipeError: If the run's `resolved.yaml` is damaged.
    """
    folder, records = run.folder, records_of(run)
    if (folder / MARK).is_file() or ("mined" in records and (folder / "pairs.parquet").is_file()):
        return "finished"
    if "mined" in records:
        journal = folder / ".candidates" / "rows.jsonl"
        songs = len(journal.read_bytes().splitlines()) if journal.is_file() else records["mined"].get("candidates", 0)
        return f"unfinished, {songs:,} songs sung"
    if "rounds" in records:
        # One more mining than trainings: it judges the last policy.
        rounds, most = len(records["rounds"]), _setting(folder, "semi_online", "rounds")
        done = f"unfinished, {rounds}{f' of at most {most + 1}' if most else ''} rounds"
        return "finished" if any(folder.glob("weights/*")) else done
    if not run.task or (run.steps is None and run.outputs):  # prepared, or merged
        return "finished" if run.outputs else ""
    return _state_of_training(run)


def records_of(run: Run) -> dict[str, Any]:
    """Returns `rounds` of a semi-online loop, `mined` of a mined folder (empty until it is finished), or nothing.

    Raises:
        OutputError: If a record is damaged.
    """
    if any(run.folder.glob("round-*")):
        return {"rounds": [read_json(file) for file in sorted(run.folder.glob("round-*/round.json"))]}
    mining = run.folder / "mining.json"
    return {"mined": read_json(mining).get("made", {})} if mining.is_file() else {}


def told(records: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines about rounds or a mining."""
    for row in records.get("rounds", ()):
        error = "" if row.get("score_error") is None else f" ± {row['score_error']:.4g}"
        pairs, steps = sum(row["pairs"].values()), row.get("training", {}).get("step")
        trained = f", then {steps:,} steps" if steps else ""
        collapse = f"; collapse: {row['collapse']}" if row.get("collapse") else ""
        songs = f"{row['candidates']:,} songs, {pairs:,} pairs"
        yield f"round {row['round']:2} score {row['score']:.4g}{error}; {songs}{trained}{collapse}"
    made = records.get("mined")
    if made:
        wrong = ", ".join(f"{count:,} {reason}" for reason, count in made["not_ok"].items())
        yield f"songs    {made['candidates']:,} for {made['requests']:,} requests{f' ({wrong})' if wrong else ''}"
        yield f"pairs    {', '.join(f'{name} {count:,}' for name, count in made['pairs'].items()) or 'none'}"


def _state_of_training(run: Run) -> str:
    steps, minutes = run.steps or 0, (run.seconds_per_step or 0.0) * (run.steps or 0) / 60
    most_steps = _setting(run.folder, "trainer", "max_steps")
    most_minutes = _setting(run.folder, "trainer", "max_minutes")
    if most_steps is None and most_minutes is None:
        return ""
    if (most_steps and steps >= most_steps) or (most_minutes and minutes >= most_minutes):
        return "finished"
    return f"unfinished, step {steps:,}{f' of {most_steps:,}' if most_steps else ''}"


def _setting(folder: Path, section: str, key: str) -> Any:
    path = folder / "resolved.yaml"
    return plain(read_yaml(path)).get(section, {}).get(key) if path.is_file() else None
