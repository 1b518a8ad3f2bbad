"""What a recipe reads: told apart by content, and all that is missing told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from songkit.errors import CheckpointError, OutputError
from songkit.lineage import inputs_of
from songkit.recipe import Recipe, load
from songkit.registry import Registry

PLUGIN = Path(__file__).parents[1] / "noise.py"


def recipe(folder: Path, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
format: 1
plugins: [{PLUGIN}]
paths: {{codec: ./codec.safetensors}}
data: {{use: songkit/prepared, root: ./songs}}
tokenizer: {{use: local/loudness, weights: "${{paths.codec}}"}}
"""
    )
    return load(path, overrides, registry=Registry.discover())


def test_all_that_is_missing_is_told_with_who_needs_it_and_where_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        inputs_of(recipe(tmp_path))
    first, *told, advice = str(caught.value).splitlines()
    assert first == "the recipe 'recipe' reads what is not there:"
    assert sorted(told) == [
        f"data.root, from {tmp_path}/recipe.yaml:5:37: there is no {tmp_path}/songs",
        f"tokenizer.weights, from paths.codec: there is no {tmp_path}/codec.safetensors",
    ]
    assert "songkit train" in advice
    assert "`data.root=PATH`" in advice
    (tmp_path / "songs").mkdir()
    with pytest.raises(CheckpointError, match=r"\ntokenizer\.weights, .*\n.*`paths\.codec=PATH`"):
        inputs_of(recipe(tmp_path))


def test_missing_data_alone_is_an_output_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"data\.root, from .*\n.*songkit prepare.*data\.root=PATH"):
        inputs_of(recipe(tmp_path, "tokenizer.weights=random"))


def test_a_folder_in_the_place_of_weights_is_told_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "codec.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"is a folder.*'tokenizer\.weights' in the recipe"):
        inputs_of(recipe(tmp_path))
