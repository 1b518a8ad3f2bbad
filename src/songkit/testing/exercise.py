"""The ordinary use of a component of each kind, and what comes out of it as tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from songkit.interfaces import Sampling
from songkit.testing import samples
from songkit.testing.judging import judge, whole_songs
from songkit.testing.preferences import loss_of, preferences
from songkit.types import Conditions, Plan

__all__ = ["EXERCISES", "exercise", "steps_of"]

DRAWN = Sampling(temperature=1.0, top_k=0, guidance=1.5, repetition_window=0)
"""Ids that are really drawn, with guidance."""


def exercise(kind: str, built: Any, device: str = "cpu") -> dict[str, Tensor]:
    """Uses a component as the program would, and returns all that came out by name.

    Kinds that have no interface yet give nothing.
    """
    use = EXERCISES.get(kind)
    return {} if use is None else use(built, device)


def _tokenizer(built: Any, device: str) -> dict[str, Tensor]:
    with torch.no_grad():
        codes = built.encode(on(samples.audio(built), device))
    return {"ids": codes.ids, "lengths": codes.lengths}


def _codec(built: Any, device: str) -> dict[str, Tensor]:
    with torch.no_grad():
        codes = built.encode(on(samples.audio(built), device))
        codes = codes.select(built.decoded_tracks)
        audio = built.decode(codes, seeds=[1, 2])
    return {"ids": codes.ids, "lengths": codes.lengths, "samples": audio.lengths, **audio.tracks}


def _conditioner(built: Any, device: str) -> dict[str, Tensor]:
    requests = samples.requests(2)
    for request in requests:
        built.check(request)
    with torch.no_grad():
        return _tensors(built(requests, null=True))


def _backbone(built: Any, device: str) -> dict[str, Tensor]:
    made = samples.conditions(built.width, (7, 4))
    with torch.no_grad():
        whole = built(made.prefix.to(device), made.mask.to(device))
        first, cache = built.start(made.prefix.to(device), made.mask.to(device), 2)
        step = built.step(made.prefix[:, -1].to(device), [cache])
    return {"whole": whole, "first": first, "step": step}


def _planner(built: Any, device: str) -> dict[str, Tensor]:
    codes = on(samples.codes(built.layout), device)
    made = on(samples.conditions(built.width, frames=12, null=True), device)
    with torch.no_grad():
        taught = built(codes, made)
        drawn = built.generate(made, sampling=DRAWN, max_frames=8, seeds=[1, 2])
    return {**_tensors(taught, "taught "), **_tensors(drawn, "drawn ")}


def _refiner(built: Any, device: str) -> dict[str, Tensor]:
    width = getattr(built, "width", built.source_width)
    made = samples.conditions(width, frames=12, null=True)
    plan = on(samples.plan(built.source, built.source_pattern, built.source_width, made), device)
    made, codes = on(made, device), on(samples.codes(built.layout), device)
    with torch.no_grad():
        taught = built(plan, codes, made)
        drawn = built.generate(plan, made, sampling=DRAWN, seeds=[1, 2])
    return {**_tensors(taught, "taught "), "drawn": drawn.ids}


def _metric(built: Any, device: str) -> dict[str, Tensor]:
    judge(built, range(2))
    return dict(built.compute())


def _objective(built: Any, device: str) -> dict[str, Tensor]:
    found = loss_of(built, preferences(ahead=0.02))
    rewards = {"chosen rewards": found.chosen_rewards, "rejected rewards": found.rejected_rewards}
    return {"losses": found.losses.detach(), **rewards, **found.statistics}


def _reward(built: Any, device: str) -> dict[str, Tensor]:
    audio, songs = whole_songs([0, 1])
    with torch.no_grad():
        return {"scores": built.score(on(audio, device), songs)}


def _source(built: Any, device: str) -> dict[str, Tensor]:
    song = built[0]
    return {name: torch.from_numpy(track.read().copy()) for name, track in song.tracks.items()}


def _task(built: Any, device: str) -> dict[str, Tensor]:
    return {f"step {i} {name}": value for i, losses in enumerate(steps_of(built, 2)) for name, value in losses.items()}


EXERCISES: Mapping[str, Callable[[Any, str], dict[str, Tensor]]] = {
    "backbone": _backbone,
    "tokenizer": _tokenizer,
    "codec": _codec,
    "conditioner": _conditioner,
    "planner": _planner,
    "refiner": _refiner,
    "metric": _metric,
    "objective": _objective,
    "reward": _reward,
    "source": _source,
    "task": _task,
}


def steps_of(task: Any, steps: int) -> list[dict[str, Tensor]]:
    """Trains a task for some steps with its own optimizers; returns what each step logs.

    Lightning's trainer is left out: it prints, seeds and takes signals, and a step is the task's own doing.
    """
    made = task.configure_optimizers()
    task.optimizers = lambda: made if len(made) > 1 else made[0]
    task.manual_backward = lambda loss: loss.backward()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        task.on_fit_start()
        task.on_train_start()
        batches = itertools.islice(iter(task.train_dataloader()), steps)
        return [task.training_step(numbered, i) for i, numbered in enumerate(batches)]


def on(value: Any, device: str) -> Any:
    """Returns codes, audio, conditions or a plan on a device."""
    if device == "cpu":
        return value
    changes = {name: _to(item, device) for name, item in vars(value).items()}
    return type(value)(**changes)


def _to(item: Any, device: str) -> Any:
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, dict):
        return {name: _to(part, device) for name, part in item.items()}
    return on(item, device) if hasattr(item, "lengths") or isinstance(item, Conditions | Plan) else item


def _tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a dataclass, and of those in it, by name."""
    found: dict[str, Tensor] = {}
    for name, item in vars(value).items():
        if isinstance(item, Tensor):
            found[prefix + name] = item
        elif hasattr(item, "__dataclass_fields__"):
            found |= _tensors(item, f"{prefix}{name}.")
    return found
