"""The laws of preference objectives: which way their gradients point, and what they may look at."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from songkit.interfaces.objective import PairLogProbabilities, PreferenceLoss, Preferences
from songkit.testing.checks import law, require
from songkit.testing.preferences import loss_of, preferences, rows
from songkit.testing.subject import Subject

__all__: list[str] = []


@law("shapes", "objective")
def shapes(subject: Subject) -> None:
    """It gives a loss and both rewards for each pair, [B], and scalar statistics; only the loss has gradients."""
    for pairs in (1, 3):
        found = loss_of(subject.build(), preferences(pairs, ahead=0.1))
        for name in ("losses", "chosen_rewards", "rejected_rewards"):
            value: Tensor = getattr(found, name)
            require(value.shape == (pairs,), f"{name} of {pairs} pairs have the shape {list(value.shape)}")
            require(value.is_floating_point(), f"{name} are {value.dtype}")
        require(found.losses.requires_grad, "the losses have no gradient towards the policy's log-probabilities")
        for name, value in _logged(found).items():
            require(not value.requires_grad, f"{name} holds on to the gradient's graph: detach it")
        for name, value in found.statistics.items():
            require(value.numel() == 1, f"the statistic {name} has the shape {list(value.shape)}; expected a scalar")


@law("gradient-signs", "objective")
def gradient_signs(subject: Subject) -> None:
    """Until the right song is preferred, raising its log-probability never costs, nor does lowering the other's.

    Farther on an objective may hold the margin at a target, as IPO and label smoothing do.
    """
    objective = subject.build()
    for ahead in (0.0, -0.05, -0.5):
        given = _alike(preferences(4, ahead=ahead))
        chosen, rejected = _gradients(loss_of(objective, given), given)
        where = f"with the policy {-ahead:g} nats a token behind the reference"
        require(float(chosen.max()) <= 0, f"raising the preferred song's log-probability raises the loss {where}")
        require(float(rejected.min()) >= 0, f"raising the rejected song's log-probability lowers the loss {where}")
        if not ahead:
            require(float(chosen.min()) < 0, "no preferred song's log-probability lowers the loss")
            require(float(rejected.max()) > 0, "no rejected song's log-probability raises the loss")


@law("rewards", "objective")
def rewards(subject: Subject) -> None:
    """A song's reward rises with its log-probability, and a policy that moved the right way has the better margins."""
    objective = subject.build()
    margins = []
    for ahead in (-0.2, 0.2):
        found = loss_of(objective, _alike(preferences(4, ahead=ahead)))
        margins.append(found.chosen_rewards - found.rejected_rewards)
    better = bool((margins[1] > margins[0]).all())
    require(better, f"margins {margins[1].tolist()} of a policy that moved towards the preferred songs are not above "
            f"{margins[0].tolist()} of one that moved away")  # fmt: skip


@law("order", "objective")
def order(subject: Subject) -> None:
    """Pairs in another order have the same losses and rewards in that order, and the same statistics."""
    objective, given, turned = subject.build(), preferences(4, ahead=0.02), [2, 0, 3, 1]
    one, other = loss_of(objective, given), loss_of(objective, rows(given, turned))
    for name in ("losses", "chosen_rewards", "rejected_rewards"):
        same = torch.allclose(getattr(one, name)[turned], getattr(other, name), rtol=1e-9, atol=1e-12)
        require(same, f"{name} are others when the pairs come in another order")
    for name, value in one.statistics.items():
        same = torch.allclose(value.double(), other.statistics[name].double(), rtol=1e-9, atol=1e-12)
        require(same, f"the statistic {name} is another one when the pairs come in another order")


@law("finite", "objective")
def finite(subject: Subject) -> None:
    """Losses and gradients are finite for songs that are certain, songs that are all but impossible, and far moves."""
    objective = subject.build()
    for name, given in (
        ("both songs are certain", preferences(3, scale=0.0)),
        ("both songs are all but impossible", preferences(3, scale=30.0)),
        ("the policy moved far the right way", preferences(3, ahead=40.0, scale=15.0)),
        ("the policy moved far the wrong way", preferences(3, ahead=-40.0, scale=15.0)),
    ):
        given = _float32(given)
        found = loss_of(objective, given)
        values = {"losses": found.losses, "gradients": torch.cat(_gradients(found, given)), **_logged(found)}
        for what, value in values.items():
            broken = value[~torch.isfinite(value)].tolist()
            require(not broken, f"{what} hold {broken[:1]} where {name}")


@law("reference", "objective")
def reference(subject: Subject) -> None:
    """A reference-free objective gives the same whatever the reference; any other one's losses depend on it."""
    objective, given = subject.build(), preferences(4, ahead=0.02)
    assert given.reference is not None
    moved = PairLogProbabilities(chosen=given.reference.chosen * 1.1, rejected=given.reference.rejected * 0.9)
    one, other = (objective(item).losses for item in (given, dataclasses.replace(given, reference=moved)))
    if not objective.reference_free:
        require(not torch.allclose(one, other), "the losses are the same under another reference: say reference_free")
        return
    require(torch.equal(one, other), "it is reference_free, and its losses are others under another reference")
    require(torch.equal(one, loss_of(objective, given).losses), "its losses are others without a reference")


@law("inputs-kept", "objective")
def inputs_kept(subject: Subject) -> None:
    """The log-probabilities are left as they were: they are logged afterwards."""
    given = preferences(3, ahead=0.02)
    before = rows(given, [0, 1, 2])
    loss_of(subject.build(), given)
    for side in ("chosen", "rejected"):
        kept = torch.equal(getattr(given.policy, side), getattr(before.policy, side))
        kept = kept and torch.equal(getattr(given, f"{side}_tokens"), getattr(before, f"{side}_tokens"))
        kept = kept and torch.equal(getattr(given.reference, side), getattr(before.reference, side))
        require(kept, f"what it was given of the {side} songs was changed in place")


def _alike(given: Preferences) -> Preferences:
    """Returns pairs whose songs the reference finds equally likely: only what the policy moved tells them apart."""
    assert given.reference is not None
    same = given.reference.chosen
    rejected = given.policy.rejected.detach() - given.reference.rejected + same
    policy = PairLogProbabilities(chosen=given.policy.chosen, rejected=rejected.clamp(max=0).requires_grad_())
    return dataclasses.replace(given, policy=policy, reference=PairLogProbabilities(chosen=same, rejected=same))


def _float32(given: Preferences) -> Preferences:
    """Returns pairs in the precision that a training has."""

    def of(pair: PairLogProbabilities) -> PairLogProbabilities:
        chosen, rejected = (x.detach().float().requires_grad_(x.requires_grad) for x in (pair.chosen, pair.rejected))
        return PairLogProbabilities(chosen=chosen, rejected=rejected)

    assert given.reference is not None
    return dataclasses.replace(given, policy=of(given.policy), reference=of(given.reference))


def _gradients(found: PreferenceLoss, given: Preferences) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the mean loss towards the policy's log-probabilities, [B, K] each."""
    wanted = (given.policy.chosen, given.policy.rejected)
    made = torch.autograd.grad(found.losses.mean(), wanted, allow_unused=True, materialize_grads=True)
    return made[0], made[1]


def _logged(found: PreferenceLoss) -> dict[str, Tensor]:
    return {"chosen_rewards": found.chosen_rewards, "rejected_rewards": found.rejected_rewards, **found.statistics}
