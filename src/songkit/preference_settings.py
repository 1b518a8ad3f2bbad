"""The sections of a recipe that say how preferences are mined, trained on in rounds, and merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

__all__ = [
    "MergeSettings",
    "MergedModel",
    "MineSettings",
    "SemiOnlineSettings",
    "StrategySettings",
    "SweepSettings",
]


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
    chosen_ended: bool = False
    """Whether a chosen song must have ended by itself. One that was cut at `generate.max_seconds` has no end, so a pair
    that prefers it to one that ended makes ends less likely."""
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
    """By name: which pairs to make; without any, songs are sung and judged only."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [
            f"{name} is {value}; expected at least {least}"
            for name, least in (("start", 0), ("limit", 1), ("max_sections", 1), ("batch", 1), ("workers", 1))
            if (value := getattr(self, name)) is not None and value < least
        ]
        least, why = (2, ", the two songs of a pair") if self.strategies else (1, "")
        if self.candidates < least:
            problems.append(f"candidates is {self.candidates}; expected at least {least}{why}")
        for name, strategy in self.strategies.items():
            problems += [f"strategies.{name}: {problem}" for problem in strategy.validate()]
        return problems


@dataclass(kw_only=True)
class MergedModel:
    """One of the models that are merged."""

    run: str = field(metadata={"path": True})
    """Folder of a training, with `weights`."""
    coefficient: float | None = None
    """Its share; null takes an equal part of what the others leave of 1."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [] if self.run else ["run is empty: name the folder of a training"]
        if self.coefficient is not None and not isfinite(self.coefficient):
            problems.append(f"coefficient is {self.coefficient}; expected a number")
        return problems


@dataclass(kw_only=True)
class SweepSettings:
    """Points on the line between two of the models, each sung and judged as `mine` says."""

    between: tuple[str, str] = ("", "")
    """Names of the two models, which share what the others leave of 1; empty is no sweep."""
    points: int = 5
    """How many, both ends among them."""
    scores: tuple[str, str] = ("", "")
    """The two scores whose trade-off is drawn: `METRIC.VALUE`, or `reward.ASPECT`."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        if not any(self.between):
            return []
        problems = []
        if self.points < 2:
            problems.append(f"points is {self.points}; expected at least 2, the ends")
        if not all(all(score.partition(".")) for score in self.scores):
            problems.append(
                f"scores are {list(self.scores)}; expected two such as phoneme-errors.per, reward.musicality"
            )
        return problems


@dataclass(kw_only=True)
class MergeSettings:
    """What `songkit merge` interpolates."""

    models: dict[str, MergedModel] = field(default_factory=dict)
    """By name: the models; their coefficients add up to 1. One alone is stored again, in `weights_dtype`."""
    roles: tuple[str, ...] = ()
    """Which weights are merged, such as `planner`; all that the models have when empty."""
    weights_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Storage type of the merged weights."""
    sweep: SweepSettings = field(default_factory=SweepSettings)
    """Other points to judge."""

    def coefficients(self) -> dict[str, float]:
        """Returns the share of each model."""
        given = {name: model.coefficient for name, model in self.models.items() if model.coefficient is not None}
        left = (1 - sum(given.values())) / max(1, len(self.models) - len(given))
        return {name: given.get(name, left) for name in self.models}

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [f"models.{name}: {problem}" for name, model in self.models.items() for problem in model.validate()]
        total = sum(self.coefficients().values())
        if self.models and not problems and abs(total - 1) > 1e-6:
            problems.append(
                f"models: their coefficients add up to {total:g}; expected 1. To add a difference to a base, name the "
                "base as a model too: its share is what the others leave of 1"
            )
        unknown = [name for name in self.sweep.between if name and name not in self.models]
        if unknown:
            problems.append(
                f"sweep.between names {', '.join(unknown)}; the models are {', '.join(self.models) or 'none'}"
            )
        return problems + [f"sweep: {problem}" for problem in self.sweep.validate()]


@dataclass(kw_only=True)
class SemiOnlineSettings:
    """When `songkit semi-online` refreshes its policy, and when it stops."""

    rounds: int = 4
    """Trainings at most. Each takes the next `mine.limit` requests; one more mining judges the last policy."""
    steps: int = 100
    """Steps of a training; then the policy that sings is refreshed."""
    refiner: bool = False
    """Whether the refiner is trained too; LeVo 2 trains its Mixed Semantic LM alone."""
    score: str = ""
    """Score whose mean is to get better; empty is that of the first strategy."""
    least_gain: float = 0.0
    """By how much the mean has to get better than the best one before to count."""
    patience: int = 1
    """Rounds in a row that may bring no gain; after more of them it stops."""
    least_entropy: float = 0.8
    """Collapse: entropy of the leading stream's ids, as a share of the first round's, below which it stops."""
    length_range: tuple[float, float] = (0.6, 1.6)
    """Collapse: mean length of the songs, as a share of the first round's, outside which it stops."""
    most_repetition: float = 0.15
    """Collapse: rise over the first round of the share of frames that repeat, above which it stops."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [
            f"{name} is {getattr(self, name)}; expected at least {least}"
            for name, least in (("rounds", 1), ("steps", 1), ("patience", 0), ("least_gain", 0), ("most_repetition", 0))
            if not getattr(self, name) >= least
        ]
        if not 0 <= self.least_entropy < 1:
            problems.append(f"least_entropy is {self.least_entropy}; expected a share from 0 to below 1")
        if not 0 <= self.length_range[0] < 1 < self.length_range[1]:
            problems.append(f"length_range is {list(self.length_range)}; expected a share below 1 and one above")
        if self.score and not all(self.score.partition(".")):
            problems.append(f"score is '{self.score}'; expected METRIC.VALUE or reward.ASPECT")
        return problems
