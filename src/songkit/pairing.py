"""Judged candidates to preference pairs.

LeVo's three strategies are options of one mechanism: `lyrics` asks for a gap in phoneme errors, `prompt` for a chosen
song above and a rejected one below thresholds of similarity, `musicality` for a gap in what a reward model says. Strict
pairs, as LeVo 2 makes them offline, are `not_worse`; its semi-online pairs are ranked by an aesthetic score alone.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from songkit.errors import RecipeError, did_you_mean
from songkit.pairs import CANDIDATE_COLUMNS
from songkit.preference_settings import StrategySettings

__all__ = ["Paired", "lacking_scores", "make_pairs"]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The pairs of a strategy, and why requests gave none."""

    pairs: tuple[dict[str, Any], ...]
    """Rows of `songkit.pairs.PAIR_COLUMNS`, in the order of the requests."""
    without: Mapping[str, int]
    """How many requests gave no pair, by reason."""


def make_pairs(
    rows: Sequence[Mapping[str, Any]],
    strategies: Mapping[str, StrategySettings],
    *,
    directions: Mapping[str, bool],
) -> dict[str, Paired]:
    """Makes the pairs of each strategy.

    Args:
        rows: Judged candidates, as in candidates.parquet, those of a request together.
        strategies: By name.
        directions: For each score whether higher is better, where its strategy does not say.

    Raises:
        RecipeError: If a strategy names a score that no candidate has.
    """
    problems = lacking_scores(rows, strategies)
    if problems:
        raise RecipeError(problems)
    return {name: _pairs_of(name, strategy, rows, directions) for name, strategy in strategies.items()}


def lacking_scores(rows: Sequence[Mapping[str, Any]], strategies: Mapping[str, StrategySettings]) -> dict[str, bool]:
    """Returns a message for each score that a strategy reads and none of the rows has, and whether it is misspelled.

    Judges leave out numbers that a song has nothing for; a name near to one that its own judge gives is a mistake.
    """
    scores = sorted({name for row in rows for name in row if name not in CANDIDATE_COLUMNS and row[name] is not None})
    return {
        f"mine.strategies.{name}: no candidate has the score '{score}'.{did_you_mean(score, scores)} There are: "
        f"{', '.join(scores) or 'none'}.": _misspelled(score, scores)
        for name, strategy in strategies.items()
        for score in (strategy.score, *strategy.not_worse)
        if score not in scores
    }


def _misspelled(score: str, scores: Sequence[str]) -> bool:
    judge, _, number = score.partition(".")
    return bool(did_you_mean(number, [other.partition(".")[2] for other in scores if other.startswith(f"{judge}.")]))


def _pairs_of(
    name: str, strategy: StrategySettings, rows: Sequence[Mapping[str, Any]], directions: Mapping[str, bool]
) -> Paired:
    without: collections.Counter[str] = collections.Counter()
    found: list[dict[str, Any]] = []
    for request, group in itertools.groupby(rows, key=lambda row: row["request"]):
        candidates = list(group)
        pairs, reason = _of_request(name, strategy, candidates, directions)
        if not pairs:
            without[reason] += 1
        found += [{"request": request, **pair} for pair in pairs]
    kept = sorted(found, key=lambda pair: -float(pair["margin"]))[: max(1, round(strategy.keep * len(found)))]
    chosen = {id(pair) for pair in kept}
    if len(kept) < len(found):
        dropped = {pair["request"] for pair in found} - {pair["request"] for pair in kept}
        without[f"its gap is not among the widest {strategy.keep:.0%}"] += len(dropped)
    return Paired(pairs=tuple(pair for pair in found if id(pair) in chosen), without=dict(without))


def _of_request(
    name: str, strategy: StrategySettings, rows: Sequence[Mapping[str, Any]], directions: Mapping[str, bool]
) -> tuple[list[dict[str, Any]], str]:
    """Returns the pairs of one request's candidates, or why there are none."""
    needed = (strategy.score, *strategy.not_worse)
    scored = [row for row in rows if row["frames"] and all(row.get(score) is not None for score in needed)]
    if len(scored) < 2:
        return [], "fewer than two candidates have the scores"
    signs = {score: 1.0 if _higher(score, strategy, directions) else -1.0 for score in needed}
    reasons: collections.Counter[str] = collections.Counter()
    possible = []
    for chosen, rejected in itertools.permutations(scored, 2):
        gap = signs[strategy.score] * (chosen[strategy.score] - rejected[strategy.score])
        if gap <= 0:
            continue
        reason = _refused(strategy, chosen, rejected, gap, signs)
        if reason:
            reasons[reason] += 1
        else:
            possible.append((gap, chosen, rejected))
    possible.sort(key=lambda found: (-found[0], found[1]["candidate"], found[2]["candidate"]))
    pairs: list[dict[str, Any]] = []
    used: set[int] = set()
    for gap, chosen, rejected in possible:
        numbers = {chosen["candidate"], rejected["candidate"]}
        if not used & numbers and len(pairs) < strategy.pairs_per_request:
            used |= numbers
            pairs.append(_pair(name, strategy, chosen, rejected, gap))
    # The reason that is told is the one that ruled out the most.
    return pairs, reasons.most_common(1)[0][0] if reasons else "all candidates have the same score"


def _refused(
    strategy: StrategySettings,
    chosen: Mapping[str, Any],
    rejected: Mapping[str, Any],
    gap: float,
    signs: Mapping[str, float],
) -> str:
    """Returns why two candidates make no pair, or an empty string."""
    if strategy.chosen_ended and not chosen["finished"]:
        return "the better one did not end"
    sign = signs[strategy.score]
    least = strategy.min_relative_gap * abs(rejected[strategy.score])
    if gap < strategy.min_gap or gap < least:
        return "no gap is wide enough"
    if strategy.chosen_limit is not None and sign * (chosen[strategy.score] - strategy.chosen_limit) < 0:
        return "no candidate reaches chosen_limit"
    if strategy.rejected_limit is not None and sign * (rejected[strategy.score] - strategy.rejected_limit) > 0:
        return "no candidate is beyond rejected_limit"
    for score, most in strategy.not_worse.items():
        if signs[score] * (rejected[score] - chosen[score]) > most:
            return f"the better one is worse in {score}"
    return ""


def _pair(
    name: str, strategy: StrategySettings, chosen: Mapping[str, Any], rejected: Mapping[str, Any], gap: float
) -> dict[str, Any]:
    aspects = {
        side: {key: row[key] for key in sorted(row) if key not in CANDIDATE_COLUMNS and row[key] is not None}
        for side, row in (("chosen", chosen), ("rejected", rejected))
    }
    return {
        "chosen": chosen["candidate"],
        "rejected": rejected["candidate"],
        "strategy": name,
        "margin": gap,
        "reason": f"{strategy.score} {chosen[strategy.score]:.4g} against {rejected[strategy.score]:.4g}",
        "aspects": json.dumps(aspects, sort_keys=True),
    }


def _higher(score: str, strategy: StrategySettings, directions: Mapping[str, bool]) -> bool:
    if score == strategy.score and strategy.higher_is_better is not None:
        return strategy.higher_is_better
    return directions[score]
