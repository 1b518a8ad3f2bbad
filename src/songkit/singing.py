"""Requests to songs in memory: the model and `sing`.

request → conditioner → planner → plan → refiner → codes → codec → vocal and accompaniment, mix = their sum. Where the
planner already plans what the codec decodes, there is no refiner.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from songkit.audio import read_audio
from songkit.build import build_roles
from songkit.errors import AudioError, RecipeError, RequestError
from songkit.fit import check_decodes
from songkit.interfaces import Codec, Conditioner, Planner, Sampling, TrackRefiner
from songkit.progress import Clock, Progress, Reporter
from songkit.recipe import Recipe
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.types import TRACKS, Alignment, Audio, Codes

__all__ = ["SongModel", "SungSong", "check_requests", "sing", "song_seed"]

_NEEDED = ("conditioner", "planner", "codec")


@dataclass(frozen=True)
class SongModel:
    """The components that make a song together, ready for inference."""

    conditioner: Conditioner
    planner: Planner
    refiner: TrackRefiner | None
    """`None` where the planner plans what the codec decodes."""
    codec: Codec
    recipe: Recipe | None = None
    """Where it was loaded from; goes into song.json."""

    @classmethod
    def load(cls, recipe: Recipe) -> SongModel:
        """Builds the model of a recipe, with its weights.

        Raises:
            RecipeError: If the recipe lacks conditioner, planner or codec.
            LayoutError: If its components do not fit together.
            CheckpointError: If weights are missing or damaged.
        """
        missing = [role for role in _NEEDED if role not in recipe.roles]
        if missing:
            raise RecipeError(
                f"the recipe '{recipe.name}' cannot generate: it has no {', '.join(missing)}. "
                f"Choose a --model with {', '.join(_NEEDED)}, such as 'mini/song'."
            )
        roles = [*_NEEDED, *(["refiner"] if "refiner" in recipe.roles else [])]
        built = build_roles(recipe, roles, require_weights=True)
        for module in built.values():
            module.eval().requires_grad_(False)
        check_decodes(built["codec"], built["planner"], built.get("refiner"))
        return cls(**{"refiner": None, **built}, recipe=recipe)

    @property
    def frame_rate(self) -> float:
        """Frames of the plan per second."""
        return self.planner.layout.frame_rate

    def settings(self) -> GenerateSettings:
        """Returns how its recipe wants it to be sampled."""
        return GenerateSettings() if self.recipe is None else self.recipe.generate

    def tracks(self) -> tuple[str, ...]:
        """Returns the tracks it can write: those the codec decodes, and the mix of vocal and accompaniment."""
        decoded = set(check_decodes(self.codec, self.planner, self.refiner))
        if decoded >= {"vocal", "accompaniment"}:
            decoded.add("mix")
        return tuple(track for track in TRACKS if track in decoded)


@dataclass(frozen=True, kw_only=True)
class SungSong:
    """A generated song."""

    request: SongRequest
    seed: int
    """The song's own, from `song_seed`."""
    tracks: Mapping[str, np.ndarray]
    """int16 [C, T] by role; the mix is exactly the sum of vocal and accompaniment."""
    sample_rate: int
    codes: Codes
    """What was decoded, of one song."""
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
    batch: int = 4,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[SungSong]:
    """Sings requests, without writing anything. See `songkit.generate.generate` for the arguments and errors."""
    settings = settings or model.settings()
    if batch < 1:
        raise RequestError(f"batch is {batch}; expected at least 1 song. Give --batch 4, for example.")
    prompts = check_requests(model, requests, settings)
    for first in range(0, len(requests), batch):
        part = slice(first, first + batch)
        report = Reporter(progress, first + 1, len(requests[part]), len(requests))
        yield from _sing_batch(model, requests[part], prompts[part], seed, settings, report)


def check_requests(
    model: SongModel, requests: Sequence[SongRequest], settings: GenerateSettings
) -> list[dict[str, np.ndarray] | None]:
    """Checks that a model can sing requests, and reads their audio prompts.

    Returns:
        For each request the start of its audio prompt, float32 [C, T] by track as the codec wants it, or `None`.

    Raises:
        RequestError: If it cannot; the message names every fault of every request.
    """
    problems: list[str] = [f"{type(settings).__name__}: {problem}" for problem in settings.validate()]
    prompts: list[dict[str, np.ndarray] | None] = []
    for request in requests:
        prompt = None
        try:
            if request.pure_music and not model.conditioner.pure_music:
                raise RequestError(
                    "this model makes no pure music. Give it words, and take the accompaniment with --tracks."
                )
            model.conditioner.check(request)
            if request.prompt_audio is not None:
                prompt = _read_prompt(model.codec, request.prompt_audio, settings.prompt_seconds)
        except (RequestError, AudioError) as error:
            problems += [f"request '{request.id}': {line}" for line in str(error).splitlines()]
        prompts.append(prompt)
    if problems:
        raise RequestError("\n".join(problems))
    return prompts


