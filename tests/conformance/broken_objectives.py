"""Objectives with one fault each; see `broken`."""

from __future__ import annotations

import dataclasses

import torch
from conformance.broken import broken

from songkit.components.preference import DPO, SimPO
from songkit.components.preference_configs import SimPOConfig
from songkit.interfaces import PairLogProbabilities


class _Changed(DPO):
    """Changes what comes out."""

    def __call__(self, given):
        found = super().__call__(given)
        return dataclasses.replace(found, **self.change(found))


@broken("interface", "objective", "everything")
class SaysNothingOfReferences:
    def __init__(self, config):
        pass

    def __call__(self, given):
        return given


@broken("shapes", "objective", "order")
class AveragesItself(_Changed):
    def change(self, found):
        return {"losses": found.losses.mean()}


@broken("shapes", "objective")
class RewardsWithGradients(_Changed):
    def change(self, found):
        return {"chosen_rewards": found.losses, "rejected_rewards": found.losses * 2}


@broken("gradient-signs", "objective")
class PrefersTheWorse(DPO):
    def losses(self, chosen, rejected):
        losses, statistics = super().losses(rejected, chosen)
        return losses, statistics


@broken("gradient-signs", "objective")
class NeverLearnsToAvoid(DPO):
    def losses(self, chosen, rejected):
        return super().losses(chosen, rejected.detach())


@broken("gradient-signs", "objective")
class RewardsBoth(DPO):
    """Pushes up whatever was sung."""

    def losses(self, chosen, rejected):
        losses, statistics = super().losses(chosen, rejected)
        return losses - 2 * self.beta * rejected, statistics


@broken("rewards", "objective")
class RewardsTheWrongSong(_Changed):
    def change(self, found):
        return {"chosen_rewards": found.rejected_rewards, "rejected_rewards": found.chosen_rewards}


@broken("order", "objective")
class CountsItsBatch(DPO):
    def losses(self, chosen, rejected):
        losses, statistics = super().losses(chosen, rejected)
        return losses * torch.arange(1, len(losses) + 1), statistics


@broken("order", "objective")
class LogsTheFirstPair(_Changed):
    def change(self, found):
        return {"statistics": {"margin": found.chosen_rewards[0]}}


@broken("finite", "objective")
class LogOfSigmoid(DPO):
    def losses(self, chosen, rejected):
        return -torch.log(torch.sigmoid(self.beta * (chosen - rejected))), {}


@broken("reference", "objective")
class NeedsNoneAndUsesIt(SimPO):
    def __init__(self, config):
        super().__init__(SimPOConfig())

    def __call__(self, given):
        found = super().__call__(given)
        return found if given.reference is None else dataclasses.replace(found, losses=found.losses * 2)


@broken("reference", "objective")
class ForgetsTheReference(DPO):
    def __call__(self, given):
        zero = torch.zeros_like(given.policy.chosen)
        same = dataclasses.replace(given, reference=PairLogProbabilities(chosen=zero, rejected=zero))
        return super().__call__(same)


@broken("inputs-kept", "objective", "order")
class ScalesInPlace(DPO):
    def __call__(self, given):
        given.reference.chosen.mul_(0.999)
        return super().__call__(given)
