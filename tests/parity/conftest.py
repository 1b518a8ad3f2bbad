"""Which parity data the tests here compare with: those of the repository, or a folder named by `--golden`."""

from __future__ import annotations

import json
from pathlib import Path

import levo2_golden
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, help="a folder of parity data, instead of those in tests/data/levo2")


@pytest.fixture(scope="module")
def golden_folder(request: pytest.FixtureRequest) -> Path:
    """The data of the kind that the module names in `GOLDEN`: a folder's name and a key of its `config.json`."""
    kind, key = request.module.GOLDEN
    chosen = request.config.getoption("--golden", default=None)
    folder = levo2_golden.FOLDER / kind if chosen is None else chosen
    if key not in json.loads((folder / "config.json").read_text()):
        pytest.skip(f"{folder} holds no data of the kind '{kind}': its config.json has no '{key}'")
    return folder
