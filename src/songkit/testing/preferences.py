"""Pairs as objectives and preference training are given them."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from songkit.interfaces import Tokenizer
from songkit.interfaces.objective import PairLogProbabilities, PreferenceLoss, PreferenceObjective, Preferences
from songkit.pairs import Candidate, Pair
from songkit.request import SongRequest
from songkit.testing.standins import SongsConfig, TokenisedSongs

__all__ = ["STREAMS", "TokenisedPairs", "loss_of", "preferences", "rows"]

STREAMS = ("mix.0", "vocal.0", "accompaniment.0")
"""The streams of the kit's pairs."""


def preferences(pairs: int = 4, *, seed: int = 0, ahead: float = 0.0, scale: float = 1.0) -> Preferences:
    """Returns random pairs.

    Args:
        pairs: B of them.
        seed: Of the numbers.
        ahead: How far the policy has moved from the reference, in nats per token: up for the preferred song, down
            for the rejected one.
        scale: Nats per token of all log-probabilities are about 3 times this.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Tensor:
        return torch.rand(pairs, len(STREAMS), generator=generator, dtype=torch.float64)

    tokens = 20 + (60 * drawn()).long()
    songs = [-(scale * (2 + 2 * drawn())) * tokens for _ in range(2)]
    moved = [ahead * tokens * (0.5 + drawn()) for _ in range(2)]
    aspects = {"judge": drawn()[:, 0], "silent": torch.full((pairs,), float("nan"), dtype=torch.float64)}
    return Preferences(
        streams=STREAMS,
        policy=PairLogProbabilities(
            chosen=(songs[0] + moved[0]).clamp(max=0).requires_grad_(),
            rejected=(songs[1] - moved[1]).clamp(max=0).requires_grad_(),
        ),
        reference=PairLogProbabilities(chosen=songs[0], rejected=songs[1]),
        chosen_tokens=tokens,
        rejected_tokens=tokens.clone(),
        aspects=aspects,
    )


def loss_of(objective: PreferenceObjective, given: Preferences) -> PreferenceLoss:
    """Calls an objective as a task would: with a reference unless it needs none."""
    if objective.reference_free:
        given = dataclasses.replace(given, reference=None)
    return objective(given)


def rows(given: Preferences, order: list[int]) -> Preferences:
    """Returns some pairs, in an order; their log-probabilities are leaves of their own."""

    def of(pair: PairLogProbabilities | None) -> PairLogProbabilities | None:
        if pair is None:
            return None
        chosen, rejected = (x.detach()[order].requires_grad_(x.requires_grad) for x in (pair.chosen, pair.rejected))
        return PairLogProbabilities(chosen=chosen, rejected=rejected)

    policy = of(given.policy)
    assert policy is not None
    return dataclasses.replace(
        given,
        policy=policy,
        reference=of(given.reference),
        chosen_tokens=given.chosen_tokens[order],
        rejected_tokens=given.rejected_tokens[order],
        aspects={name: value[order] for name, value in given.aspects.items()},
    )


class TokenisedPairs(TokenisedSongs):
    """Pairs as `songkit mine` would have left them: each song is preferred to the next one, sung to its request."""

    def __init__(self, config: SongsConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.frames = np.stack([self.frames, np.roll(self.frames, -1)], 1)  # of both songs of each pair
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)

    def pair(self, index: int) -> Pair:
        """Returns a pair."""
        request = SongRequest.of(self[index])
        return Pair(
            request=request,
            chosen=self._candidate(index, index),
            rejected=self._candidate(index, (index + 1) % len(self)),
            strategy="kit",
            margin=1.0,
        )

    def _candidate(self, index: int, song: int) -> Candidate:
        ids = self.codes(song).astype(np.int64)
        sections = len(self[index].sections)
        return Candidate(
            candidate=song,
            seed=song,
            ids=ids,
            layout=self.layout,
            cursor=np.arange(ids.shape[1]) * sections // ids.shape[1],
            finished=song != index,
            scores={"judge.value": float(song == index)},
        )
