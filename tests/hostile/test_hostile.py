"""Hostile recipes, weights and plugins: nothing is executed, little is spent, and one clear message is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import plugins, recipes, weights
from hostile.attack import MOST_SECONDS, Case, attack

CASES = [*recipes.CASES, *weights.CASES, *plugins.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_attack_is_refused(case: Case, tmp_path: Path) -> None:
    outcome = attack(case, tmp_path)

    message, length = outcome.message[:10_000], len(outcome.message)
    hidden = {letter for letter in message if not letter.isprintable() and letter != "\n"}
    assert outcome.status == 2, message[:500]
    assert outcome.executed == ()
    assert outcome.seconds < MOST_SECONDS
    assert message.startswith("error: ")
    assert length < 10_000
    assert hidden == set()
    assert [text for text in case.says if text not in message] == [], message[:500]


def test_there_are_more_than_a_hundred_and_no_two_alike() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 100
