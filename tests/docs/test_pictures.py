"""The pictures of token patterns are those of the recipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("songkit_planners")
DOCS = Path(__file__).parents[2] / "docs"


def test_pictures_of_patterns_are_up_to_date_and_on_the_page() -> None:
    found = subprocess.run(
        [sys.executable, str(DOCS / "draw_patterns.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    page = (DOCS / "explanation" / "baselines.md").read_text(encoding="utf-8")
    drawn = sorted(path.name for path in (DOCS / "assets").glob("pattern-*.svg"))
    assert len(drawn) == 6
    assert [name for name in drawn if f"../assets/{name}" not in page] == []
