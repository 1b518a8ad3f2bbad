"""The sections of a recipe that say which preferences are mined. No component reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

__all__ = ["MineSettings", "StrategySettings"]


@dataclass(kw_only=True)
class StrategySettings:
    """Which two songs of a request make a pair: in which score they differ, and by how much.

    Everything is counted in the direction of the score: a gap is how much better the chosen song is.
    """

    score: str
    """What they are ranked by: `METRIC.VALUE`, or `reward.ASPECT`."""
    higher_is_better: bool | None = None
    """Direction of the score; null is that of its judge."""
    min_gap: float = 0.0
    """Least gap, in the unit of the score."""
    min_relative_gap: float = 0.0
    """Least gap as a share of the rejected song's score: 0.25 of an error rate of 0.40 is 0.10."""
    chosen_limit: float | None = None
    """What a chosen song must reach: at least this, or at most this where lower is better."""
    rejected_limit: float | None = None
    """What a rejected song must not pass: at most this, or at least this where lower is better."""
    not_worse: dict[str, float] = field(default_factory=dict)
    """Other scores, and by how much the chosen song may be worse in each; 0 makes a pair strict in it."""
    pairs_per_request: int = 1
    """At most so many pairs of a request, the widest gaps first; no song is in two of them."""
    keep: float = 1.0
    """Share of the pairs of all requests that is kept, the widest gaps first."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [
            f"{name} is {getattr(self, name)}; expected 0 or more"
            for name in ("min_gap", "min_relative_gap")
            if not 0 <= getattr(self, name) < float("inf")
        ]
        problems += [
            f"{name} is {value}; expected a number, or null for none"
            for name in ("chosen_limit", "rejected_limit")
            if (value := getattr(self, name)) is not None and not isfinite(value)
        ]
        problems += [
            f"{name} is '{score}'; expected METRIC.VALUE or reward.ASPECT, such as phoneme-errors.per"
            for name, scores in (("score", [self.score]), ("not_worse", self.not_worse))
            for score in scores
            if not all(score.partition("."))
        ]
        problems += [
            f"not_worse allows {score} to be worse by {most}; expected 0 or more"
            for score, most in self.not_worse.items()
            if not most >= 0
        ]
        if self.pairs_per_request < 1:
            problems.append(f"pairs_per_request is {self.pairs_per_request}; expected at least 1")
        if not 0 < self.keep <= 1:
            problems.append(f"keep is {self.keep}; expected a share above 0, and at most 1")
        return problems


@dataclass(kw_only=True)
class MineSettings:
    """What `songkit mine` sings, and which pairs it makes of it. The judges are `metrics` and `reward`."""

    requests: str | None = field(default=None, metadata={"path": True})
    """File of requests; null makes them of the songs of `data`."""
    start: int = 0
    """Requests that are passed over."""
    limit: int | None = None
    """Requests at most; null is all."""
    max_sections: int | None = None
    """Sections of a request at most, for shorter songs: later ones are left out, but not the first with words."""
    candidates: int = 4
    """Songs that are sung for each request."""
    batch: int = 8
    """Songs that are sung together."""
    workers: int = 1
    """Processes that sing and judge."""
    strategies: dict[str, StrategySettings] = field(default_factory=dict)
    """By name: which pairs to make."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [
            f"{name} is {value}; expected at least {least}"
            for name, least in (("start", 0), ("limit", 1), ("max_sections", 1), ("batch", 1), ("workers", 1))
            if (value := getattr(self, name)) is not None and value < least
        ]
        if self.candidates < 2:
            problems.append(f"candidates is {self.candidates}; expected at least 2, of which one can be the better")
        for name, strategy in self.strategies.items():
            problems += [f"strategies.{name}: {problem}" for problem in strategy.validate()]
        return problems
