"""Merging: the line between models of one ancestor, exact, in any order, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import judges
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from songkit.checkpoint import load_weights, read_metadata, read_weights, save_weights
from songkit.cli import main
from songkit.errors import CheckpointError, OutputError, RecipeError, RequestError
from songkit.lineage import ancestry
from songkit.merge import merge, merge_weights
from songkit.recipe import Recipe, load
from songkit.registry import Registry
from songkit.run_folder import described
from songkit.sweep import sweep
from songkit.weights_header import description

BASE = {"component": "local/fake", "part": None, "revision": 1, "config": {"width": 4}}


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "tower.weight": torch.randn(5, 3, generator=generator),
        "gain": torch.randn(3, generator=generator),
        "count": torch.tensor([2, 3]),
    }


def write(path: Path, seed: int, *, ancestors: tuple[str, ...] = ("sft",), dtype: Any = None, **changes: Any) -> Path:
    save_weights(path, tensors(seed), {**BASE, "ancestors": [*ancestors], **changes}, dtype=dtype)
    return path


def recipe(folder: Path, **merge: Any) -> Recipe:
    path = folder / "merge.yaml"
    path.write_text(f"format: 1\nmerge: {json.dumps(merge)}\n")
    return load(path, registry=Registry.discover())


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Two trainings from the same weights: a planner of their own each, and the same conditioner."""
    for seed, name in enumerate(("lyrics", "prompt")):
        write(tmp_path / name / "weights" / "planner.safetensors", seed)
        write(tmp_path / name / "weights" / "conditioner.safetensors", 9)
    return {name: tmp_path / name for name in ("lyrics", "prompt")}


def test_parameters_lie_on_the_line_and_whole_numbers_stay(runs: dict[str, Path], tmp_path: Path) -> None:
    models = {"lyrics": {"run": str(runs["lyrics"]), "coefficient": 0.25}, "prompt": {"run": str(runs["prompt"])}}
    weights = merge(recipe(tmp_path, models=models), tmp_path / "merged")
    found, metadata = read_weights(weights / "planner.safetensors")
    one, two = tensors(0), tensors(1)
    for name in ("tower.weight", "gain"):
        expected = 0.25 * one[name].double() + 0.75 * two[name].double()
        assert torch.equal(found[name], expected.float())
    assert torch.equal(found["count"], one["count"])
    assert {key: metadata[key] for key in BASE} == BASE
    shares = {model["sha256"]: model["coefficient"] for model in metadata["merged"]}
    files = {name: run / "weights" / "planner.safetensors" for name, run in runs.items()}
    assert shares == {ancestry(files["lyrics"])[0]: 0.25, ancestry(files["prompt"])[0]: 0.75}
    assert set(ancestry(weights / "planner.safetensors")[1:]) == {*shares, "sft"}
    # Frozen in both: the very same file.
    own = runs["lyrics"] / "weights" / "conditioner.safetensors"
    assert (weights / "conditioner.safetensors").read_bytes() == own.read_bytes()
    assert (tmp_path / "merged" / "provenance.json").is_file()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 2, allow_nan=False), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_the_models_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, coefficients: list[float], random: Any
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    coefficients.append(1 - sum(coefficients))
    files = [(write(folder / f"{i}.safetensors", i), c) for i, c in enumerate(coefficients)]
    merge_weights(files, folder / "one.safetensors")
    random.shuffle(files)
    merge_weights(files, folder / "two.safetensors")
    assert (folder / "one.safetensors").read_bytes() == (folder / "two.safetensors").read_bytes()


