"""A prefix that both songs of a pair share is run once where it is long enough, and the numbers are the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from songkit.components.configs import TransformerConfig
from songkit.components.preference import DPO
from songkit.components.preference_configs import DPOConfig, TrainPreferenceConfig
from songkit.components.transformer import Transformer
from songkit.patterns import parallel
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.stream_planner import StreamPlanner
from songkit.tasks.preference import TrainPreference
from songkit.testing.preferences import TokenisedPairs
from songkit.testing.standins import ModelConfig, SongsConfig, TinyCodec, TinyConditioner

MODEL = ModelConfig()
TOWER = TransformerConfig(dim=16, layers=2, heads=2, feed_forward=32)


@given(prefix=st.integers(1, 30), steps=st.integers(1, 30), rows=st.integers(1, 3), repeats=st.integers(1, 3))
@example(prefix=170, steps=330, rows=1, repeats=2)  # longer than the blocks of queries that attend together
@settings(max_examples=25, deadline=None)
def test_a_shared_prefix_gives_the_same_states_and_gradients(prefix, steps, rows, repeats):
    torch.manual_seed(0)
    tower = Transformer(TOWER).double()
    generator = torch.Generator().manual_seed(prefix + steps)
    draw = lambda *shape: torch.randn(*shape, 16, generator=generator, dtype=torch.float64)  # noqa: E731
    begin, songs = draw(rows, prefix).requires_grad_(), draw(rows * repeats, steps).requires_grad_()
    x = torch.cat([begin.repeat(repeats, 1, 1), songs], 1)
    padded = torch.randint(prefix, (rows,), generator=generator)
    mask = (torch.arange(prefix + steps) >= padded[:, None]).repeat(repeats, 1)
    wanted = draw(rows * repeats, prefix + steps) * mask[:, :, None]

    found = []
    for states in (tower(x, mask), tower.forward_repeated(x, mask, prefix=prefix, repeats=repeats)):
        leaves = [begin, songs, *tower.parameters()]
        found.append([states * mask[:, :, None], *torch.autograd.grad((states * wanted).sum(), leaves)])
    for apart, shared in zip(*found, strict=True):
        torch.testing.assert_close(shared, apart, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def pairs() -> TokenisedPairs:
    torch.manual_seed(0)
    return TokenisedPairs(SongsConfig(songs=5), TinyCodec(MODEL))


def task(data: TokenisedPairs, **options) -> TrainPreference:
    torch.manual_seed(0)
    planner = StreamPlanner(MODEL.layout.select(["mix"]), parallel(1), Transformer(TOWER), cursor_steps=3)
    made = TrainPreference(
        TrainPreferenceConfig(**options),
        planner=planner,
        conditioner=TinyConditioner(MODEL),
        objective=DPO(DPOConfig()),
        data=data,
        settings=TrainerSettings(max_steps=10, batch_size=3, accelerator="cpu"),
        optimizer=OptimizerSettings(),
        seed=0,
    )
    return made.double().train()


def test_pairs_have_the_same_log_probabilities_and_gradients_where_they_share_a_prefix(pairs):
    found = []
    for share in (None, 0.0):
        made = task(pairs, share_prefix=share)
        scores = made._scores(made.batch(0))
        chosen, rejected = scores.sums.chunk(2)
        (chosen - rejected).sum().backward()
        gradients = [parameter.grad for parameter in made.trainable() if parameter.grad is not None]
        found.append((scores.log_probabilities.detach(), gradients))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-6)
    assert len(found[0][1]) == len(found[1][1]) > 10
    for apart, shared in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(shared, apart, rtol=1e-5, atol=1e-5)


def test_a_prefix_is_run_once_from_the_given_share_of_a_song_on(pairs):
    batch = task(pairs).batch(0)
    prefix = task(pairs).conditioner(batch.requests, side="planner").prefix.shape[1]
    songs, _, frames = batch.codes.ids.shape
    once, twice = (songs // 2, prefix + 2 * (frames + 1)), (songs, prefix + frames + 1)
    share = prefix / frames
    for least, expected in ((0.0, once), (0.99 * share, once), (1.01 * share, twice), (None, twice)):
        made, ran = task(pairs, share_prefix=least), []
        made.planner.tower.layers[0].register_forward_pre_hook(lambda _, given, ran=ran: ran.append(given[0].shape[:2]))
        made._scores(batch)
        assert ran == [expected]


def test_a_planner_that_knows_no_shared_prefixes_is_given_whole_ones(pairs):
    made = task(pairs, share_prefix=0.0)
    batch = made.batch(0)
    given_to = made._conditions(batch, "planner")
    assert given_to.repeats == 2
    assert len(given_to.prefix) == len(given_to.mask) == len(batch.codes.ids)
    assert torch.equal(*given_to.prefix.chunk(2))


def test_a_negative_share_is_refused():
    assert TrainPreferenceConfig(share_prefix=-0.5).validate() == [
        "share_prefix is -0.5; expected 0 or more, or null for never"
    ]
