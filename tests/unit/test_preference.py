"""The preference objectives: TRL's values, and what follows from their formulas."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import sys
import warnings
from collections import defaultdict
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit.components.preference import DPO, IPO, KTO, ORPO, RobustDPO, SimPO
from songkit.components.preference_configs import (
    DPOConfig,
    IPOConfig,
    KTOConfig,
    ORPOConfig,
    RobustDPOConfig,
    SimPOConfig,
)
from songkit.errors import LayoutError
from songkit.interfaces import PairLogProbabilities, Preferences
from songkit.testing.preferences import loss_of, preferences

LENGTHS = torch.tensor([7, 5, 9, 6])
"""Tokens of the preferred and, turned round, of the rejected song of each pair."""


one_or_two = pytest.mark.parametrize("streams", [("mix.0",), ("mix.0", "vocal.0")], ids=["one-stream", "two-streams"])
"""TRL knows one stream. A song whose tokens are dealt to two is the same song."""


class Logs:
    """B pairs as TRL and as songkit see them: log-probabilities of single tokens, and their sums."""

    def __init__(self, seed: int, streams: tuple[str, ...], *, same_length: bool = False) -> None:
        self.streams = streams
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.cat([LENGTHS, LENGTHS.flip(0)])
        self.lengths = torch.full_like(lengths, 8) if same_length else lengths
        self.mask = torch.arange(10) < self.lengths[:, None]
        self.policy, self.reference = (
            -3 * torch.rand(8, 10, generator=generator, dtype=torch.float64) * self.mask for _ in range(2)
        )

    @property
    def sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy.sum(1), self.reference.sum(1)

    def given(self) -> Preferences:
        """The pairs for songkit: tokens are dealt to the streams in turn."""
        turn = torch.arange(10) % len(self.streams) == torch.arange(len(self.streams))[:, None]
        dealt = self.mask[:, None] & turn  # [2 B, K, 10]
        sums = [(logs[:, None] * dealt).sum(2) for logs in (self.policy, self.reference)]
        policy, reference = (PairLogProbabilities(chosen=each[:4], rejected=each[4:]) for each in sums)
        tokens = dealt.sum(2)
        return Preferences(
            streams=self.streams,
            policy=policy,
            reference=reference,
            chosen_tokens=tokens[:4],
            rejected_tokens=tokens[4:],
        )

    def inputs(self, songs: list[int]) -> dict[str, torch.Tensor]:
        """What TRL's trainers are given: a prompt of one token, which is not counted, stands before each song."""
        mask = torch.nn.functional.pad(self.mask[songs].long(), (1, 0))
        return {"input_ids": mask, "attention_mask": mask, "completion_mask": mask}

    def outputs(self, songs: list[int]) -> SimpleNamespace:
        """What TRL's trainers ask of a model."""
        none = torch.zeros(len(songs), 10)
        return SimpleNamespace(log_probs=self.policy[songs], entropy=none, mean_logits=none, is_top1=none.bool())


def trainer(**options) -> SimpleNamespace:
    """What TRL's losses read of their trainer; nothing of it decides a value but the options."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **options,
    )


@functools.cache
def trl(module: str):
    """A module of TRL. The extra `dev` installs it, and without it these tests fail: nothing else shows the values."""
    # transformers imports the torchaudio that it finds, and the one on PyPI does not load beside a PyTorch for CPUs.
    empty = ModuleType("torchaudio")
    empty.__spec__ = ModuleSpec("torchaudio", None)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # that part of TRL is experimental
        patch.setitem(sys.modules, "torchaudio", empty)
        return importlib.import_module(f"trl.{module}")


def trl_dpo(logs: Logs, loss: str, *, beta: float, label_smoothing: float = 0.0, pairs=range(4)) -> float:
    """Calls the loss of TRL's DPOTrainer on the log-probabilities of some pairs."""
    ours = trainer(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[loss],
        loss_weights=[1.0],
        label_smoothing=label_smoothing,
        beta=beta,
        use_weighting=False,
    )
    both = [*pairs, *(pair + 4 for pair in pairs)]
    reference = logs.reference[both].sum(1).split(len(both) // 2)
    inputs = {**logs.inputs(both), "ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
    run = trl("trainer.dpo_trainer").DPOTrainer._compute_loss
    return float(run(ours, lambda **_: logs.outputs(both), inputs, return_outputs=False))


def value(objective, logs: Logs) -> float:
    return float(loss_of(objective, logs.given()).losses.mean())


@pytest.mark.parametrize("seed", range(3))
@one_or_two
def test_dpo_gives_what_trl_gives(seed, streams):
    logs = Logs(seed, streams)
    assert value(DPO(DPOConfig(beta=0.3)), logs) == pytest.approx(trl_dpo(logs, "sigmoid", beta=0.3), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@one_or_two
def test_dpo_of_means_gives_trls_length_normalised_loss(seed, streams):
    logs = Logs(seed, streams)
    ours = value(DPO(DPOConfig(beta=2.0, log_probabilities="mean")), logs)
    assert ours == pytest.approx(trl_dpo(logs, "sigmoid_norm", beta=2.0), rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3])
@one_or_two
def test_conservative_dpo_gives_what_trl_gives(share, streams):
    """TRL keeps label smoothing in its alignment by optimal transport, which on one pair is cDPO."""
    logs = Logs(1, streams)
    config = DPOConfig(beta=0.3, label_smoothing=share)
    ours = loss_of(DPO(config), logs.given()).losses.tolist()
    theirs = [trl_dpo(logs, "aot_unpaired", beta=0.3, label_smoothing=share, pairs=[i]) for i in range(4)]
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3])
@one_or_two
def test_robust_dpo_gives_what_trl_gives(share, streams):
    logs = Logs(2, streams)
    ours = value(RobustDPO(RobustDPOConfig(beta=0.3, label_smoothing=share)), logs)
    assert ours == pytest.approx(trl_dpo(logs, "robust", beta=0.3, label_smoothing=share), rel=1e-12)


