"""Training of the musicality reward: Bradley-Terry on pairs of a better and a worse song."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from songkit.atomic import write_atomically
from songkit.errors import RecipeError
from songkit.interfaces import DataSource
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.tasks.base import Task
from songkit.types import TIERS, Audio
from songkit_judges.configs import TrainRewardConfig
from songkit_judges.features import MEASURES, features_of, stems
from songkit_judges.preferences import pairs_of_tiers, pairwise_accuracy, read_preferences
from songkit_judges.reward import MusicalityReward

__all__ = ["TrainReward"]


class TrainReward(Task):
    """Learns scores from the tiers of songs, or from what listeners preferred.

    Songs are split into those that are trained on and those that are held out, by their ids: no pair of the validation
    holds a song that was trained on. At the end of every step the thresholds of the tiers are set so that the tiers
    of the trained songs have the shares that are known, or a fifth each.

    Raises:
        RecipeError: If no pair is left to learn from, or to validate on where songs are to be held out.
        RequestError: If the listening test cannot be read, or a song lacks a track.
    """

    unit = "pairs"
    features: Tensor
    levels: Tensor

    def __init__(
        self,
        config: TrainRewardConfig,
        *,
        reward: MusicalityReward,
        data: DataSource,
        settings: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int,
    ) -> None:
        super().__init__(settings=settings, optimizer=optimizer, seed=seed)
        if not isinstance(reward, MusicalityReward):
            raise RecipeError([f"judges/train-reward trains judges/musicality, not a {type(reward).__name__}"])
        self.config = config
        self.reward = reward
        self._ids, self._tiers, features = _heard(data, config.features)
        pairs = self._pairs()
        held = np.array([_share(name) < config.held_out for name in self._ids])
        inside = held[pairs]
        self._train_pairs, self._held_pairs = pairs[~inside.any(axis=1)], pairs[inside.all(axis=1)]
        if not len(self._train_pairs):
            raise RecipeError(
                [f"of {len(self._ids)} songs no pair of a better and a worse one is left to train on; give more songs"]
            )
        if config.held_out and not len(self._held_pairs):
            raise RecipeError(
                [
                    f"task.held_out is {config.held_out:g}, and among the {held.sum()} of {len(held)} songs that it holds "
                    "out there is no pair of a better and a worse one: how right the scores are could not be told. Give "
                    "more songs, raise task.held_out, or set it to 0 to train on all songs and measure nothing."
                ]
            )
        self._trained = np.flatnonzero(~held)
        self.register_buffer("features", features, persistent=False)
        chosen = features[torch.from_numpy(self._trained)]
        spread = chosen.std(0, correction=0)
        used = spread > 1e-6 * (1 + chosen.mean(0).abs())  # what never differed teaches nothing
        used[len(MEASURES) :] &= config.embedding
        reward.mean.copy_(chosen.mean(0))
        reward.spread.copy_(torch.where(used, spread, torch.inf))  # divided by it, the others are not heard
        self.register_buffer("levels", self._shares(), persistent=False)

    def batch(self, step: int) -> Tensor:
        """Draws pairs: positions of the better and the worse song, int64 [B, 2]."""
        drawn = self.rng(step).integers(len(self._train_pairs), size=self.settings.batch_size)
        return torch.from_numpy(self._train_pairs[drawn])

    def losses(self, batch: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Returns the negative log-likelihood of the preferences (Bradley & Terry 1952)."""
        better, worse = (self.reward(self.features[batch[:, i]]) for i in (0, 1))
        return {
            "preference": functional.softplus(worse - better).mean(),
            "_accuracy": (better > worse).float().mean(),
        }

    def update(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Takes a step, then sets the thresholds of the tiers."""
        values = super().update(batch, generator)
        with torch.no_grad():
            self.reward.thresholds.copy_(torch.quantile(self._scores(self._trained), self.levels))
        return values

    def validate_step(self, step: int) -> dict[str, float]:
        """Returns the pairwise accuracy on held-out songs with its interval, and how right their tiers are."""
        values: dict[str, float] = {}
        if len(self._held_pairs):
            scores = self._scores(np.arange(len(self._ids))).cpu().numpy()
            found = pairwise_accuracy(scores, self._held_pairs, seed=self.seed)
            values = dict(zip(("accuracy", "accuracy_low", "accuracy_high"), found, strict=True))
        known = [i for i, tier in enumerate(self._tiers) if tier in TIERS and i not in set(self._trained.tolist())]
        if known:
            heard = self.reward.tiers(self._scores(np.array(known)))
            true = [TIERS.index(str(self._tiers[i])) for i in known]
            apart = np.abs(np.array([TIERS.index(tier) for tier in heard]) - true)
            values |= {"tier_right": float((apart == 0).mean()), "tier_beside": float((apart <= 1).mean())}
        return values

    def exports(self) -> Mapping[str, nn.Module]:
        """Returns the reward."""
        return {"reward": self.reward}

    def _pairs(self) -> np.ndarray:
        if not self.config.preferences:
            return pairs_of_tiers(self._tiers)
        at = {name: i for i, name in enumerate(self._ids)}
        found = read_preferences(Path(self.config.preferences))
        missing = sorted({name for pair in found for name in pair} - set(at))
        if missing:
            raise RecipeError(
                [f"{self.config.preferences} names {len(missing)} songs that are not in `data`, such as {missing[0]}"]
            )
        return np.array([[at[better], at[worse]] for better, worse in found])

    def _shares(self) -> Tensor:
        """Returns which share of the trained songs lies below each threshold, [4]."""
        known = [TIERS.index(str(self._tiers[i])) for i in self._trained if self._tiers[i] in TIERS]
        if not known or self.config.preferences:
            return torch.arange(1, len(TIERS)) / len(TIERS)
        counts = np.bincount(known, minlength=len(TIERS))
        return torch.from_numpy(np.cumsum(counts)[:-1] / counts.sum()).float()

    @torch.no_grad()
    def _scores(self, positions: np.ndarray) -> Tensor:
        self.reward.eval()
        scores: Tensor = self.reward(self.features[torch.from_numpy(positions).to(self.features.device)])
        self.reward.train(self.training)
        return scores


def _heard(data: DataSource, path: str) -> tuple[list[str], list[str | None], Tensor]:
    """Returns ids, tiers and features of all songs; audio whose features are in the file at `path` is not heard again.

    The file goes by what is heard, because an id says little: a synthesiser gives songs of another tier the same ids.
    """
    kept: dict[str, np.ndarray] = {}
    if path and Path(path).is_file():
        with np.load(path) as file:
            if "digests" in file and tuple(file["measures"].tolist()) == MEASURES:
                kept = dict(zip(file["digests"].tolist(), file["features"], strict=True))
    known = len(kept)
    ids, tiers, rows = [], [], []
    for index in tqdm(range(len(data)), desc="listen", unit="song", disable=len(data) < 10):
        song = data[index]
        audio = stems(song)
        digest = _digest(audio)
        if digest not in kept:
            kept[digest] = features_of(audio)[0].numpy()
        ids.append(song.id)
        tiers.append(song.tier)
        rows.append(kept[digest])
    if path and len(kept) > known:
        digests, features, measures = np.array(list(kept)), np.stack(list(kept.values())), np.array(MEASURES)
        write_atomically(Path(path), lambda file: np.savez(file, digests=digests, features=features, measures=measures))
    return ids, tiers, torch.from_numpy(np.stack(rows)).float()


def _digest(audio: Audio) -> str:
    """Returns a digest of all that is heard of a song."""
    found = hashlib.sha256(f"{audio.sample_rate}".encode())
    for name, track in sorted(audio.tracks.items()):
        found.update(f"{name} {tuple(track.shape)}".encode() + track.contiguous().numpy().tobytes())
    return found.hexdigest()


def _share(name: str) -> float:
    """Returns a number from 0 to 1 that an id always has, by which songs are held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
