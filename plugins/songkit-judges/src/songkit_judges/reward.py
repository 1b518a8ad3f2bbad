"""The musicality reward: a small scorer over frozen features, with thresholds that sort songs into five tiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from songkit.checkpoint import load_weights
from songkit.interfaces.metric import MetricInfo
from songkit.types import TIERS, Audio, Song
from songkit_judges.configs import SHIPPED, MusicalityConfig, MusicalityScoreConfig
from songkit_judges.features import SIZE, features_of
from songkit_judges.kept import KeptMetric, check_batch

__all__ = ["MusicalityMetric", "MusicalityReward", "load_reward"]


class MusicalityReward(nn.Module):
    """How musical a song is, by the pairs that it was trained on.

    The scale is that of Bradley and Terry: a song that scores s more than another is preferred to it with probability
    1 / (1 + exp(-s)).
    """

    aspects = ("musicality",)
    mean: Tensor
    spread: Tensor
    thresholds: Tensor

    def __init__(self, config: MusicalityConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(SIZE))
        self.register_buffer("spread", torch.ones(SIZE))
        self.register_buffer("thresholds", torch.linspace(-1.5, 1.5, len(TIERS) - 1))
        self.scorer = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(SIZE, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Returns the score [B] of features [B, SIZE]."""
        # A feature far outside of what was trained on must not decide alone.
        normal = ((features - self.mean) / self.spread).clamp(-4, 4)
        return self.scorer(normal)[:, 0]

    @torch.no_grad()
    def score(self, audio: Audio, songs: Sequence[Song]) -> Tensor:
        """Scores each song; see `songkit.interfaces.RewardModel`.

        Raises:
            RequestError: If there is no vocal or no accompaniment.
            PluginError: If the package musicnn is not installed.
        """
        check_batch(audio, songs)
        features = features_of(audio).to(self.mean.device)
        return torch.cat([self(row[None]) for row in features])[:, None]  # alone, as in any other batch

    def tiers(self, scores: Tensor) -> list[str]:
        """Returns the tier of each score [B], one of `songkit.types.TIERS`."""
        return [TIERS[i] for i in torch.bucketize(scores, self.thresholds).tolist()]


class MusicalityMetric(KeptMetric):
    """The musicality reward as a judge: `musicality`, its score, and the `tier` that it falls into."""

    info = MetricInfo(
        needs=frozenset({"vocal", "accompaniment"}),
        unit="log-odds of being preferred",
        higher_is_better=True,
        per_song=True,
    )

    def __init__(self, config: MusicalityScoreConfig) -> None:
        super().__init__("score", "tier")
        self.config = config
        self.reward = load_reward(config.model)

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        """Scores each song."""
        scores = self.reward.score(generated, songs)[:, 0]
        for song, score, tier in zip(songs, scores.tolist(), self.reward.tiers(scores), strict=True):
            self.keep(song.id, score=[score], tier=[TIERS.index(tier)])

    def compute(self) -> dict[str, Tensor]:
        """Returns the mean score, and the mean tier counted from 0 to 4, with their intervals."""
        songs = [arrays for _, arrays in self.ordered()]
        settings = {"replicates": self.config.replicates, "seed": self.config.seed}
        out = self.mean("musicality", [float(arrays["score"][0]) for arrays in songs], **settings)
        return out | self.mean("tier_number", [float(arrays["tier"][0]) for arrays in songs], **settings)

    def per_song(self) -> list[dict[str, float | str]]:
        """Returns `id`, `musicality`, `tier` and its number, from 0, for each song."""
        return [
            {
                "id": song,
                "musicality": float(arrays["score"][0]),
                "tier": TIERS[int(arrays["tier"][0])],
                "tier_number": float(arrays["tier"][0]),
            }
            for song, arrays in self.kept()
        ]


def load_reward(path: str = "") -> MusicalityReward:
    """Returns a trained reward.

    Args:
        path: Its weights, as `songkit train` writes them; the shipped ones when empty.

    Raises:
        CheckpointError: If the file is missing, damaged, or belongs to something else.
    """
    with torch.random.fork_rng(devices=[]):  # the fresh parameters are replaced at once
        reward = MusicalityReward(MusicalityConfig())
    load_weights(Path(path) if path else SHIPPED, reward, component="judges/musicality", revision=1)
    return reward.eval()
