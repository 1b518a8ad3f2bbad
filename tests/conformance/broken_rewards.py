"""Rewards with one fault each; see `broken`."""

from __future__ import annotations

import torch
from conformance.broken import broken
from torch import nn

from songkit.testing.standins import TinyReward
from songkit.types import Audio


class _Scores(TinyReward):
    """Changes the scores."""

    def score(self, audio, songs):
        return self.after(super().score(audio, songs), audio)


@broken("interface", "reward", "everything")
class NoReward(nn.Linear):
    def __init__(self, config):
        super().__init__(3, 3)


@broken("device", "reward")
class WeightsLeftBehind(TinyReward):
    def __init__(self, config):
        super().__init__(config)
        self.offset = torch.zeros(1)


@broken("round-trip", "reward")
class OffsetOutsideTheFile(_Scores):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("offset", torch.rand(1), persistent=False)

    def after(self, scores, audio):
        return scores + self.offset


@broken("same-seed", "reward", "own-score", "padding", "round-trip")
class TiresOfListening(_Scores):
    def __init__(self, config):
        super().__init__(config)
        self.heard = 0

    def after(self, scores, audio):
        self.heard += 1
        return scores - 0.1 * self.heard


@broken("aspects", "reward", "tells-apart")
class OneNameForTwo(TinyReward):
    aspects = ("loudness", "loudness")


@broken("aspects", "reward", "tells-apart")
class OneScoreForTwo(_Scores):
    def after(self, scores, audio):
        return scores[:, :1]


@broken("own-score", "reward")
class RanksTheBatch(_Scores):
    def after(self, scores, audio):
        return scores - scores.mean(0) if len(scores) > 2 else scores


@broken("padding", "reward", "own-score")
class HearsBehindTheEnd(TinyReward):
    def score(self, audio, songs):
        lengths = torch.full_like(audio.lengths, audio.tracks["mix"].shape[2])
        return super().score(Audio(audio.tracks, lengths, audio.sample_rate), songs)


@broken("tells-apart", "reward")
class LikesEverything(_Scores):
    def after(self, scores, audio):
        return torch.cat([scores[:, :1], torch.ones_like(scores[:, 1:])], 1)


@broken("inputs-kept", "reward", "own-score", "padding")
class NormalisesInPlace(TinyReward):
    def score(self, audio, songs):
        for track in audio.tracks.values():
            track /= track.abs().amax((1, 2), keepdim=True).clamp(min=1e-6)
        return super().score(audio, songs)
