"""Preference objectives over the log-probabilities of several streams: DPO and its relatives.

All of them see a song as one number, its score: the weighted sum over streams of its tokens' log-probabilities, or
their weighted mean. What tells them apart is a formula of a few lines; on one stream each gives the value of TRL
(huggingface/trl 1.16), as tests/unit/test_preference.py checks. The page `explanation/preference` has the formulas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from songkit.components.preference_configs import (
    DPOConfig,
    KTOConfig,
    ObjectiveConfig,
    RobustDPOConfig,
    SimPOConfig,
)
from songkit.errors import LayoutError
from songkit.interfaces.objective import PairLogProbabilities, PreferenceLoss, Preferences

__all__ = ["DPO", "IPO", "KTO", "ORPO", "Objective", "RobustDPO", "SimPO"]


class Objective(ABC):
    """A preference objective: scores of both songs, then `losses` of them."""

    reference_free = False

    def __init__(self, config: ObjectiveConfig) -> None:
        self.beta, self.nll_weight = config.beta, config.nll_weight
        self._per_token, self._weights = config.log_probabilities == "mean", config.stream_weights

    @abstractmethod
    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns losses and statistics of the songs' scores.

        Args:
            chosen: [B], scores of the preferred songs, less those under the reference unless `reference_free`.
            rejected: [B], of the rejected songs.

        Returns:
            Losses [B], and scalars to log.
        """

    def __call__(self, given: Preferences) -> PreferenceLoss:
        """Returns the losses of pairs; see `PreferenceObjective`."""
        weights = self._stream_weights(given)
        chosen, rejected = self._scores(given.policy, given, weights)
        if not self.reference_free:
            if given.reference is None:
                raise LayoutError(f"{type(self).__name__} compares with a reference policy and was given none")
            then_chosen, then_rejected = self._scores(given.reference, given, weights)
            chosen, rejected = chosen - then_chosen, rejected - then_rejected
        losses, statistics = self.losses(chosen, rejected)
        if self.nll_weight:
            nats = -_mean(given.policy.chosen, given.chosen_tokens, weights)
            losses = losses + self.nll_weight * nats
            statistics["nll"] = nats.detach().mean()
        rewards = (self.beta * chosen.detach(), self.beta * rejected.detach())
        return PreferenceLoss(
            losses=losses, chosen_rewards=rewards[0], rejected_rewards=rewards[1], statistics=statistics
        )

    def _scores(self, of: PairLogProbabilities, given: Preferences, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores [B] of the preferred and of the rejected songs under one policy."""
        if self._per_token:
            chosen, rejected = given.chosen_tokens, given.rejected_tokens
            return _mean(of.chosen, chosen, weights), _mean(of.rejected, rejected, weights)
        return (weights * of.chosen).sum(1), (weights * of.rejected).sum(1)

    def _stream_weights(self, given: Preferences) -> Tensor:
        """Returns the weight [K] of each stream."""
        tracks = {name.partition(".")[0] for name in given.streams}
        unknown = [name for name in self._weights if name not in given.streams and name not in tracks]
        if unknown:
            raise LayoutError(
                f"stream_weights names {', '.join(unknown)}; the pairs have the streams {', '.join(given.streams)}"
            )
        weights = [self._weights.get(name, self._weights.get(name.partition(".")[0], 1.0)) for name in given.streams]
        if not any(weights):
            raise LayoutError(f"stream_weights is 0 for all of {', '.join(given.streams)}: nothing would be learnt")
        return torch.tensor(weights, dtype=given.policy.chosen.dtype, device=given.policy.chosen.device)


class DPO(Objective):
    """-log sigmoid(beta margin); with label smoothing e it is cDPO, the expected loss where a share e is swapped."""

    def __init__(self, config: DPOConfig) -> None:
        super().__init__(config)
        self.label_smoothing = config.label_smoothing

    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """DPO, eq. 7 of arXiv 2305.18290; cDPO is E. Mitchell's note (ericmitchell.ai/cdpo.pdf)."""
        return _swapped(self.beta * (chosen - rejected), self.label_smoothing), {}


class RobustDPO(Objective):
    """DPO that is unbiased where a share of the pairs is the wrong way round."""

    def __init__(self, config: RobustDPOConfig) -> None:
        super().__init__(config)
        self.label_smoothing = config.label_smoothing

    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Robust DPO (arXiv 2403.00409)."""
        margin, share = self.beta * (chosen - rejected), self.label_smoothing
        return (share * logsigmoid(-margin) - (1 - share) * logsigmoid(margin)) / (1 - 2 * share), {}


class IPO(Objective):
    """The square of how far the margin is from 1 / (2 beta)."""

    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """IPO, eq. 17 of arXiv 2310.12036, whose tau is `beta`."""
        return (chosen - rejected - 1 / (2 * self.beta)).square(), {}


class SimPO(Objective):
    """-log sigmoid(beta margin - gamma), of mean log-probabilities without a reference."""

    reference_free = True

    def __init__(self, config: SimPOConfig) -> None:
        super().__init__(config)
        self.gamma = config.gamma

    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """SimPO (arXiv 2405.14734)."""
        return -logsigmoid(self.beta * (chosen - rejected) - self.gamma), {}


class ORPO(Objective):
    """-beta log sigmoid(log odds ratio); the likelihood of the preferred song is added by `nll_weight`."""

    reference_free = True

    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """ORPO, eqs. 4 and 7 of arXiv 2403.07691."""
        log_odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
        return -self.beta * logsigmoid(log_odds), {"log_odds": log_odds.detach().mean()}


class KTO(Objective):
    """Each song by itself: how far it is above, or below, a reference point that is the batch's mean log-ratio.

    KTO estimates the point on songs of other requests. Here it is estimated on the songs of the batch, because a
    planner that follows the lyrics gives no probability to a song of other lyrics.
    """

    def __init__(self, config: KTOConfig) -> None:
        super().__init__(config)
        self.desirable, self.undesirable = config.desirable_weight, config.undesirable_weight

    def losses(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """KTO, eq. 7 of arXiv 2402.01306; the mean over both songs of a pair."""
        point = torch.cat([chosen, rejected]).detach().mean().clamp(min=0)
        gain = torch.sigmoid(self.beta * (chosen - point))
        loss = torch.sigmoid(self.beta * (point - rejected))
        return (self.desirable * (1 - gain) + self.undesirable * (1 - loss)) / 2, {"reference_point": point}


def _swapped(margin: Tensor, share: float) -> Tensor:
    """Logistic losses [B] of margins [B], a share of which are taken to be the other way round."""
    return -(1 - share) * logsigmoid(margin) - share * logsigmoid(-margin)


def _mean(sums: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean [B] over the tokens of all streams, of sums [B, K] over the tokens of each."""
    return (weights * sums).sum(1) / (weights * tokens).sum(1).clamp(min=1e-9)


def _log_of_rest(log_probability: Tensor) -> Tensor:
    """log(1 - p) of log p, without cancellation; a p that is 1 within float32 is taken to be just below."""
    x = log_probability.clamp(max=-1e-6)
    return torch.where(x < -0.6931471805599453, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))