def song_seed(seed: int, name: str) -> int:
    """Returns a song's own seed: it depends on the common seed and the song's id, not on other songs."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) >> 1


@torch.inference_mode()
def _sing_batch(
    model: SongModel,
    requests: Sequence[SongRequest],
    prompts: Sequence[dict[str, np.ndarray] | None],
    seed: int,
    settings: GenerateSettings,
    report: Reporter,
) -> list[SungSong]:
    seeds = [song_seed(seed, request.id) for request in requests]
    clock = Clock(len(requests))
    null = settings.guidance != 1
    encoded = [None if prompt is None else _encode_prompt(model.codec, prompt) for prompt in prompts]
    most = math.ceil(settings.max_seconds * model.frame_rate)
    least = math.ceil(settings.min_seconds * model.frame_rate)

    conditions = model.conditioner(requests, prompts=encoded, null=null, side="planner")
    plan = model.planner.generate(
        conditions,
        sampling=replace(_sampling(settings), min_frames=least),
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
            sampling=_sampling(settings, refiner=True),
            seeds=seeds,
            progress=report.stage("refine", int(codes.lengths.sum())),
        )
        clock.lap("refine")
    codes = codes.arrange(model.codec.layout.select(codes.layout.tracks))  # in the order that the codec knows
    decoded = _decode(model.codec, codes, seeds, report, [request.pure_music for request in requests])
    clock.lap("decode")

    songs = []
    for i, (request, audio) in enumerate(zip(requests, decoded, strict=True)):
        frames, planned = int(codes.lengths[i]), int(plan.codes.lengths[i])
        cursor = None if plan.cursor is None else plan.cursor[i, :frames].cpu().numpy()
        songs.append(
            SungSong(
                request=request,
                seed=seeds[i],
                tracks=_mixed(audio),
                sample_rate=model.codec.sample_rate,
                codes=Codes(codes.ids[i : i + 1, :, :frames], codes.lengths[i : i + 1], codes.layout),
                planned=Codes(plan.codes.ids[i : i + 1, :, :planned], plan.codes.lengths[i : i + 1], plan.codes.layout),
                cursor=cursor,
                alignment=None if cursor is None else model.conditioner.align(request, cursor, model.frame_rate),
                finished=bool(plan.finished[i]) if plan.finished is not None else frames < most,
                wall_seconds=clock.laps,
            )
        )
    return songs


def _decode(
    codec: Codec, codes: Codes, seeds: Sequence[int], report: Reporter, voiceless: Sequence[bool]
) -> list[dict[str, np.ndarray]]:
    """Decodes songs one by one, because long ones need the memory and padding would be decoded for nothing.

    Of a song without a voice only the accompaniment is decoded, and its vocal track is silent.
    """
    total = int(codes.lengths.sum())
    rate, passed = codes.layout.frame_rate, 0
    done = report.stage("decode", total)
    songs = []
    for i, seed in enumerate(seeds):
        # A song that ended before it began is a frame of silence: audio files without samples cannot be read.
        frames = int(codes.lengths[i])
        if frames == 0:
            shape = (codec.channels, math.ceil(codec.sample_rate / rate))
            songs.append({track: np.zeros(shape, np.float32) for track in codec.decodes(codes.layout)})
            continue
        one = Codes(codes.ids[i : i + 1, :, :frames], codes.lengths[i : i + 1], codes.layout)
        silent = voiceless[i] and {"vocal", "accompaniment"} <= set(one.layout.tracks)
        audio = codec.decode(one.select(["accompaniment"]) if silent else one, seeds=[seed])
        samples = int(audio.lengths[0])
        song = {name: track[0, :, :samples].float().cpu().numpy() for name, track in audio.tracks.items()}
        if silent:
            song["vocal"] = np.zeros_like(song["accompaniment"])
        songs.append(song)
        passed += frames
        done(passed)
    return songs


def _mixed(audio: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns a song's tracks into int16 with a mix that is exactly their sum, turned down together if it would clip."""
    broken = [name for name, samples in audio.items() if not np.isfinite(samples).all()]
    if broken:
        raise FloatingPointError(f"the codec decoded samples that are not numbers in {', '.join(broken)}")
    parts = {name: audio[name] for name in ("vocal", "accompaniment") if name in audio}
    summed = len(parts) == 2
    everything = {**audio, "mix": parts["vocal"] + parts["accompaniment"]} if summed else dict(audio)
    peak = max(float(np.abs(samples).max(initial=0.0)) for samples in everything.values())
    # 32766 leaves room for the rounding of two tracks in their sum.
    gain = min(32768.0, 32766.0 / peak) if peak > 0 else 32768.0
    out = {name: np.rint(samples * gain).astype(np.int16) for name, samples in audio.items()}
    if summed:
        out["mix"] = out["vocal"] + out["accompaniment"]
    return {name: out[name] for name in TRACKS if name in out}


def _read_prompt(codec: Codec, path: Path, seconds: float) -> dict[str, np.ndarray]:
    """Reads the start of a prompt: a mix, and its stems where they lie beside it as in a folder of songkit."""
    files = {"mix": path}
    stems = {track: path.with_name(f"{track}{path.suffix}") for track in ("vocal", "accompaniment")}
    if path.stem == "mix" and all(stem.is_file() for stem in stems.values()):
        files.update(stems)
    tracks = {}
    for track, file in files.items():
        tracks[track], _ = read_audio(file, codec.sample_rate, codec.channels, stop=seconds)
    return tracks


def _encode_prompt(codec: Codec, prompt: Mapping[str, np.ndarray]) -> Codes:
    samples = min(track.shape[1] for track in prompt.values())
    tracks = {name: torch.from_numpy(track[None, :, :samples]) for name, track in prompt.items()}
    return codec.encode(Audio(tracks, torch.tensor([samples]), codec.sample_rate))


def _sampling(settings: GenerateSettings, *, refiner: bool = False) -> Sampling:
    return Sampling(
        temperature=settings.refiner_temperature if refiner else settings.temperature,
        top_k=settings.refiner_top_k if refiner else settings.top_k,
        guidance=settings.guidance,
        repetition_window=settings.repetition_window,
        repetition_penalty=settings.repetition_penalty,
    )
