"""`songkit evaluate`: what a mistake in the command is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from songkit.cli import main


@pytest.mark.parametrize("source", ["songs-ours", "./songs-ours", "songs-ours.yaml"])
def test_what_is_neither_folder_nor_recipe_is_called_that(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", source]) == 2
    assert f"error: '{source}' is neither a folder of songs nor a recipe: " in capsys.readouterr().err


def test_an_option_of_a_metric_that_is_not_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(tmp_path), "--metrics", "judges/pitch", "--set"]
    assert main([*words, "phoneme-errors.beam=5"]) == 2
    told = "--set phoneme-errors.beam=5: 'phoneme-errors' is not among --metrics. Options can be set of: pitch."
    assert told in capsys.readouterr().err
    assert main([*words, "pich.voiced=0.5"]) == 2
    assert "Did you mean 'pitch'?" in capsys.readouterr().err
