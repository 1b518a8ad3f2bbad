"""A disk that is full: mining, merging and ladders name the file, lose nothing, and go on to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import disk
import fakes
import judges
import pytest
import torch

from songkit.checkpoint import save_weights
from songkit.errors import OutputError
from songkit.ladder import climb, plan
from songkit.merge import merge
from songkit.mine import mine
from songkit.mine import plan as mine_plan
from songkit.recipe import Recipe, load
from songkit.registry import Registry

RUN = ("provenance.json", ".lock")
"""What tells of a run itself, and differs from one to the next."""


def content(root: Path) -> dict[str, bytes]:
    """All files, hidden ones too."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in RUN]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def shown(root: Path) -> dict[str, bytes]:
    """The files that somebody sees who lists the folder."""
    return {name: data for name, data in content(root).items() if not any(p.startswith(".") for p in Path(name).parts)}


@pytest.fixture
def mining(tmp_path: Path) -> Recipe:
    """Two requests, of three songs each."""
    fakes.write_model(tmp_path)
    lines = [json.dumps({"idx": f"r{i}", "gt_lyric": "[verse] la la."}) for i in range(2)]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    (tmp_path / "mine.yaml").write_text(
        f"""
format: 1
defaults: [./model.yaml]
plugins: ['{Path(fakes.__file__)}', '{Path(judges.__file__)}']
metrics: {{ear: local/loudness}}
generate: {{threads: 1}}
mine: {{requests: ./requests.jsonl, candidates: 3, strategies: {{short: {{score: ear.seconds}}}}}}
"""
    )
    return load(tmp_path / "mine.yaml", registry=Registry.discover())


def test_a_mining_goes_on_wherever_the_disk_was_full(
    mining: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine(mining, tmp_path / "whole")
    whole, root = content(tmp_path / "whole"), tmp_path / "mined"
    songs, journal = 0, root / ".candidates"

    def refused(path: Path) -> None:
        with pytest.raises(OutputError, match=disk.told(path)):
            mine(mining, root)
        assert mine_plan(mining, root).done == songs
        there = shown(root)
        # It says what the mining is of from the beginning, and what was made at the end.
        assert json.loads(there.pop("mining.json", whole["mining.json"]))["identity"]
        assert there.items() <= whole.items()

    for name in ("requests.jsonl", "mining.json", "recipe.yaml", "resolved.yaml"):
        disk.fill(root / name)
        refused(root / name)
    for name in ("ids.u1", "cursor.i32", "rows.jsonl"):
        with monkeypatch.context() as patch:
            disk.fill_later(patch, journal / name, writes=1)
            songs += 1  # the one that still fitted
            refused(journal / name)
    songs = 6
    disk.fill(root / "candidates.parquet")
    refused(root / "candidates.parquet")
    (journal / "layout.json").symlink_to("/dev/full")
    refused(journal / "layout.json")
    (journal / "layout.json").unlink()
    disk.fill(root / "pairs.parquet")
    refused(root / "pairs.parquet")
    mine(mining, root)
    assert content(root) == whole


@pytest.fixture
def merging(tmp_path: Path) -> Path:
    """A recipe that merges two trainings of one ancestor, conditioner and planner."""
    for number, name in enumerate(("lyrics", "prompt")):
        for role in ("conditioner", "planner"):
            weights = {"gain": torch.full((3,), float(number))}
            metadata = {"component": "local/fake", "revision": 1, "config": {}, "ancestors": ["sft"]}
            save_weights(tmp_path / name / "weights" / f"{role}.safetensors", weights, metadata)
    path = tmp_path / "merged.yaml"
    path.write_text("format: 1\nmerge: {models: {lyrics: {run: ./lyrics}, prompt: {run: ./prompt}}}\n")
    return path


def test_a_merge_goes_on_wherever_the_disk_was_full(merging: Path, tmp_path: Path) -> None:
    recipe, root = load(merging, registry=Registry([])), tmp_path / "out"
    merge(recipe, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    for name in ("weights/conditioner.safetensors", "weights/planner.safetensors", "recipe.yaml", "resolved.yaml"):
        disk.fill(root / name)
        before = content(root)
        with pytest.raises(OutputError, match=disk.told(root / name)):
            merge(recipe, root)
        assert name not in content(root)
        assert before.items() <= content(root).items() <= whole.items()
    merge(recipe, root)
    assert content(root) == whole


def test_a_ladder_goes_on_wherever_the_disk_was_full_for_its_records(merging: Path, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("format: 1\n")
    (tmp_path / "steps.yaml").write_text(
        "format: 1\nstages: {given: {verb: model, recipe: given}, merged: {verb: merge, recipe: merged}}\n"
    )
    registry = Registry([])
    ladder, out = load(tmp_path / "steps.yaml", registry=registry), tmp_path / "out"

    def refused(path: Path) -> None:
        disk.fill(path)
        with pytest.raises(OutputError, match=disk.told(path)):
            climb(ladder, out, registry=registry, resume=True, progress=False)

    def states() -> list[str]:
        return [planned.state for planned in plan(ladder, out, registry=registry)]

    climb(ladder, out, registry=registry, only="given", progress=False)
    record = (out / "steps.json").read_bytes()
    refused(out / "steps.json")
    assert (out / "steps.json").read_bytes() == record
    assert states() == ["finished", "new"]
    merged = [planned.folder for planned in plan(ladder, out, registry=registry)][1]
    assert merged is not None
    refused(merged / "stage.json")
    assert not (merged / "stage.json").exists()
    assert states() == ["finished", "interrupted"]
    folders = climb(ladder, out, registry=registry, resume=True, progress=False)

    again = climb(ladder, tmp_path / "again", registry=registry, progress=False)
    for name, folder in folders.items():
        marks = [json.loads((path / "stage.json").read_text()) for path in (folder, again[name])]
        assert [mark.pop("seconds") >= 0 for mark in marks] == [True, True]
        assert marks[0] == marks[1]
    assert content(merged / "weights") == content(again["merged"] / "weights")
    assert [json.loads((path / "steps.json").read_text())["stages"] for path in (out, tmp_path / "again")] == [
        {name: folder.name for name, folder in folders.items()}
    ] * 2
