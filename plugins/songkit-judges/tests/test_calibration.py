"""Odds and tiers that hold for new songs: what they are fitted to, and what is told about them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from songkit_judges.calibration import calibration_error, cross_fitted, fit_temperature, fit_thresholds
from songkit_judges.preferences import pairs_of_tiers


def listeners(songs=200, pairs=4000, seed=0, spread=1.0):
    """True scores, and pairs of which the better song wins as often as its score says."""
    rng = np.random.default_rng(seed)
    scores = spread * rng.standard_normal(songs)
    one, other = rng.integers(songs, size=(2, pairs))
    wins = rng.random(pairs) < 1 / (1 + np.exp(scores[other] - scores[one]))
    found = np.where(wins[:, None], np.stack([one, other], 1), np.stack([other, one], 1))
    return scores, found[one != other]


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_scores_that_are_too_sure_or_too_shy_get_their_temperature(factor):
    scores, pairs = listeners()
    assert fit_temperature(factor * scores, pairs) == pytest.approx(factor, rel=0.1)


def test_pairs_that_are_all_in_order_make_no_odds_endless():
    two = np.array([[1, 0]])
    assert fit_temperature(np.array([0.0, 10.0]), two) == pytest.approx(10 / np.log(2))  # 2 to 1, of one pair
    assert fit_temperature(np.array([10.0, 0.0]), two) == pytest.approx(100)  # all wrong: as unsure as can be
    assert fit_temperature(np.array([0.0, 10.0]), two[:0]) == 1


def test_odds_that_are_right_stay_as_they_are_where_few_songs_are_far_apart():
    drawn = [listeners(songs=40, pairs=600, seed=seed, spread=7.0) for seed in range(30)]
    assert np.median([fit_temperature(*one) for one in drawn]) == pytest.approx(1, abs=0.2)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_each_tier_gets_as_many_songs_as_are_known(levels, seed):
    levels = np.array(levels)
    if (levels < 0).any():
        levels[:] = -1
    scores = np.random.default_rng(seed).permutation(levels.size).astype(float)
    thresholds = fit_thresholds(scores, levels)
    assert (np.diff(thresholds) >= 0).all()
    below = [(scores <= threshold).sum() for threshold in thresholds]
    known = [((levels >= 0) & (levels <= tier)).sum() for tier in range(4)]
    wanted = known if (levels >= 0).any() else [levels.size * (tier + 1) / 5 for tier in range(4)]
    assert below == pytest.approx(wanted, abs=1)  # the lowest song lies in the lowest tier even if nothing should


def test_the_error_is_how_far_odds_are_from_what_comes_true():
    scores, pairs = listeners()
    apart = scores[pairs[:, 0]] - scores[pairs[:, 1]]
    assert calibration_error(apart) < 0.03
    assert calibration_error(5 * apart) > 0.15
    assert calibration_error(np.array([50.0, -50.0] * 10)) == pytest.approx(0.5)
    assert calibration_error(np.zeros(7)) == 0  # ties were right half of the time, as said


def test_no_song_has_a_say_in_what_it_is_judged_by():
    steps = np.arange(5.0)
    found = cross_fitted(steps, pairs_of_tiers(["very-low", "low", "medium", "high", "very-high"]), np.arange(5))
    assert found["tier_right"] == pytest.approx(0.4)  # a tier that the other songs lack cannot be hit
    assert found["tier_beside"] == 1
    two = cross_fitted(np.array([0.0, 3.0]), np.array([[1, 0]]), np.array([-1, -1]))
    sure = 1 / (1 + np.exp(-3))  # no other pair is there to tell better
    assert two == {"calibration_error": pytest.approx(1 - sure), "calibration_error_unfitted": pytest.approx(1 - sure)}


def test_a_fit_to_other_songs_makes_odds_truer():
    scores, pairs = listeners(songs=60, pairs=1000, seed=1)
    found = cross_fitted(6 * scores, pairs, np.full(60, -1))
    assert found["calibration_error"] < 0.08 < 0.15 < found["calibration_error_unfitted"]
