"""Requests to songs in memory.

request → conditioner → planner → plan → refiner → codes → codec → vocal and accompaniment, mix = their sum. Where the
planner already plans what the codec decodes, there is no refiner.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from songkit._lockstep import Lockstep, plan_sampling, sampling_of
from songkit._song_audio import Prompt, decode_song, encode_prompt, mixed, read_prompt
from songkit.errors import AudioError, RequestError
from songkit.progress import Clock, Progress, Reporter
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.song_model import SongModel
from songkit.types import Alignment, Codes

__all__ = ["SongModel", "SungSong", "check_requests", "sing", "song_seed"]


@dataclass(frozen=True, kw_only=True)
class SungSong:
    """A generated song."""

    request: SongRequest
    seed: int
    """The song's own, from `song_seed`."""
    tracks: Mapping[str, np.ndarray]
    """int16 [C, T] by role, those that were asked for and what they are made of; the mix is exactly the sum of vocal
    and accompaniment."""
    sample_rate: int
    codes: Codes
    """What the tracks are made of, all of it, of one song, on the CPU."""
    planned: Codes
    """What the planner drew, of one song; the same as `codes` where there is no refiner."""
    cursor: np.ndarray | None
    """int64 [F]: the lyrics token that is sung at each frame, where the planner follows the lyrics."""
    alignment: Alignment | None
    """When sections and lines are sung, where the planner follows the lyrics."""
    finished: bool
    """Whether it ended by itself; otherwise it was cut."""
    wall_seconds: dict[str, float] = field(default_factory=dict)
    """Time spent in each stage; a batch's time is shared out evenly."""

    @property
    def seconds(self) -> float:
        """Length."""
        return float(max(track.shape[-1] for track in self.tracks.values()) / self.sample_rate)


