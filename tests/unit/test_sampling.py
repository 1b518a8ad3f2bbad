"""Drawing ids from logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from songkit.interfaces import Sampling
from songkit.sampling import draw, draw_rows, guide, noise, penalise, penalise_rows


def test_temperature_zero_takes_the_most_likely() -> None:
    assert draw(torch.tensor([0.0, 2.0, 1.0]), Sampling(temperature=0), seed=1, stream=0, step=0) == 1


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    sampling = Sampling(temperature=1.0, top_k=0)
    counts = torch.bincount(
        torch.tensor([draw(logits, sampling, seed=1, stream=0, step=i) for i in range(4000)]), minlength=3
    )
    # Three standard deviations of 4000 draws are 0.024 at most.
    torch.testing.assert_close(counts / 4000, torch.tensor([0.5, 0.3, 0.2]), atol=0.024, rtol=0)


def test_top_k_never_draws_another_id() -> None:
    logits = torch.tensor([1.0, 0.9, 0.8, 0.7])
    drawn = {draw(logits, Sampling(temperature=5.0, top_k=2), seed=2, stream=0, step=i) for i in range(200)}
    assert drawn == {0, 1}


def test_noise_is_a_function_of_seed_stream_and_step() -> None:
    torch.testing.assert_close(noise(1, 2, 3, 8), noise(1, 2, 3, 8), atol=0, rtol=0)
    kinds = [noise(1, 2, 3, 8), noise(2, 2, 3, 8), noise(1, 3, 3, 8), noise(1, 2, 4, 8)]
    assert len({tuple(k.tolist()) for k in kinds}) == 4
    large = noise(7, 0, 0, 100_000)
    assert abs(float(large.mean()) - 0.5772) < 0.02  # the mean of a Gumbel variable is Euler's constant


def test_guidance_moves_away_from_the_null_branch() -> None:
    conditional, null = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert guide(conditional, null, 1.0).tolist() == [1.0, 0.0]
    assert guide(conditional, null, 1.5).tolist() == [1.5, -0.5]


def test_the_penalty_divides_once_and_leaves_the_rest() -> None:
    logits = torch.tensor([2.2, -2.2, 1.0])
    out = penalise(logits, [0, 1, 0], 1.1)
    torch.testing.assert_close(out, torch.tensor([2.0, -2.0, 1.0]))
    assert logits.tolist() == [2.200000047683716, -2.200000047683716, 1.0]


@pytest.mark.parametrize("sampling", [Sampling(top_k=7), Sampling(top_k=0), Sampling(temperature=0)])
def test_many_rows_give_what_each_gives_alone(sampling: Sampling) -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    seeds, steps = [3, 3, 4, 2**64 - 1, 0, -1], [0, 1, 0, 5, 9, 2]
    together = draw_rows(logits, sampling, seeds=seeds, stream=2, steps=steps)
    alone = [draw(row, sampling, seed=s, stream=2, step=n) for row, s, n in zip(logits, seeds, steps, strict=True)]
    assert together == alone
    assert len(set(together)) > 2


def test_noise_is_that_of_a_fresh_generator() -> None:
    noise(9, 9, 9, 3)  # leaves half a word behind, which must not be seen
    fresh = np.random.Generator(np.random.Philox(key=[5, 2], counter=[0, 0, 0, 7])).random(33, dtype=np.float32)
    torch.testing.assert_close(noise(5, 2, 7, 33), torch.from_numpy(-np.log(-np.log(fresh))))


def test_each_row_has_a_penalty_of_its_own() -> None:
    logits = torch.ones(3, 4)
    assert penalise_rows(logits, [[1, 1], [], [0, 3]], 2.0).tolist() == [[1, 0.5, 1, 1], [1] * 4, [0.5, 1, 1, 0.5]]


def test_a_track_may_be_drawn_otherwise_than_the_rest() -> None:
    common = Sampling(temperature=0.8, top_k=50, track_temperature={"vocal": 0.0}, track_top_k={"vocal": 3, "mix": 9})
    assert (common.of("vocal").temperature, common.of("vocal").top_k) == (0.0, 3)
    assert (common.of("mix").temperature, common.of("mix").top_k) == (0.8, 9)
    assert common.of("accompaniment") is common
