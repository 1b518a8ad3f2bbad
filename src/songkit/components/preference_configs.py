"""Configs of the preference objectives and of the task that trains with them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "DPOConfig",
    "IPOConfig",
    "KTOConfig",
    "ORPOConfig",
    "ObjectiveConfig",
    "RobustDPOConfig",
    "SimPOConfig",
    "TrainPreferenceConfig",
]


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What all preference objectives of the core have in common."""

    beta: float = 0.1
    """How much a nat of log-probability counts; the smaller, the further the policy may go."""
    log_probabilities: Literal["sum", "mean"] = "sum"
    """Of a song's tokens: their sum, or their mean, with which long songs weigh as much as short ones."""
    stream_weights: dict[str, float] = field(default_factory=dict)
    """How much the tokens of a stream count, by stream (`mix.0`, `cursor`) or track (`vocal`); 1 where it is not
    named."""
    nll_weight: float = 0.0
    """Weight of the negative log-likelihood of the preferred song, in nats per token (RPO's alpha)."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [] if self.beta > 0 else [f"beta is {self.beta:g}; expected more than 0"]
        problems += [
            f"stream_weights: {name} is {weight:g}; expected 0 or more"
            for name, weight in self.stream_weights.items()
            if not weight >= 0
        ]
        return problems if self.nll_weight >= 0 else [*problems, f"nll_weight is {self.nll_weight:g}; expected >= 0"]


@dataclass(kw_only=True)
class DPOConfig(ObjectiveConfig):
    """Direct preference optimisation (arXiv 2305.18290); conservative where labels are smoothed."""

    label_smoothing: float = 0.0
    """Share of pairs that are taken to be the wrong way round, from 0 to below 0.5; above 0 this is cDPO."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return [*super().validate(), *_smoothing(self.label_smoothing)]


@dataclass(kw_only=True)
class RobustDPOConfig(ObjectiveConfig):
    """DPO whose loss is unbiased under a known share of wrong labels (arXiv 2403.00409)."""

    label_smoothing: float = 0.1
    """Share of pairs that are the wrong way round, from 0 to below 0.5."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return [*super().validate(), *_smoothing(self.label_smoothing)]


@dataclass(kw_only=True)
class IPOConfig(ObjectiveConfig):
    """Identity preference optimisation: a square loss around a margin of 1 / (2 beta) (arXiv 2310.12036)."""

    log_probabilities: Literal["sum", "mean"] = "mean"
    """Of a song's tokens; the authors' results are those of the mean."""


@dataclass(kw_only=True)
class SimPOConfig(ObjectiveConfig):
    """Simple preference optimisation: mean log-probabilities with a target margin, no reference (arXiv 2405.14734)."""

    beta: float = 2.0
    """How much a nat per token counts; the paper's values are 2 to 10."""
    log_probabilities: Literal["sum", "mean"] = "mean"
    """Of a song's tokens; the paper's is the mean."""
    gamma: float = 1.0
    """The target margin, in units of the reward (beta times nats per token)."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = super().validate()
        return problems if self.gamma >= 0 else [*problems, f"gamma is {self.gamma:g}; expected 0 or more"]


@dataclass(kw_only=True)
class ORPOConfig(ObjectiveConfig):
    """Odds ratio preference optimisation: likelihood and odds ratio, no reference (arXiv 2403.07691)."""

    log_probabilities: Literal["sum", "mean"] = "mean"
    """Of a song's tokens; the paper's is the mean."""
    nll_weight: float = 1.0
    """Weight of the negative log-likelihood of the preferred song, in nats per token; it is part of ORPO."""


@dataclass(kw_only=True)
class KTOConfig(ObjectiveConfig):
    """Kahneman-Tversky optimisation: each song is judged against a reference point of its own (arXiv 2402.01306)."""

    desirable_weight: float = 1.0
    """Weight of the preferred songs."""
    undesirable_weight: float = 1.0
    """Weight of the rejected songs."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        return super().validate() + [
            f"{name} is {getattr(self, name):g}; expected more than 0"
            for name in ("desirable_weight", "undesirable_weight")
            if not getattr(self, name) > 0
        ]


@dataclass(kw_only=True)
class TrainPreferenceConfig:
    """Trains a planner, or planner and refiner together, on mined pairs by the recipe's objective."""

    max_seconds: float = 0.0
    """Longer songs are cut here, in seconds; 0 takes them whole."""
    train_conditioner: bool = True
    """Whether the conditioner is trained too; a refiner that is not then reads what it was not trained on."""
    cache: str | None = field(default=None, metadata={"path": True, "made": True})
    """Folder of the reference's log-probabilities; null is `reference` in the mined folder."""
    recompute: bool = False
    """Whether to compute them even though they are there."""
    share_prefix: float | None = 0.5
    """Positions of the prefix for each frame of a song from which on the planner runs it once for both songs of a pair;
    0 is always, null never. The numbers are the same but for rounding."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = [] if self.max_seconds >= 0 else [f"max_seconds is {self.max_seconds:g}; expected 0 or more"]
        if self.share_prefix is not None and not self.share_prefix >= 0:
            problems.append(f"share_prefix is {self.share_prefix:g}; expected 0 or more, or null for never")
        return problems


def _smoothing(value: float) -> list[str]:
    return [] if 0 <= value < 0.5 else [f"label_smoothing is {value:g}; expected from 0 to below 0.5"]
