"""What listeners said: a CSV file of scores or of choices, as pairs of a better and a worse song.

    song,rater,score          one opinion a row; songs that one rater scored differently make a pair
    chosen,rejected,rater     one choice a row

The first row names the columns, in any order; others are ignored. `song`, `chosen` and `rejected` are ids of songs.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from songkit.errors import RequestError
from songkit.types import TIERS

__all__ = ["pairs_of_tiers", "pairwise_accuracy", "read_preferences"]

_FORMS = (("song", "rater", "score"), ("chosen", "rejected", "rater"))


def read_preferences(path: Path) -> list[tuple[str, str]]:
    """Returns the ids of the better and of the worse song of each pair, a pair for each rater who had it so.

    Raises:
        RequestError: If the file cannot be read, has other columns, or a row is not understood.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = tuple(name.strip() for name in reader.fieldnames or ())
            rows = [{str(name).strip(): value for name, value in row.items()} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"cannot read the listening test {path}: {error}. Expected a CSV file in UTF-8.") from error
    form = next((form for form in _FORMS if set(form) <= set(columns)), None)
    if form is None:
        raise RequestError(
            f"{path} has the columns {', '.join(columns) or '(none)'}; expected "
            + " or ".join(",".join(form) for form in _FORMS)
        )
    pairs: list[tuple[str, str]] = []
    scores: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for line, row in enumerate(rows, start=2):
        values = [(row[name] or "").strip() for name in form]
        if not all(values):
            raise RequestError(f"{path}, row {line}: {form[values.index('')]} is empty; delete the row or fill it in")
        if form == _FORMS[1]:
            if values[0] == values[1]:
                raise RequestError(f"{path}, row {line}: song '{values[0]}' is chosen and rejected; leave ties out")
            pairs.append((values[0], values[1]))
        else:
            scores[values[1]].append((values[0], _score(path, line, values[2])))
    for opinions in scores.values():  # of one rater: raters use the scale differently
        for (one, a), (other, b) in itertools.combinations(opinions, 2):
            if a != b and one != other:
                pairs.append((one, other) if a > b else (other, one))
    if not pairs:
        raise RequestError(f"{path} holds no pair of a better and a worse song; a rater has to score two differently")
    return pairs


def pairs_of_tiers(tiers: Sequence[str | None]) -> np.ndarray:
    """Returns the positions of the better and of the worse song of each pair of different tiers, int64 [N, 2]."""
    level = np.array([TIERS.index(tier) if tier in TIERS else -1 for tier in tiers])
    better = (level[:, None] > level) & (level >= 0)
    return np.argwhere(better)


def pairwise_accuracy(
    scores: np.ndarray, pairs: np.ndarray, *, replicates: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Returns the share of pairs whose better song scores higher (ties count half), and its 95 % interval.

    The bootstrap resamples songs, because the pairs of one song are not independent.

    Args:
        scores: Of each song [N].
        pairs: Positions of the better and the worse song [M, 2], at least one.
        replicates: Number of resamples.
        seed: Seed of the resampling.
    """
    better, worse = scores[pairs[:, 0]], scores[pairs[:, 1]]
    right = (better > worse) + 0.5 * (better == worse)
    count = len(scores)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates)  # [R, N]
    accuracies = []
    for times in drawn:
        weights = times[pairs[:, 0]] * times[pairs[:, 1]]
        if weights.any():  # a resample of few songs may hold no pair
            accuracies.append(float((weights * right).sum() / weights.sum()))
    low, high = np.quantile(accuracies or [0.0, 1.0], [0.025, 0.975])
    return float(right.mean()), float(low), float(high)


def _score(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(f"{path}, row {line}: the score is '{text}'; expected a number")
    return value
