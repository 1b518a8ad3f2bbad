"""What has to hold for components of every kind."""

from __future__ import annotations

import functools
import inspect
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from songkit.checkpoint import load_weights, save_weights
from songkit.interfaces import (
    Backbone,
    Codec,
    Conditioner,
    DataSource,
    Planner,
    PreferenceObjective,
    RewardModel,
    Tokenizer,
    TrackRefiner,
)
from songkit.plugin import KINDS
from songkit.registry import LOCAL
from songkit.testing.checks import law, require
from songkit.testing.declaration import declaration_problems, heavy_imports
from songkit.testing.exercise import exercise
from songkit.testing.subject import Subject
from songkit.types import TokenLayout

__all__: list[str] = []

BUILD_SECONDS = 5.0
"""Longest time for building an example on a CPU."""

MODULES = ("backbone", "tokenizer", "codec", "conditioner", "planner", "refiner")
"""Kinds whose components are torch modules with weights."""


@law("declaration", builds=False)
def declaration(subject: Subject) -> None:
    """The component is declared as recipes, listings and documentation need it."""
    problems = declaration_problems(subject.component)
    require(not problems, "; ".join(problems))


@law("light-import", builds=False)
def light_import(subject: Subject) -> None:
    """Importing what declares the component, and its config, brings in neither torch nor any other slow package."""
    modules = [point.module for point in entry_points(group="songkit") if point.name == subject.entry.plugin.name]
    config = subject.component.config.__module__
    if not modules and (subject.entry.plugin.name == LOCAL or config.startswith("songkit_local_")):
        return  # a local file holds everything, and is imported only by recipes that name it
    for module in dict.fromkeys([*modules, config]):
        heavy = _heavy_imports(module)
        require(not heavy, f"importing {module} imports {', '.join(heavy)}: import it inside the factory's module only")


@law("factory")
def factory(subject: Subject) -> None:
    """The factory can be imported, and takes the config by position and the parts by keyword."""
    made = subject.factory()
    require(callable(made), f"{subject.component.factory} is a {type(made).__name__} and cannot be called")
    try:
        parts = dict.fromkeys(subject.parts())
        signature = inspect.signature(made)
        signature.bind_partial(subject.example, **parts) if subject.kind == "task" else signature.bind(
            subject.example, **parts
        )
    except TypeError as error:
        called = ", ".join(["config", *(f"{name}=..." for name in subject.parts())])
        require(False, f"{subject.component.factory} cannot be called as ({called}): {error}")


@law("build")
def build(subject: Subject) -> None:
    """The example is built in less than five seconds, on the CPU."""
    subject.factory()
    built, seconds = None, BUILD_SECONDS
    for _ in range(2):  # a busy machine is no fault of the component
        start = time.perf_counter()
        built = subject.build()
        seconds = min(seconds, time.perf_counter() - start)
        if seconds < BUILD_SECONDS:
            break
    require(seconds < BUILD_SECONDS, f"it took {BUILD_SECONDS:g} s or longer, twice: give a smaller example")
    devices = {str(tensor.device) for tensor in _state(built)} - {"cpu"}
    require(not devices, f"parts of it are on {', '.join(devices)}; the program moves what it has built")


@law("interface")
def interface(subject: Subject) -> None:
    """What is built is of its kind's interface, with the attributes that the interface names."""
    built = subject.build()
    expected, attributes = _interfaces().get(subject.kind, (object, {}))
    require(
        isinstance(built, expected), f"a {type(built).__name__} was built; a {subject.kind} is a {expected.__name__}"
    )
    for name, type_ in attributes.items():
        value = getattr(built, name, None)
        require(isinstance(value, type_), f"{name} is {value!r}, which is no {type_.__name__}")


@law("device", *MODULES, "reward")
def device(subject: Subject) -> None:
    """Moving the component moves all of its tensors; where there is a GPU, it works there as well."""
    built = subject.build()
    if not isinstance(built, nn.Module):
        return  # a reward may be a rule, without weights
    exercise(subject.kind, built)  # what is kept of a first use has to move as well
    target = "cuda" if torch.cuda.is_available() else "meta"
    built.to(target)
    for name, module in built.named_modules():
        for attribute, value in [*vars(module).items(), *module.named_buffers(recurse=False)]:
            if isinstance(value, Tensor):
                path = f"{name}.{attribute}".lstrip(".")
                where = value.device.type
                require(where == target, f"{path} stays on the {where}: make it a buffer, not a plain attribute")
    if target == "cuda":
        for name, value in exercise(subject.kind, built, target).items():
            require(value.device.type == target, f"{name} comes out on the {value.device.type}")