def sing(
    model: SongModel,
    requests: Sequence[SongRequest],
    *,
    seed: int = 0,
    settings: GenerateSettings | None = None,
    tracks: Collection[str] | None = None,
    batch: int = 4,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[SungSong]:
    """Sings requests, without writing anything. See `songkit.generate.generate` for the arguments and errors.

    Of `tracks`, by default all that the model makes, what they are made of is decoded and nothing else.
    """
    settings = settings or model.settings()
    if batch < 1:
        raise RequestError(f"batch is {batch}; expected at least 1 song. Give --batch 4, for example.")
    prompts = check_requests(model, requests, settings)
    if Lockstep.can(model):
        yield from _sing_together(model, requests, prompts, seed, settings, tracks, batch, progress)
        return
    for first in range(0, len(requests), batch):
        part = slice(first, first + batch)
        report = Reporter(progress, first + 1, len(requests[part]), len(requests))
        yield from _sing_batch(model, requests[part], prompts[part], seed, settings, tracks, report)


def check_requests(
    model: SongModel, requests: Sequence[SongRequest], settings: GenerateSettings
) -> list[Prompt | None]:
    """Checks that a model can sing requests, and reads their audio prompts.

    Returns:
        For each request the start of its audio prompt, float32 [C, T] by track as the codec wants it, or `None`.

    Raises:
        RequestError: If it cannot; the message names every fault of every request.
    """
    problems: list[str] = [f"{type(settings).__name__}: {problem}" for problem in settings.validate()]
    prompts: list[Prompt | None] = []
    for request in requests:
        prompt = None
        try:
            if request.pure_music and not model.conditioner.pure_music:
                raise RequestError(
                    "this model makes no pure music. Give it words, and take the accompaniment with --tracks."
                )
            model.conditioner.check(request)
            if request.prompt_audio is not None:
                prompt = read_prompt(model.codec, request.prompt_audio, settings.prompt_seconds)
        except (RequestError, AudioError) as error:
            problems += [f"request '{request.id}': {line}" for line in str(error).splitlines()]
        prompts.append(prompt)
    if problems:
        raise RequestError("\n".join(problems))
    return prompts


def song_seed(seed: int, name: str) -> int:
    """Returns a song's own seed: it depends on the common seed and the song's id, not on other songs."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) >> 1


def _sing_together(
    model: SongModel,
    requests: Sequence[SongRequest],
    prompts: Sequence[Prompt | None],
    seed: int,
    settings: GenerateSettings,
    tracks: Collection[str] | None,
    batch: int,
    progress: Callable[[Progress], None] | None,
) -> Iterator[SungSong]:
    """Draws plans and tracks in lockstep; a song is decoded when it and those before it are drawn."""
    seeds = [song_seed(seed, request.id) for request in requests]
    songs = Lockstep(model, requests, prompts, seeds, settings, places=min(batch, len(requests)))
    report = Reporter(progress, 1, len(requests), len(requests)).stage("draw", songs.most * len(requests))
    complete: set[int] = set()
    rounds = songs.run()
    for i, request in enumerate(requests):
        while i not in complete:
            with torch.inference_mode():
                complete.update(next(rounds))
            report(songs.frames())
        codes, plan = songs.codes(i), songs.plan(i)
        done = Reporter(progress, i + 1, 1, len(requests)).stage("decode", int(codes.lengths[0]))
        begin = time.perf_counter()
        audio = decode_song(
            model.codec, codes, seeds[i], voiceless=request.pure_music, prompt=prompts[i], tracks=tracks
        )
        done(int(codes.lengths[0]))
        wall = {**songs.seconds(i), "decode": time.perf_counter() - begin}
        places = plan.cursor()
        cursor = None if places is None else np.array(places[: int(codes.lengths[0])], dtype=np.int64)
        planned, finished = songs.planned(i), plan.finished
        songs.forget(i)
        yield _sung(model, request, seeds[i], audio, codes, planned, cursor, finished=finished, wall=wall)


@torch.inference_mode()
def _sing_batch(
    model: SongModel,
    requests: Sequence[SongRequest],
    prompts: Sequence[Prompt | None],
    seed: int,
    settings: GenerateSettings,
    tracks: Collection[str] | None,
    report: Reporter,
) -> Iterator[SungSong]:
    """Plans all songs, then refines all: for planners and refiners that cannot be drawn in lockstep."""
    seeds = [song_seed(seed, request.id) for request in requests]
    clock = Clock(len(requests))
    null = settings.guidance != 1
    encoded = [None if prompt is None else encode_prompt(model.codec, prompt) for prompt in prompts]
    most = math.ceil(settings.max_seconds * model.frame_rate)

    conditions = model.conditioner(requests, prompts=encoded, null=null, side="planner")
    plan = model.planner.generate(
        conditions,
        sampling=plan_sampling(settings, model.frame_rate),
        max_frames=most,
        seeds=seeds,
        progress=report.stage("plan", most * len(requests)),
    )
    clock.lap("plan")
    codes = plan.codes
    if model.refiner is not None:
        conditions = model.conditioner(requests, prompts=encoded, null=null, side="refiner")
        codes = model.refiner.generate(
            plan,
            conditions,
            sampling=sampling_of(settings, refiner=True),
            seeds=seeds,
            progress=report.stage("refine", int(codes.lengths.sum())),
        )
        clock.lap("refine")
    done, passed = report.stage("decode", int(codes.lengths.sum())), 0
    for i, request in enumerate(requests):
        begin = time.perf_counter()
        own, planned = _one(codes, i), _one(plan.codes, i)
        audio = decode_song(model.codec, own, seeds[i], voiceless=request.pure_music, prompt=prompts[i], tracks=tracks)
        frames = int(own.lengths[0])
        passed += frames
        done(passed)
        wall = {**clock.laps, "decode": time.perf_counter() - begin}
        cursor = None if plan.cursor is None else plan.cursor[i, :frames].cpu().numpy()
        finished = bool(plan.finished[i]) if plan.finished is not None else frames < most
        yield _sung(model, request, seeds[i], audio, own, planned, cursor, finished=finished, wall=wall)


def _one(codes: Codes, index: int) -> Codes:
    """Returns one song of a batch of codes, without padding."""
    frames = int(codes.lengths[index])
    return Codes(codes.ids[index : index + 1, :, :frames], codes.lengths[index : index + 1], codes.layout)


def _sung(
    model: SongModel,
    request: SongRequest,
    seed: int,
    audio: Mapping[str, np.ndarray],
    codes: Codes,
    planned: Codes,
    cursor: np.ndarray | None,
    *,
    finished: bool,
    wall: dict[str, float],
) -> SungSong:
    return SungSong(
        request=request,
        seed=seed,
        tracks=mixed(audio),
        sample_rate=model.codec.sample_rate,
        codes=codes.to("cpu").arrange(model.codec.layout.select(codes.layout.tracks)),
        planned=planned.to("cpu"),
        cursor=cursor,
        alignment=None if cursor is None else model.conditioner.align(request, cursor, model.frame_rate),
        finished=finished,
        wall_seconds=wall,
    )
