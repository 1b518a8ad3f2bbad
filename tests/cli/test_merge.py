"""`songkit merge`: models that are named on the command line, and what a mistake there is told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from songkit.checkpoint import read_metadata, save_weights
from songkit.cli import main


def write(run: Path, *roles: str, value: float = 1.0) -> Path:
    metadata = {"component": "local/fake", "part": None, "revision": 1, "config": {}, "ancestors": ["sft"]}
    for role in roles:
        save_weights(run / "weights" / f"{role}.safetensors", {"gain": torch.tensor([value])}, metadata)
    return run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two trainings of the same roles whose folders have one name."""
    monkeypatch.chdir(tmp_path)
    for number, place in enumerate(("new", "old")):
        write(Path(place, "dpo.a"), "planner", "refiner", value=float(number))
    return ["new/dpo.a", "old/dpo.a"]


def test_a_change_may_stand_behind_the_models(runs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert main(["merge", "--models", *runs, "merge.weights_dtype=float16", "--out", str(out)]) == 0
    assert read_metadata(out / "weights" / "planner.safetensors")["weights_dtype"] == "float16"


def test_models_are_called_by_distinct_names_of_their_folders(
    runs: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert main(["merge", "--models", f"{runs[0]}=0.25", *runs, "--out", str(tmp_path / "merged")]) == 0
    assert "planner.safetensors: 0.25 x dpo-a, 0.375 x new-dpo-a, 0.375 x old-dpo-a" in caplog.text


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    assert main(["merge", "--models", str(write(tmp_path / "lr=3", "planner")), "--out", str(tmp_path / "merged")]) == 0


def test_mistakes_are_told_with_the_words_that_were_given(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, tokens = (str(write(tmp_path / name, f"codec.{name}")) for name in ("vae", "tokens"))
    one, two = runs
    for words, told in (
        ([f"{one}=int8"], f"--models {one}=int8: expected RUN or RUN=COEFFICIENT with a number, found 'int8'"),
        ([f"{tmp_path}/no=1"], f"--models {tmp_path}/no=1: there is no folder {tmp_path}/no."),
        (
            [f"{one}=0.6", f"{two}=0.5"],
            f"`--models {one}=0.6 {two}=0.5` (merge.models): models: their coefficients add up",
        ),
        ([*runs, "merge.roles=[planer]"], "merge.roles names 'planer', of which no model has weights. Did you mean"),
        ([*runs, "merge.roles=[xyz]"], "of which no model has weights. All models have: planner, refiner."),
        (
            [vae, tokens],
            "the models have no weights in common: vae has codec.vae; tokens has codec.tokens. Merge trainings of one",
        ),
    ):
        assert main(["merge", "--models", *words, "--out", str(tmp_path / "merged")]) == 2
        assert told in capsys.readouterr().err
    # A recipe may name a folder that is not there, too.
    assert main(["merge", f"merge.models.a.run={tmp_path}/no", "--out", str(tmp_path / "merged")]) == 2
    assert f"merge.models.a: there is no folder {tmp_path}/no." in capsys.readouterr().err
