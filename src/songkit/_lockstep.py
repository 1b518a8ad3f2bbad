"""Planner and refiner in lockstep over any number of requests: a frame is refined when its plan reaches far enough.

The result is that of one after the other. What it brings: songs take each other's places, only the states of songs
under way are kept, and the codes of a song can be read while it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from songkit._song_audio import Prompt, encode_prompt
from songkit.decoding import Stage, run
from songkit.devices import device_of
from songkit.interfaces import Sampling
from songkit.interfaces.drawing import DrawnPlan
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.types import Codes, TokenLayout

if TYPE_CHECKING:
    from songkit.song_model import SongModel

__all__ = ["Lockstep", "plan_sampling", "sampling_of"]


class Lockstep:
    """Requests that are planned and refined together."""

    def __init__(
        self,
        model: SongModel,
        requests: Sequence[SongRequest],
        prompts: Sequence[Prompt | None],
        seeds: Sequence[int],
        settings: GenerateSettings,
        *,
        places: int,
    ) -> None:
        """Draws nothing yet.

        Args:
            model: One that `can`.
            requests: What to sing.
            prompts: For each request its audio prompt, or `None`.
            seeds: For each request the song's own.
            settings: How to sample.
            places: Songs under way at once.
        """
        self.model, self.requests, self.prompts, self.seeds = model, requests, prompts, seeds
        self.guided = settings.guidance != 1
        self.most = math.ceil(settings.max_seconds * model.frame_rate)
        plans = model.planner.drawing(sampling=plan_sampling(settings, model.frame_rate), max_frames=self.most)
        assert plans is not None, "the planner cannot be followed: ask `Lockstep.can` first"
        self.plans = plans
        self.stages = [Stage(plans, self._planned(), places=places)]
        self.tracks = None
        if model.refiner is not None:
            self.tracks = model.refiner.drawing(sampling=sampling_of(settings, refiner=True))
            assert self.tracks is not None, "the refiner cannot follow: ask `Lockstep.can` first"
            self.stages.append(Stage(self.tracks, places=places))

    @staticmethod
    def can(model: SongModel) -> bool:
        """Whether planner and refiner of a model can be drawn step by step."""
        sampling = Sampling(guidance=1.0)
        if model.planner.drawing(sampling=sampling, max_frames=1) is None:
            return False
        return model.refiner is None or model.refiner.drawing(sampling=sampling) is not None

    @property
    def layout(self) -> TokenLayout:
        """Of the codes that are drawn in the end."""
        return self.model.planner.layout if self.model.refiner is None else self.model.refiner.layout

    def run(self) -> Iterator[list[int]]:
        """Draws until all songs are complete; yields those that are, after every round."""
        for ended in run(*self.stages):
            yield ended[-1]

    def plan(self, song: int) -> DrawnPlan:
        """Returns what there is of a song's plan."""
        return self.plans.songs[song]

    def codes(self, song: int, first: int = 0) -> Codes:
        """Returns a song's codes [1, K, F] so far, from a frame on, of the streams that are drawn in the end."""
        ids = self.plan(song).ids if self.tracks is None else self.tracks.ids(song)
        return self._codes(ids, first, self.layout)

    def planned(self, song: int) -> Codes:
        """Returns the codes [1, K, F] that a song's planner has drawn so far."""
        return self._codes(self.plan(song).ids, 0, self.model.planner.layout)

    def seconds(self, song: int) -> dict[str, float]:
        """Returns the wall time of a song's stages."""
        return {name: stage.seconds[song] for name, stage in zip(("plan", "refine"), self.stages, strict=False)}

    def frames(self) -> int:
        """Returns how many frames are planned, summed over all songs."""
        return sum(len(song.ids[self.model.planner.pattern.lead]) for song in self.plans.songs)

    def forget(self, song: int) -> None:
        """Drops the states of a song that is complete."""
        self.plan(song).states.clear()
        self.plan(song).prefix_states = None

    def _codes(self, ids: list[list[int]], first: int, layout: TokenLayout) -> Codes:
        known = min(map(len, ids))
        device = device_of(self.model.codec)
        rows = torch.tensor([[row[first:known] for row in ids]], dtype=torch.int64, device=device)
        return Codes(rows, torch.tensor([rows.shape[2]], device=device), layout)

    def _planned(self) -> Iterator[int]:
        """Yields requests when there is a place for them, each with its conditions."""
        for index, (request, seed) in enumerate(zip(self.requests, self.seeds, strict=True)):
            prompt = self.prompts[index]
            encoded = [None if prompt is None else encode_prompt(self.model.codec, prompt)]
            sides = ("planner",) if self.tracks is None else ("planner", "refiner")
            conditions = [
                self.model.conditioner([request], prompts=encoded, null=self.guided, side=side) for side in sides
            ]
            song = self.plans.add(conditions[0], 0, seed)
            if self.tracks is not None:
                self.stages[1].add(self.tracks.add(self.plan(song), conditions[1], 0, seed))
            yield song


def plan_sampling(settings: GenerateSettings, frame_rate: float) -> Sampling:
    """Returns how a planner of some frames a second is sampled, and before when it does not end a song."""
    least = math.ceil(settings.min_seconds * frame_rate)
    return replace(sampling_of(settings), min_frames=least, last_frames=math.ceil(settings.last_seconds * frame_rate))


def sampling_of(settings: GenerateSettings, *, refiner: bool = False) -> Sampling:
    """Returns how the planner, or the refiner, is sampled."""
    return Sampling(
        temperature=settings.refiner_temperature if refiner else settings.temperature,
        top_k=settings.refiner_top_k if refiner else settings.top_k,
        guidance=settings.guidance,
        repetition_window=settings.repetition_window,
        repetition_penalty=settings.repetition_penalty,
        track_temperature=settings.track_temperature,
        track_top_k=settings.track_top_k,
    )