@law("round-trip", *MODULES, "reward")
def round_trip(subject: Subject) -> None:
    """Weights that are saved and loaded into a component with other weights make it the same."""
    saved, loaded = subject.build(seed=0), subject.build(seed=1)
    if not isinstance(saved, nn.Module):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, saved, {"component": subject.entry.id, "revision": subject.component.revision})
        load_weights(path, loaded, component=subject.entry.id, revision=subject.component.revision)
    _compare(exercise(subject.kind, saved), exercise(subject.kind, loaded), "after saving and loading")


@law("same-seed", *(kind for kind in KINDS if kind != "source"))
def same_seed(subject: Subject) -> None:
    """The same seeds give the same output, in another component of the same config and in a second call."""
    built = subject.build()
    first = exercise(subject.kind, built)
    _compare(first, exercise(subject.kind, subject.build()), "in another component of the same config and seed")
    if subject.kind in (*MODULES, "reward"):
        _compare(first, exercise(subject.kind, built), "in the second call")


@law("random-state")
def random_state(subject: Subject) -> None:
    """Building and using the component leaves the random state of torch, numpy and python as it was."""
    _unchanged(subject, "torch's random state", "numpy's random state", "python's random state")


@law("default-dtype")
def default_dtype(subject: Subject) -> None:
    """Building and using the component leaves torch's default dtype and its gradient mode as they were."""
    _unchanged(subject, "default dtype", "gradients")


@law("threads")
def threads(subject: Subject) -> None:
    """Building and using the component leaves torch's number of threads as it was."""
    _unchanged(subject, "threads")


@law("environment")
def environment(subject: Subject) -> None:
    """Building and using the component leaves the environment variables and the working directory as they were."""
    _unchanged(subject, "environment", "working directory")


@law("network")
def network(subject: Subject) -> None:
    """Building and using the component opens no connection."""
    _, attempts = subject.observed
    require(not attempts, f"it tried to reach {', '.join(dict.fromkeys(attempts))}: take files as options instead")


_heavy_imports = functools.cache(heavy_imports)  # a process for each module, not for each component


def _unchanged(subject: Subject, *names: str) -> None:
    changed, _ = subject.observed
    for name in names:
        require(name not in changed, f"{name} changed: it was {_short(changed.get(name))}")


def _short(change: tuple[str, str] | None) -> str:
    before, after = change or ("", "")
    return f"{before} and is {after}" if len(before) < 80 else "another one before"


def _compare(one: dict[str, Tensor], other: dict[str, Tensor], when: str) -> None:
    require(set(one) == set(other), f"{sorted(set(one) ^ set(other))} is there only once {when}")
    for name, value in one.items():
        same = value.shape == other[name].shape and torch.equal(
            value.cpu().nan_to_num(), other[name].cpu().nan_to_num()
        )
        require(same, f"'{name}' is not the same {when}")


def _state(built: Any) -> list[Tensor]:
    return [*built.parameters(), *built.buffers()] if isinstance(built, nn.Module) else []


def _interfaces() -> dict[str, tuple[type, dict[str, type]]]:
    """Returns the interface of each kind that has one, with the types of its attributes."""
    from songkit.interfaces.metric import MetricInfo, SongMetric
    from songkit.tasks.base import Task

    heard: dict[str, type] = {"layout": TokenLayout, "sample_rate": int, "channels": int, "tracks": tuple}
    return {
        "backbone": (Backbone, {"width": int}),
        "tokenizer": (Tokenizer, heard),
        "codec": (Codec, {**heard, "decoded_tracks": tuple}),
        "conditioner": (Conditioner, {"width": int}),
        "planner": (Planner, {"layout": TokenLayout, "width": int}),
        "refiner": (TrackRefiner, {"layout": TokenLayout, "source": TokenLayout, "source_width": int}),
        "metric": (SongMetric, {"info": MetricInfo}),
        "objective": (PreferenceObjective, {"reference_free": bool}),
        "reward": (RewardModel, {"aspects": tuple}),
        "source": (DataSource, {}),
        "task": (Task, {}),
    }
