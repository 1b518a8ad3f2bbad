"""Two judges for tests of mining, as a local plugin: loudness of the voice, and brightness as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from songkit.checkpoint import save_weights
from songkit.errors import AudioError
from songkit.interfaces.metric import MetricInfo, SongMetric
from songkit.plugin import Component, hookimpl
from songkit.types import Audio, Song


@dataclass(kw_only=True)
class LoudnessConfig:
    """Of the voice."""

    deaf_to: str = ""
    """Songs whose id ends so cannot be heard."""


class Loudness(SongMetric):
    """Seconds and mean zero crossings of the voice; of the seconds lower is better."""

    info = MetricInfo(
        needs=frozenset({"vocal"}),
        unit="level",
        higher_is_better=False,
        per_song=True,
        opposite=frozenset({"crossings"}),
    )

    def __init__(self, config: LoudnessConfig) -> None:
        super().__init__()
        self.config = config
        self.add_state("values", [], dist_reduce_fx="cat")
        self.ids: list[str] = []

    def reset(self) -> None:
        super().reset()
        self.ids = []

    def update(self, generated: Audio, songs: Sequence[Song], reference: Audio | None = None) -> None:
        if self.config.deaf_to and songs[0].id.endswith(self.config.deaf_to):
            raise AudioError("it cannot be heard")
        voice = generated.tracks["vocal"][0, 0]
        crossings = (voice[1:].sign() != voice[:-1].sign()).float().mean()
        self.ids.append(songs[0].id)
        self.values.append(torch.stack([torch.tensor(len(voice) / generated.sample_rate), crossings]))

    def compute(self) -> dict[str, Tensor]:
        return {"seconds": torch.stack(self.values).mean(0)[0]}

    def per_song(self) -> list[dict[str, float | str]]:
        rows = zip(self.ids, self.values, strict=True)
        return [{"id": i, "seconds": float(v[0]), "crossings": float(v[1]), "heard": "la"} for i, v in rows]


@dataclass(kw_only=True)
class BrightnessConfig:
    """Of the mix."""

    lost_in: str = ""
    """Songs whose id ends so get a score that is no number."""


class Brightness(nn.Module):
    """Zero crossings of the mix; higher is better."""

    aspects = ("brightness",)

    def __init__(self, config: BrightnessConfig) -> None:
        super().__init__()
        self.config = config
        self.gain = nn.Parameter(torch.ones(1))

    def score(self, audio: Audio, songs: Sequence[Song]) -> Tensor:
        if self.training:
            raise RuntimeError("a reward judges in training mode, where dropout is on")
        if self.config.lost_in and songs[0].id.endswith(self.config.lost_in):
            return torch.full((len(songs), 1), float("nan"))
        voice = audio.tracks["mix"].mean(1)
        return self.gain * (voice[:, 1:].sign() != voice[:, :-1].sign()).float().mean(1, keepdim=True)


@hookimpl
def songkit_components() -> list[Component]:
    """Returns the judges."""
    return [
        Component(
            kind="metric",
            name="loudness",
            config=LoudnessConfig,
            factory=f"{__name__}:Loudness",
            example=LoudnessConfig(),
        ),
        Component(
            kind="reward",
            name="brightness",
            config=BrightnessConfig,
            factory=f"{__name__}:Brightness",
            example=BrightnessConfig(),
        ),
    ]


def write_reward(path: Path) -> None:
    """Writes the weights of `local/brightness`."""
    save_weights(path, Brightness(BrightnessConfig()), {"component": "local/brightness", "revision": 1})
