"""`songkit runs`: how far runs came, what they found, and their tree without repetitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from songkit.cli import main


def write(
    folder: Path,
    *,
    made: str = "",
    of: tuple[tuple[str, str], ...] = (),
    task: bool = True,
    step: int = 0,
    **record: Any,
) -> Path:
    """Writes a run: `made` is the digest of what it made, `of` names what it was made of."""
    folder.mkdir(parents=True)
    facts = {
        "started": f"2026-01-01T00:00:{len(list(folder.parent.iterdir())):02d}",
        "recipe": "some/recipe",
        "components": {"task": {"id": "local/task"}} if task else {},
        "inputs": [{"key": key, "path": f"/a/long/path/{digest}", "sha256": digest} for key, digest in of],
    }
    (folder / "provenance.json").write_text(json.dumps(facts))
    if made:
        (folder / "stage.json").write_text(json.dumps({"key": made}))
    if step:
        (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "seconds": 120.0, "loss": 0.5}) + "\n")
    for name, values in record.items():
        (folder / name.replace("_", ".")).write_text(json.dumps(values))
    return folder


def read(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["runs", *words]) == status
    streams = capsys.readouterr()
    return streams.err if status else streams.out


def states(capsys: pytest.CaptureFixture[str], root: Path) -> dict[str, str]:
    rows = json.loads(read(capsys, "ls", str(root), "--json"))
    return {str(Path(row["folder"]).relative_to(root)): row["state"] for row in rows}


def semi_online(folder: Path, digest: str) -> Path:
    loop = write(folder, of=(("planner.weights", digest), ("reward.weights", "judge")), made="loop")
    round_ = {"candidates": 200, "score": -3.4394, "score_error": 0.36, "pairs": {"a": 30, "b": 10}}
    for number in range(2):
        place = loop / f"round-{number:02d}"
        write(place / "mined", of=(("planner.weights", digest), ("reward.weights", "judge")), made=f"mined-{number}")
        write(place / "run", of=(("data.root", f"mined-{number}"),), made=f"run-{number}", step=50)
        found = {"round": number, **round_, **({} if number else {"training": {"step": 50}})}
        (place / "round.json").write_text(json.dumps(found))
    return loop


def test_the_state_of_a_run_is_what_its_records_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = {"trainer": {"max_steps": 1200, "max_minutes": None}}
    write(tmp_path / "whole", step=1200, resolved_yaml=limit)
    write(tmp_path / "killed", step=1140, resolved_yaml=limit)
    write(tmp_path / "begun", resolved_yaml=limit)
    write(tmp_path / "timed", step=7, resolved_yaml={"trainer": {"max_steps": None, "max_minutes": 2.0}})
    write(tmp_path / "untold", step=7)
    write(tmp_path / "stage", made="x", step=7)
    mined = write(tmp_path / "mining", mining_json={"format": 1, "identity": {}})
    (mined / ".candidates").mkdir()
    (mined / ".candidates" / "rows.jsonl").write_text("{}\n{}\n")
    loop = semi_online(tmp_path / "loop", "sft")
    (loop / "stage.json").unlink()
    (loop / "resolved.yaml").write_text("semi_online: {rounds: 4}\n")
    found = states(capsys, tmp_path)
    assert {name: state for name, state in found.items() if "/" not in name} == {
        "whole": "finished",
        "killed": "unfinished, step 1,140 of 1,200",
        "begun": "unfinished, step 0 of 1,200",
        "timed": "finished",
        "untold": "",
        "stage": "finished",
        "mining": "unfinished, 2 songs sung",
        "loop": "unfinished, 2 of at most 5 rounds",
    }
    header, *lines = read(capsys, "ls", str(tmp_path)).splitlines()
    assert header.split() == ["RUN", "RECIPE", "STATE", "STEPS", "LOSSES", "WEIGHTS"]
    killed = next(line for line in lines if line.startswith("killed "))
    assert killed.index("unfinished") == header.index("STATE")
    (loop / "weights").mkdir()
    (loop / "weights" / "planner.safetensors").write_bytes(b"")
    assert states(capsys, tmp_path)["loop"] == "finished"


def test_rounds_and_minings_are_shown_by_what_they_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = semi_online(tmp_path / "loop", "sft")
    shown = read(capsys, "show", str(loop))
    assert "round  0 score -3.439 ± 0.36; 200 songs, 40 pairs, then 50 steps\n" in shown
    assert "round  1 score -3.439 ± 0.36; 200 songs, 40 pairs\n" in shown
    assert "losses" not in shown
    made = {"candidates": 800, "requests": 200, "not_ok": {"not judged": 3}, "pairs": {"lyrics": 247, "prompt": 129}}
    mined = write(tmp_path / "pairs", mining_json={"made": made}, pairs_parquet=0, candidates_parquet=0)
    shown = read(capsys, "show", str(mined))
    assert "state    finished\nsongs    800 for 200 requests (3 not judged)\npairs    lyrics 247, prompt 129\n" in shown
    assert json.loads(read(capsys, "show", str(mined), "--json"))["mined"] == made
    (mined / "mining.json").write_text("{}")
    (mined / "pairs.parquet").unlink()
    assert "unfinished, 0 songs sung\n" in read(capsys, "show", str(mined))


def test_what_is_not_one_run_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = read(capsys, "show", str(tmp_path / "nothere"), status=2)
    assert f"there is no folder {tmp_path / 'nothere'}. Name that of one run" in told
    for number in range(7):
        write(tmp_path / f"r{number}")
    told = read(capsys, "show", str(tmp_path), status=2)
    assert f"/r4 and 2 more (`songkit runs ls {tmp_path}` lists them). Name one of them." in told


def test_a_tree_tells_everything_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "sft", of=(("data.root", "songs"),), made="sft")
    write(tmp_path / "pairs", of=(("planner.weights", "sft"), ("reward.weights", "judge")), made="pairs")
    write(tmp_path / "dpo", of=(("data.root", "pairs"), ("planner.weights", "sft")), made="dpo", step=3)
    semi_online(tmp_path / "loop", "dpo")
    write(tmp_path / "song", of=(("planner.weights", "run-1"), ("codec.weights", "dpo")), made="song")
    assert read(capsys, "tree", str(tmp_path)).splitlines() == [
        "sft",
        "│  data.root from /a/long/path/songs, songs",
        "├─ pairs  (planner.weights)",
        "│  │  reward.weights from /a/long/path/judge, judge",
        "│  └─ dpo  (data.root)  3 steps",
        "│     ├─ loop  (planner.weights)",
        "│     │  │  round-00 to round-01",
        "│     │  │  as above: reward.weights judge",
        "│     │  └─ song  (planner.weights)",
        "│     └─ above: song  (codec.weights)",
        "└─ above: dpo  (planner.weights)",
    ]
    # Asked for itself, a loop shows its rounds.
    assert "round-01/run" in read(capsys, "tree", str(tmp_path / "loop"))
