"""Log-probabilities in blocks: the numbers of the whole, and what counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from songkit import vocabulary
from songkit.types import Codes, Stream, TokenLayout
from songkit.vocabulary import id_scores, logit_scores, placed, target_ids


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(vocabulary, "BLOCK", 4 * 50)
    monkeypatch.setattr(vocabulary, "WHOLE", 8 * 50)


def drawn(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    states, table = (torch.randn(n, 6, generator=generator, dtype=dtype).requires_grad_() for n in (23, 50))
    return states, table, torch.randint(50, (23,), generator=generator)


def test_blocks_give_the_values_and_gradients_of_cross_entropy(small_blocks):
    states, table, ids = drawn()
    weights = torch.arange(23, dtype=torch.float32)
    found, _ = id_scores(states, table, ids)
    expected = -functional.cross_entropy(functional.linear(states, table).float(), ids, reduction="none")
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((weights * found).sum(), (states, table))
    theirs = torch.autograd.grad((weights * expected).sum(), (states, table))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_no_more_than_a_block_of_logits_is_kept(small_blocks):
    states, table, ids = drawn()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        id_scores(states, table, ids)
    assert max(kept) <= table.numel()  # the logits of all positions are 1,150


def test_the_most_likely_ids_are_told(small_blocks):
    states, table, _ = drawn()
    best = functional.linear(states, table).argmax(1)
    assert id_scores(states, table, best)[1].all()
    assert not id_scores(states, table, (best + 1) % 50)[1].any()


LAYOUT = TokenLayout(25.0, (Stream("mix", 0, 4), Stream("mix", 1, 4)))


def songs(ended):
    return Codes(torch.tensor([[[1, 2, 3], [0, 1, 2]], [[3, 0, 0], [2, 0, 0]]]), torch.tensor([3, 1]), LAYOUT, ended)


def test_the_end_counts_where_a_song_is_known_to_end():
    ids, counted = target_ids(songs(torch.tensor([False, True])), 4, 4)
    assert counted[:, 0].tolist() == [[True, True, True, False], [True, True, False, False]]
    assert ids[1, 0, :2].tolist() == [3, 4]
    _, counted = target_ids(songs(None), 4, 4)
    assert counted[:, 1].sum(1).tolist() == [3, 1]
    _, counted = target_ids(songs(torch.tensor([True, True])), 3, 4)  # a refiner that tells no end
    assert counted.shape == (2, 2, 3)


def test_scores_of_states_are_those_of_their_logits():
    generator = torch.Generator().manual_seed(1)
    codes = songs(torch.tensor([True, True]))
    states = [torch.randn(2, 4, 6, generator=generator) for _ in range(2)]
    tables = [torch.randn(5, 6, generator=generator) for _ in range(2)]
    logits = torch.stack([functional.linear(x, table) for x, table in zip(states, tables, strict=True)], 1)
    one, other = placed(states, tables, codes), logit_scores(logits, codes)
    assert one.streams == other.streams == ("mix.0", "mix.1")
    for name in ("log_probabilities", "counted", "likeliest", "sums", "tokens"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    assert one.tokens.tolist() == [[4, 4], [2, 2]]
