"""How sure scores may be, and where tiers begin: fitted on songs that were not trained on.

What a fit is worth is told by songs that it has not seen either: `cross_fitted` leaves a fifth of the songs out at a
time.
"""

from __future__ import annotations

import itertools

import numpy as np

from songkit.types import TIERS

__all__ = ["calibration_error", "cross_fitted", "fit_temperature", "fit_thresholds"]

_FOLDS = 5
_GROUPS = 5


def fit_temperature(scores: np.ndarray, pairs: np.ndarray) -> float:
    """Returns what scores are divided by, so that their differences are the log-odds of being preferred.

    It has the highest likelihood from .01 to 100, where the better song of a pair is taken to win (n + 1) times of
    (n + 2), n being the number of pairs: as in Platt's scaling (1999), or a few pairs that are all in order would make
    the odds endless. Counting songs instead, because the pairs of a song are not independent, makes odds that were
    right too shy.

    Args:
        scores: Of each song [N].
        pairs: Positions of the better and the worse song [M, 2]; with none of them the temperature is 1.
    """
    if not len(pairs):
        return 1.0
    apart = _apart(scores, pairs)
    right = (len(pairs) + 1) / (len(pairs) + 2)
    low, high = np.log(0.01), np.log(100)
    for _ in range(50):  # the likelihood is concave in 1 / temperature: halve towards where its slope is 0
        middle = (low + high) / 2
        slope = np.mean((right - _chance(apart / np.exp(middle))) * apart)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def fit_thresholds(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns the scores between tiers [4] that give as many songs to each tier as there are, or a fifth each.

    Args:
        scores: Of each song [N], at least one.
        levels: Tier of each song from 0 to 4, -1 where it is not known [N].
    """
    counts = np.bincount(levels[levels >= 0], minlength=len(TIERS))
    shares = counts if counts.any() else np.ones(len(TIERS))
    return np.asarray(np.quantile(scores, np.cumsum(shares)[:-1] / shares.sum()))


def calibration_error(apart: np.ndarray) -> float:
    """Returns how far odds are from how often they come true: 0 is perfect, 1 as wrong as can be.

    Pairs are put into five groups by how sure the scores are; the number is the mean distance between the chance that
    is said and the share that is right (expected calibration error).

    Args:
        apart: Log-odds that the better song of each pair was given [M], at least one.
    """
    said = _chance(np.abs(apart))
    right = (apart > 0) + 0.5 * (apart == 0)
    groups = np.array_split(np.argsort(said, kind="stable"), _GROUPS)
    return float(sum(abs(said[group].sum() - right[group].sum()) for group in groups) / len(apart))


def cross_fitted(scores: np.ndarray, pairs: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """Returns how right temperature and thresholds are for songs that they were not fitted on.

    Songs are in five parts. The odds of a pair come from the parts that hold neither of its songs, the tier of a song
    from the four others.

    Args:
        scores: Of each song [N], two or more, in an order that has nothing to do with how good they are.
        pairs: Positions of the better and the worse song [M, 2], at least one.
        levels: Tier of each song from 0 to 4, -1 where it is not known [N].

    Returns:
        `calibration_error`; `calibration_error_unfitted`, that of the scores as they are; and where tiers are known
        `tier_right` and `tier_beside`, the share of songs in their own tier, and in that or one beside it.
    """
    folds = np.arange(len(scores)) % _FOLDS
    unfitted = _apart(scores, pairs)
    apart = np.zeros(len(pairs))
    for two in itertools.combinations_with_replacement(range(_FOLDS), 2):
        judged = (np.sort(folds[pairs], axis=1) == two).all(axis=1)
        others = ~np.isin(folds[pairs], two).any(axis=1)
        apart[judged] = unfitted[judged] / fit_temperature(scores, pairs[others])
    found = {
        "calibration_error": calibration_error(apart),
        "calibration_error_unfitted": calibration_error(unfitted),
    }
    known = levels >= 0
    if known.any():
        heard = np.zeros_like(levels)
        for fold in range(min(_FOLDS, len(scores))):
            own = folds == fold
            heard[own] = np.searchsorted(fit_thresholds(scores[~own], levels[~own]), scores[own])
        off = np.abs(heard - levels)[known]
        found |= {"tier_right": float((off == 0).mean()), "tier_beside": float((off <= 1).mean())}
    return found


def _apart(scores: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.asarray(scores[pairs[:, 0]] - scores[pairs[:, 1]], dtype=np.float64)


def _chance(odds: np.ndarray) -> np.ndarray:
    """Returns the probability of log-odds; the usual formula overflows."""
    return np.asarray(0.5 * (1 + np.tanh(odds / 2)))