@one_or_two
def test_ipo_gives_what_trl_gives(streams):
    logs = Logs(3, streams)
    assert value(IPO(IPOConfig(beta=0.3)), logs) == pytest.approx(trl_dpo(logs, "ipo", beta=0.3), rel=1e-12)


@one_or_two
def test_the_likelihood_of_the_preferred_song_is_trls_sft_loss(streams):
    """TRL takes the mean over the tokens of a batch, songkit over its songs: the same where songs are as long."""
    logs = Logs(4, streams, same_length=True)
    both = value(DPO(DPOConfig(beta=0.3, nll_weight=0.5)), logs)
    assert both == pytest.approx(trl_dpo(logs, "sigmoid", beta=0.3) + 0.5 * trl_dpo(logs, "sft", beta=0.3), rel=1e-12)


@one_or_two
def test_simpo_gives_what_trl_gives(streams):
    logs = Logs(5, streams)
    ours = loss_of(SimPO(SimPOConfig(beta=2.0, gamma=0.7)), logs.given())
    theirs = trl("experimental.cpo.cpo_trainer").CPOTrainer.cpo_loss(
        trainer(alpha=0.0, loss_type="simpo", simpo_gamma=0.7, beta=2.0, label_smoothing=0.0),
        *(logs.sums[0] / logs.lengths).split(4),
    )
    for mine, other in zip((ours.losses, ours.chosen_rewards, ours.rejected_rewards), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)


@one_or_two
def test_orpo_gives_what_trl_gives(streams):
    logs = Logs(6, streams)
    ours = loss_of(ORPO(ORPOConfig(beta=0.2)), logs.given())
    means = logs.sums[0] / logs.lengths
    ratio, chosen, rejected, _, log_odds = trl("experimental.orpo.orpo_trainer").ORPOTrainer.odds_ratio_loss(
        trainer(beta=0.2), *means.split(4)
    )
    # TRL computes in float32, and subtracts the ratio from the mean NLL.
    torch.testing.assert_close(ours.losses.float(), (-means[:4] - ratio).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.chosen_rewards.float(), chosen.float())
    torch.testing.assert_close(ours.rejected_rewards.float(), rejected.float())
    torch.testing.assert_close(ours.statistics["log_odds"].float(), log_odds)


