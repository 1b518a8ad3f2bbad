"""Log-probabilities of preferred and rejected songs to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["PairLogProbabilities", "PreferenceLoss", "PreferenceObjective", "Preferences"]


@dataclass(frozen=True, kw_only=True)
class PairLogProbabilities:
    """What one policy says of both songs of B pairs: sums over the tokens of each stream."""

    chosen: Tensor
    """[B, K], in nats; 0 or less."""
    rejected: Tensor
    """[B, K], in nats; 0 or less."""


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """B pairs of songs, of which the first is preferred, as both policies see them.

    A stream is one sequence of decisions of the policy: the ids of one level of a track (`mix.0`), or the moves of a
    planner along the lyrics (`cursor`).
    """

    streams: tuple[str, ...]
    """Their names; K of them."""
    policy: PairLogProbabilities
    """Of the policy being trained, with gradients."""
    reference: PairLogProbabilities | None
    """Of the policy that the training must not leave too far behind; not needed by what is `reference_free`."""
    chosen_tokens: Tensor
    """int64 [B, K], how many tokens were summed; at least 1."""
    rejected_tokens: Tensor
    """int64 [B, K]."""
    aspects: Mapping[str, Tensor] = field(default_factory=dict)
    """What judges say of the chosen song less what they say of the rejected one, [B] by `judge.value`; NaN where one
    is silent."""


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss:
    """What an objective makes of B pairs."""

    losses: Tensor
    """[B], to be averaged and minimised; with gradients towards `Preferences.policy`."""
    chosen_rewards: Tensor
    """[B], how much the policy is taken to like the preferred song, without gradients; such as beta times its
    log-ratio."""
    rejected_rewards: Tensor
    """[B], the same for the rejected song."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars to log, by name, without gradients."""


@runtime_checkable
class PreferenceObjective(Protocol):
    """Turns the log-probabilities of pairs into losses."""

    reference_free: bool
    """Whether it needs no reference; it is given none then."""

    def __call__(self, given: Preferences) -> PreferenceLoss:
        """Returns the losses of B pairs.

        Raises:
            LayoutError: If it is told of streams that the pairs do not have, or needs a reference and is given none.
        """
        ...