def test_the_ends_of_the_line_are_the_models_themselves(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{i}.safetensors", i) for i in range(2))
    merge_weights([(one, 1.0), (two, 0.0)], tmp_path / "end.safetensors")
    for name, tensor in read_weights(tmp_path / "end.safetensors")[0].items():
        assert torch.equal(tensor, tensors(0)[name])


def test_int8_is_merged_as_it_is_read(tmp_path: Path) -> None:
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = torch.nn.Linear(3, 5, bias=False)
            self.gain = torch.nn.Parameter(torch.zeros(3))
            self.register_buffer("count", torch.zeros(2, dtype=torch.int64))

    files = [write(tmp_path / f"{i}.safetensors", i, dtype=torch.int8) for i in range(2)]
    merge_weights([(files[0], 0.5), (files[1], 0.5)], tmp_path / "merged.safetensors")
    loaded = [Holder() for _ in range(3)]
    for path, module in zip([*files, tmp_path / "merged.safetensors"], loaded, strict=True):
        load_weights(path, module, component="local/fake", revision=1)
    one, two, merged = (module.tower.weight.double() for module in loaded)
    assert torch.equal(merged.float(), ((one + two) / 2).float())
    assert not torch.equal(one.float(), tensors(0)["tower.weight"])  # the rounding is there


def test_a_model_that_is_the_ancestor_of_the_other_is_its_relative(tmp_path: Path) -> None:
    base = write(tmp_path / "base.safetensors", 0, ancestors=())
    tuned = write(tmp_path / "tuned.safetensors", 1, ancestors=ancestry(base))
    merge_weights([(base, 0.4), (tuned, 0.6)], tmp_path / "merged.safetensors")
    assert ancestry(base)[0] in read_metadata(tmp_path / "merged.safetensors")["ancestors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ancestors": ("other",)}, "no common ancestor.*comes from other"),
        ({"revision": 2}, "revision is [12] and [12]"),
        ({"config": {"width": 8}}, "config is"),
        ({"component": "local/other"}, "component is"),
    ],
)
def test_strangers_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    files = [(write(tmp_path / "a.safetensors", 0), 0.5), (write(tmp_path / "b.safetensors", 1, **changes), 0.5)]
    with pytest.raises(CheckpointError, match=message):
        merge_weights(files, tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", 0)
    for name, tensor, message in (
        ("tower.weight", torch.zeros(5, 4), r"tower\.weight is \[5, [34]\] and \[5, [34]\]"),
        ("more", torch.zeros(1), "only one of them has more"),
        ("count", torch.tensor([2, 4]), "differ in 'count'"),
    ):
        save_weights(tmp_path / "b.safetensors", {**tensors(1), name: tensor}, {**BASE, "ancestors": ["sft"]})
        with pytest.raises(CheckpointError, match=message):
            merge_weights([(one, 0.5), (tmp_path / "b.safetensors", 0.5)], tmp_path / "merged.safetensors")


def test_one_model_alone_is_stored_in_another_type(runs: dict[str, Path], tmp_path: Path) -> None:
    models = {"lyrics": {"run": str(runs["lyrics"])}}
    merge(recipe(tmp_path, models=models, weights_dtype="int8"), tmp_path / "small")
    stored = tmp_path / "small" / "weights" / "planner.safetensors"
    before, after = tensors(0)["tower.weight"], read_weights(stored)[0]["tower.weight"]
    assert 0 < (after - before).abs().max() <= before.abs().max() / 254 * 1.001  # half a step of 255
    assert description(runs["lyrics"] / "weights" / "planner.safetensors")[1] in ancestry(stored)
    command = ["merge", "--models", str(runs["lyrics"]), "--out", str(tmp_path / "small"), "merge.weights_dtype=int8"]
    assert main(command) == 0
    with pytest.raises(OutputError, match="is stored as int8; float16 was asked for"):
        merge(recipe(tmp_path, models=models, weights_dtype="float16"), tmp_path / "small")


def test_a_recipe_that_cannot_be_merged_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    models = {name: {"run": str(run)} for name, run in runs.items()}
    with pytest.raises(RecipeError, match=r"add up to 1\.3; expected 1"):
        recipe(tmp_path, models={n: {**m, "coefficient": 0.65} for n, m in models.items()})
    with pytest.raises(RecipeError, match="names no models"):
        merge(recipe(tmp_path), tmp_path / "merged")
    with pytest.raises(CheckpointError, match=r"holds no weights/\*\.safetensors"):
        merge(recipe(tmp_path, models={**models, "none": {"run": str(tmp_path)}}), tmp_path / "merged")
    write(runs["prompt"] / "weights" / "refiner.safetensors", 3)
    with pytest.raises(CheckpointError, match="not all models have weights of refiner"):
        merge(recipe(tmp_path, models=models), tmp_path / "merged")
    merge(recipe(tmp_path, models=models, roles=["planner"]), tmp_path / "merged")
    made = [tmp_path / "merged" / name for name in ("weights/planner.safetensors", "provenance.json")]
    before = [file.stat().st_mtime_ns for file in made]
    merge(recipe(tmp_path, models=models, roles=["planner"]), tmp_path / "merged")
    assert [file.stat().st_mtime_ns for file in made] == before
    other = {"lyrics": {**models["lyrics"], "coefficient": 0.1}, "prompt": models["prompt"]}
    with pytest.raises(OutputError, match="with other coefficients"):
        merge(recipe(tmp_path, models=other, roles=["planner"]), tmp_path / "merged")


def test_the_command_takes_folders_and_shares(runs: dict[str, Path], tmp_path: Path) -> None:
    words = [f"{runs['lyrics']}=0.25", str(runs["prompt"])]
    assert main(["merge", "--models", *words, "--out", str(tmp_path / "merged")]) == 0
    merged = read_metadata(tmp_path / "merged" / "weights" / "planner.safetensors")["merged"]
    assert sorted(model["coefficient"] for model in merged) == [0.25, 0.75]


def test_a_training_tells_the_ancestors_of_its_weights(tmp_path: Path) -> None:
    fakes.write_model(tmp_path)
    model = load(tmp_path / "model.yaml", registry=Registry.discover())
    made = described(model, "planner", steps=3, consumed=1.0, unit="songs")
    assert made["ancestors"] == list(ancestry(tmp_path / "planner.safetensors"))
    save_weights(tmp_path / "next.safetensors", {"gain": torch.ones(1)}, made)
    again = load(
        tmp_path / "model.yaml", [f"planner.weights={tmp_path}/next.safetensors"], registry=Registry.discover()
    )
    twice = described(again, "planner", steps=3, consumed=1.0, unit="songs")["ancestors"]
    assert twice == [ancestry(tmp_path / "next.safetensors")[0], *made["ancestors"]]


def test_a_sweep_judges_points_and_draws_them(tmp_path: Path) -> None:
    fakes.write_model(tmp_path)
    for name, gain in (("quiet", 0.2), ("loud", 1.0)):
        metadata = {**read_metadata(tmp_path / "planner.safetensors"), "ancestors": ["sft"]}
        save_weights(tmp_path / name / "weights" / "planner.safetensors", {"gain": torch.tensor([gain])}, metadata)
    (tmp_path / "requests.jsonl").write_text(
        '{"idx": "a", "gt_lyric": "[verse] la."}\n{"idx": "b", "gt_lyric": "[verse] li."}\n'
    )
    (tmp_path / "sweep.yaml").write_text(
        f"""
format: 1
defaults: [./model.yaml]
plugins: ['{Path(fakes.__file__)}', '{Path(judges.__file__)}']
metrics: {{ear: local/loudness}}
mine: {{requests: ./requests.jsonl, candidates: 1}}
merge:
  models: {{quiet: {{run: ./quiet}}, loud: {{run: ./loud}}}}
  sweep: {{between: [quiet, loud], points: 3, scores: [ear.seconds, ear.crossings]}}
"""
    )
    with pytest.raises(RequestError, match="the device 'cuda:99' is not there"):
        sweep(load(tmp_path / "sweep.yaml", ["generate.device=cuda:99"], registry=Registry.discover()), tmp_path / "no")
    loaded = load(tmp_path / "sweep.yaml", registry=Registry.discover())
    rows = sweep(loaded, tmp_path / "swept")
    assert [row["coefficients"] for row in rows] == [
        {"quiet": 1.0, "loud": 0.0},
        {"quiet": 0.5, "loud": 0.5},
        {"quiet": 0.0, "loud": 1.0},
    ]
    assert read_weights(tmp_path / "swept" / "points" / "01" / "weights" / "planner.safetensors")[0]["gain"] == 0.6
    for row in rows:
        for mean, low, high in row["scores"].values():
            assert low <= mean <= high
    picture = (tmp_path / "swept" / "sweep.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert sweep(loaded, tmp_path / "swept") == rows
    assert (tmp_path / "swept" / "sweep.png").read_bytes() == picture
