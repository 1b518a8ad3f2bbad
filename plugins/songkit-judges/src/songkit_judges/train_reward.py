"""Training of the musicality reward: Bradley-Terry on pairs of a better and a worse song."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from songkit_judges.calibration import cross_fitted, fit_temperature, fit_thresholds
from songkit_judges.configs import TrainRewardConfig
from songkit_judges.features import MEASURES, features_of, stems
from songkit_judges.preferences import pairs_of_tiers, pairwise_accuracy, read_preferences
from songkit_judges.reward import MusicalityReward

__all__ = ["TrainReward"]


class TrainReward(Task):
    """Learns scores from the tiers of songs, or from what listeners preferred.

    Songs are split into those that are trained on and those that are held out, by their ids: no pair of the validation
    holds a song that was trained on. What is written is fitted to the songs that were held out: scores are divided by a
    temperature, so that their differences are odds, and thresholds give each tier as many songs as are known to be of
    it, or a fifth. Where none is held out, odds stay as they are and the thresholds fit the songs that were trained on.

    Raises:
        RecipeError: If no pair is left to learn from, or to validate on where songs are to be held out.
        RequestError: If the listening test cannot be read, or a song lacks a track.
    """

    unit = "pairs"
    reads_weights = ("losses", "validate_step", "exports")
    features: Tensor

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
        self._ids, tiers, features = _heard(data, config.features)
        pairs = self._pairs(tiers)
        shares = np.array([_share(name) for name in self._ids])
        held = shares < config.held_out
        inside = held[pairs]
        self._train_pairs, self._held_pairs = pairs[~inside.any(axis=1)], pairs[inside.all(axis=1)]
        if not len(self._train_pairs):
            raise RecipeError(
                [f"of {len(self._ids)} songs no pair of a better and a worse one is left to train on; give more songs"]
            )
        if config.held_out and not len(self._held_pairs):
            raise RecipeError(
                [
                    f"task.held_out is {config.held_out:g}, and among the {held.sum()} of {len(held)} songs that it "
                    "holds out there is no pair of a better and a worse one: how right the scores are could not be "
                    "told. Give more songs, raise task.held_out, or set it to 0 to train on all songs and measure "
                    "nothing."
                ]
            )
        self._trained, self._held = np.flatnonzero(~held), np.flatnonzero(held)
        self._held = self._held[np.argsort(shares[self._held])]  # in an order that says nothing about them
        # Listeners need not agree with the tiers that songs were made with.
        levels = [-1 if config.preferences or tier not in TIERS else TIERS.index(str(tier)) for tier in tiers]
        self._levels = np.array(levels)
        self.register_buffer("features", features, persistent=False)
        chosen = features[torch.from_numpy(self._trained)]
        spread = chosen.std(0, correction=0)
        used = spread > 1e-6 * (1 + chosen.mean(0).abs())  # what never differed teaches nothing
        used[len(MEASURES) :] &= config.embedding
        reward.mean.copy_(chosen.mean(0))
        reward.spread.copy_(torch.where(used, spread, torch.inf))  # divided by it, the others are not heard

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

    def validate_step(self, step: int) -> dict[str, float]:
        """Returns how right the scores of held-out songs are.

        `accuracy` is the share of pairs in order with its interval, `temperature` what scores are divided by; see
        `songkit_judges.calibration.cross_fitted` for the others. Nothing where no song is held out.
        """
        if not len(self._held_pairs):
            return {}
        scores, pairs = self._held_scores()
        every = self._scores(np.arange(len(self._ids)))
        found = pairwise_accuracy(every, self._held_pairs, seed=self.seed)
        return {
            **dict(zip(("accuracy", "accuracy_low", "accuracy_high"), found, strict=True)),
            "temperature": fit_temperature(scores, pairs),
            **cross_fitted(scores, pairs, self._levels[self._held]),
        }

    def exports(self) -> Mapping[str, nn.Module]:
        """Returns the reward, with odds and thresholds as they are fitted now."""
        temperature, fitted = 1.0, self._trained
        if len(self._held_pairs):
            temperature, fitted = fit_temperature(*self._held_scores()), self._held
        thresholds = fit_thresholds(self._scores(fitted), self._levels[fitted])
        return {"reward": Calibrated(self.reward, temperature, thresholds)}

    def _pairs(self, tiers: Sequence[str | None]) -> np.ndarray:
        if not self.config.preferences:
            return pairs_of_tiers(tiers)
        at = {name: i for i, name in enumerate(self._ids)}
        found = read_preferences(Path(self.config.preferences))
        missing = sorted({name for pair in found for name in pair} - set(at))
        if missing:
            raise RecipeError(
                [f"{self.config.preferences} names {len(missing)} songs that are not in `data`, such as {missing[0]}"]
            )
        return np.array([[at[better], at[worse]] for better, worse in found])

    def _held_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores of the held-out songs, and where in them the songs of each pair are."""
        at = np.zeros(len(self._ids), dtype=np.int64)
        at[self._held] = np.arange(len(self._held))
        return self._scores(self._held), at[self._held_pairs]

    @torch.no_grad()
    def _scores(self, positions: np.ndarray) -> np.ndarray:
        self.reward.eval()
        scores = self.reward(self.features[torch.from_numpy(positions).to(self.features.device)])
        self.reward.train(self.training)
        return np.asarray(scores.cpu().numpy())


class Calibrated(nn.Module):
    """A reward as it is written: its last layer and its thresholds divided by a temperature.

    The file is like any other reward's, and the weights that are being trained stay as they are.
    """

    def __init__(self, reward: MusicalityReward, temperature: float, thresholds: np.ndarray) -> None:
        super().__init__()
        self.reward = reward
        self._temperature = temperature
        self._thresholds = torch.from_numpy(thresholds)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Returns the tensors of a `MusicalityReward`."""
        state = self.reward.state_dict(*args, **options)
        state["thresholds"] = self._thresholds.to(state["thresholds"])
        for name in ("thresholds", "scorer.3.weight", "scorer.3.bias"):
            state[name] = state[name] / self._temperature
        return state


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
