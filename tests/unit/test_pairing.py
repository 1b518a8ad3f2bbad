"""Judged candidates to pairs: what every pair owes its strategy, and why requests give none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from songkit.errors import RecipeError
from songkit.pairing import make_pairs
from songkit.preference_settings import StrategySettings

DIRECTIONS = {"errors.per": False, "style.match": True}
SHARES = st.floats(0, 1, allow_nan=False, width=32)


def rows(*requests: list[tuple[float | None, float | None]]) -> list[dict[str, Any]]:
    return [
        {"request": f"r{i}", "candidate": n, "frames": 9, "errors.per": per, "style.match": match}
        for i, candidates in enumerate(requests)
        for n, (per, match) in enumerate(candidates)
    ]


def pairs(table: list[dict[str, Any]], **options: Any) -> tuple[list[tuple[str, int, int]], dict[str, int]]:
    strategy = StrategySettings(**{"score": "errors.per", **options})
    assert not strategy.validate()
    found = make_pairs(table, {"own": strategy}, directions=DIRECTIONS)["own"]
    return [(p["request"], p["chosen"], p["rejected"]) for p in found.pairs], dict(found.without)


def test_the_widest_gap_makes_the_pair() -> None:
    assert pairs(rows([(0.5, 0), (0.2, 0), (0.9, 0)])) == ([("r0", 1, 2)], {})
    assert pairs(rows([(0.5, 0), (0.2, 0), (0.9, 0)]), higher_is_better=True) == ([("r0", 2, 1)], {})


def test_levos_strategies_are_options() -> None:
    table = rows([(0.30, 0.9), (0.75, 0.8), (0.65, 0.2)], [(0.50, 0.5), (0.60, 0.4)])
    # Strategy 1: phoneme error rates that are more than 40 points apart; for short songs a share does.
    assert pairs(table, min_gap=0.40) == ([("r0", 0, 1)], {"no gap is wide enough": 1})
    assert pairs(table, min_relative_gap=0.15)[0] == [("r0", 0, 1), ("r1", 0, 1)]
    # Strategy 2: one similarity above, the other below a threshold.
    found = pairs(table, score="style.match", chosen_limit=0.7, rejected_limit=0.3)
    assert found == ([("r0", 0, 2)], {"no candidate reaches chosen_limit": 1})
    # Strategy 3: the widest gaps of all requests.
    assert pairs(table, score="style.match", keep=0.5)[0] == [("r0", 0, 2)]
    # LeVo 2's strict pairs.
    assert pairs(rows([(0.3, 0.2), (0.7, 0.9)]), not_worse={"style.match": 0.1}) == (
        [],
        {"the better one is worse in style.match": 1},
    )


def test_requests_without_pairs_are_counted_by_reason() -> None:
    table = rows([(0.5, 0), (None, 0)], [(0.5, 0), (0.5, 0)], [(0.5, 0), (0.4, 0)])
    assert pairs(table, min_gap=0.2) == (
        [],
        {
            "fewer than two candidates have the scores": 1,
            "all candidates have the same score": 1,
            "no gap is wide enough": 1,
        },
    )


def test_a_candidate_without_codes_is_in_no_pair() -> None:
    table = rows([(0.5, 0), (0.2, 0), (0.9, 0)])
    table[1]["frames"] = 0
    assert pairs(table)[0] == [("r0", 0, 2)]


def test_a_song_that_was_cut_is_not_chosen_where_an_end_is_asked_for() -> None:
    table = rows([(0.5, 0), (0.2, 0), (0.9, 0)], [(0.5, 0), (0.2, 0)])
    for row, finished in zip(table, (True, False, False, True, False), strict=True):
        row["finished"] = finished
    assert pairs(table)[0] == [("r0", 1, 2), ("r1", 1, 0)]
    assert pairs(table, chosen_ended=True) == ([("r0", 0, 2)], {"the better one did not end": 1})


def test_a_pair_tells_all_scores_of_both() -> None:
    found = make_pairs(
        rows([(0.5, 0.1), (0.2, None)]), {"a": StrategySettings(score="errors.per")}, directions=DIRECTIONS
    )
    (pair,) = found["a"].pairs
    assert json.loads(pair["aspects"]) == {
        "chosen": {"errors.per": 0.2},
        "rejected": {"errors.per": 0.5, "style.match": 0.1},
    }
    assert pair["reason"] == "errors.per 0.2 against 0.5"


def test_a_score_that_no_candidate_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no candidate has the score 'errors\.pre'\. Did you mean 'errors\.per'"):
        pairs(rows([(0.5, 0)]), score="errors.pre")


@given(
    table=st.lists(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=6), min_size=1, max_size=5),
    gap=SHARES,
    relative=SHARES,
    slack=SHARES,
    limit=st.none() | SHARES,
    each=st.integers(1, 3),
    keep=st.floats(0.1, 1),
)
def test_every_pair_keeps_what_its_strategy_asks_for(
    table: list[list[tuple[float, float]]],
    gap: float,
    relative: float,
    slack: float,
    limit: float | None,
    each: int,
    keep: float,
) -> None:
    candidates = rows(*table)
    options: dict[str, Any] = {
        "min_gap": gap,
        "min_relative_gap": relative,
        "not_worse": {"style.match": slack},
        "chosen_limit": limit,
        "pairs_per_request": each,
    }
    found, _ = pairs(candidates, **options)
    for name, chosen, rejected in found:
        (good, match), (bad, other) = table[int(name[1:])][chosen], table[int(name[1:])][rejected]
        assert bad - good >= max(gap, relative * bad)
        assert bad > good
        assert other - match <= slack
        assert limit is None or good <= limit
    for i in range(len(table)):
        numbers = [n for name, *two in found if name == f"r{i}" for n in two]
        assert len(set(numbers)) == len(numbers) <= 2 * each
    fewer, _ = pairs(candidates, keep=keep, **options)
    assert fewer == [pair for pair in found if pair in fewer]
    assert len(fewer) == (max(1, round(keep * len(found))) if found else 0)
    # The order in which candidates of a request were sung decides nothing but ties.
    assert len(pairs(list(reversed(candidates)), **options)[0]) == len(found)