@pytest.mark.parametrize("seed", range(3))
@one_or_two
def test_kto_gives_what_trl_gives_with_the_same_reference_point(seed, streams):
    logs = Logs(seed, streams)
    policy, reference = logs.sums
    # TRL's point is estimated on other songs: here on the batch's own, as songkit's is.
    ours = trainer(
        beta=0.3,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.5,
        undesirable_weight=0.7,
        _compute_kl_logps=lambda model, batch: policy,
    )
    songs = list(range(8))
    batch = {
        **logs.inputs(songs),
        "label": torch.arange(8) < 4,
        "ref_logps": reference,
        "ref_KL_logps": reference,
    }
    run = trl("trainer.kto_trainer").KTOTrainer._compute_loss
    theirs = float(run(ours, lambda **_: logs.outputs(songs), batch, return_outputs=False))
    config = KTOConfig(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    assert value(KTO(config), logs) == pytest.approx(theirs, rel=1e-12)
    assert float(loss_of(KTO(config), logs.given()).statistics["reference_point"]) == pytest.approx(
        ours._metrics["train"]["kl"][0], rel=1e-12
    )


# --- laws ------------------------------------------------------------------------------------------------------

numbers = st.floats(-50, 50)


def scores(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(numbers, numbers)
def test_smoothing_is_the_mean_over_swapped_labels(chosen, rejected):
    """cDPO is DPO with a share of the pairs swapped, and robust DPO undoes such swaps."""
    share = 0.2
    plain, smooth, robust = (
        DPO(DPOConfig()),
        DPO(DPOConfig(label_smoothing=share)),
        RobustDPO(RobustDPOConfig(label_smoothing=share)),
    )
    loss = lambda of, *pair: float(of.losses(*scores(*pair))[0])  # noqa: E731
    right, swapped = loss(plain, chosen, rejected), loss(plain, rejected, chosen)
    assert loss(smooth, chosen, rejected) == pytest.approx((1 - share) * right + share * swapped)
    noisy = (1 - share) * loss(robust, chosen, rejected) + share * loss(robust, rejected, chosen)
    assert noisy == pytest.approx(right, abs=1e-9)


@given(numbers, numbers)
def test_a_pair_and_its_mirror_image_differ_by_the_margin(chosen, rejected):
    """-log sigmoid(x) + log sigmoid(-x) = -x: what DPO says of a pair and of the same pair swapped."""
    dpo = DPO(DPOConfig(beta=0.3))
    one, other = dpo.losses(*scores(chosen, rejected))[0], dpo.losses(*scores(rejected, chosen))[0]
    assert float(one - other) == pytest.approx(-0.3 * (chosen - rejected), abs=1e-9)


@given(numbers, numbers, st.floats(-5, 5))
def test_what_both_songs_gain_alike_changes_no_loss_of_margins(chosen, rejected, shift):
    for objective in (DPO(DPOConfig()), IPO(IPOConfig()), SimPO(SimPOConfig())):
        before = float(objective.losses(*scores(chosen, rejected))[0])
        assert float(objective.losses(*scores(chosen + shift, rejected + shift))[0]) == pytest.approx(before, abs=1e-6)


@given(st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_a_policy_that_is_its_reference_has_no_margin(seed):
    pairs = dataclasses.replace(preferences(3, seed=seed), policy=(same := preferences(3, seed=seed)).reference)
    assert same.reference is not None
    for objective, expected in (
        (DPO(DPOConfig()), math.log(2)),
        (IPO(IPOConfig(beta=0.5)), 1.0),
        (KTO(KTOConfig()), 0.5),
    ):
        found = objective(pairs)
        torch.testing.assert_close(found.losses, torch.full_like(found.losses, expected))
        assert not found.chosen_rewards.any()


# --- streams ---------------------------------------------------------------------------------------------------


def test_a_stream_of_weight_0_does_not_count_and_a_track_stands_for_its_levels():
    pairs = preferences(3, ahead=0.02)
    only = dataclasses.replace(
        pairs,
        streams=pairs.streams[1:],
        policy=PairLogProbabilities(chosen=pairs.policy.chosen[:, 1:], rejected=pairs.policy.rejected[:, 1:]),
        reference=PairLogProbabilities(chosen=pairs.reference.chosen[:, 1:], rejected=pairs.reference.rejected[:, 1:]),
        chosen_tokens=pairs.chosen_tokens[:, 1:],
        rejected_tokens=pairs.rejected_tokens[:, 1:],
    )
    for name in ("mix", "mix.0"):
        for per in ("sum", "mean"):
            config = DPOConfig(stream_weights={name: 0.0}, log_probabilities=per, nll_weight=0.1)
            plain = DPO(DPOConfig(log_probabilities=per, nll_weight=0.1))
            torch.testing.assert_close(DPO(config)(pairs).losses, plain(only).losses)


def test_a_weight_scales_what_a_stream_adds():
    pairs = preferences(3, ahead=0.02)
    twice = DPO(DPOConfig(stream_weights={"vocal": 2.0}))(pairs)
    louder = dataclasses.replace(
        pairs,
        policy=PairLogProbabilities(
            chosen=pairs.policy.chosen * torch.tensor([1, 2, 1]),
            rejected=pairs.policy.rejected * torch.tensor([1, 2, 1]),
        ),
        reference=PairLogProbabilities(
            chosen=pairs.reference.chosen * torch.tensor([1, 2, 1]),
            rejected=pairs.reference.rejected * torch.tensor([1, 2, 1]),
        ),
    )
    torch.testing.assert_close(twice.losses, DPO(DPOConfig())(louder).losses)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"vocals": 1.0}, "names vocals; the pairs have the streams mix.0"),
        (dict.fromkeys(["mix", "vocal", "accompaniment"], 0.0), "nothing would be learnt"),
    ],
)
def test_weights_that_fit_no_stream_are_refused(weights, told):
    with pytest.raises(LayoutError, match=told):
        DPO(DPOConfig(stream_weights=weights))(preferences(2))


def test_a_missing_reference_is_told():
    with pytest.raises(LayoutError, match="KTO compares with a reference policy"):
        KTO(KTOConfig())(dataclasses.replace(preferences(2), reference=None))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (DPOConfig(beta=0.0), "beta is 0"),
        (DPOConfig(label_smoothing=0.5), "label_smoothing is 0.5"),
        (RobustDPOConfig(label_smoothing=-0.1), "label_smoothing is -0.1"),
        (SimPOConfig(gamma=-1.0), "gamma is -1"),
        (KTOConfig(undesirable_weight=0.0), "undesirable_weight is 0"),
        (ORPOConfig(stream_weights={"mix": -1.0}, nll_weight=-1.0), "mix is -1"),
    ],
)
def test_wrong_options_are_told(config, told):
    assert any(told in problem for problem in config.validate())
