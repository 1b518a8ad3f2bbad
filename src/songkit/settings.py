"""The plain sections of a recipe: how to train, optimise, prepare and generate. No component reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from songkit.preference_settings import MergeSettings, MineSettings, SemiOnlineSettings
from songkit.types import TRACKS

__all__ = ["DEVICE_NAMES", "SECTIONS", "GenerateSettings", "OptimizerSettings", "PrepareSettings", "TrainerSettings"]

DEVICE_NAMES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
"""What a device may be called; `songkit.devices` finds it."""


@dataclass(kw_only=True)
class TrainerSettings:
    """How long, on what and how often."""

    max_steps: int | None = 10_000
    """Steps of the whole run; None where only `max_minutes` limits it. The nearer limit ends the run."""
    max_minutes: float | None = None
    """Wall minutes of the whole run, over all parts of an interrupted one; the decay of the learning rate ends
    there. None is no limit."""
    batch_size: int = 8
    """Examples in a batch."""
    validate_every: int = 500
    """Steps between validations; 0 is never."""
    validate_batches: int = 8
    """Batches of a validation."""
    checkpoint_every: int = 500
    """Steps between checkpoints from which training can go on; 0 is only by `checkpoint_minutes`. One is written at
    the end and on Ctrl-C and SIGTERM in any case."""
    checkpoint_minutes: float = 5.0
    """Longest wall time between checkpoints."""
    log_every: int = 20
    """Steps between rows of metrics.jsonl; the last step has one in any case."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's choice."""
    workers: int = 0
    """Processes that make batches ahead of time; 0 makes them in the training process. The batches are the same."""
    precision: Literal["32", "bf16"] = "32"
    """Of matrix products: float32, or bfloat16 by autocast."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What to train on; `auto` is a GPU where there is one."""
    accumulate: int = 1
    """Batches of `batch_size` examples whose losses are averaged in one step: more examples in the same memory, or on
    several devices."""
    devices: int = 1
    """Devices of this machine, each with a process of its own, among which the `accumulate` batches of a step are dealt
    out. What is trained does not depend on their number, but for the order in which gradients are added up."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """What several devices hold: `ddp` all weights on each; `fsdp` a part of all weights, gradients and optimizer
    states on each (FSDP2); `auto` is ddp."""
    activation_checkpointing: bool = False
    """Whether layers of backbones are computed again in the backward pass instead of kept: less memory, about a third
    more work, the same numbers."""
    compile: bool = False
    """Whether layers of backbones are compiled by `torch.compile`. The first steps are slow, the numbers are rounded in
    other places, and dropout draws others."""
    gradient_clip: float | None = 1.0
    """Largest norm of the gradient; None is no limit."""
    gradient_limit: float | None = 1e4
    """Norm of the gradient, before clipping, above which the training stops and names the batch, as it does where the
    loss is not finite; None is no limit. The norms of the miniature's trainings stay below 5."""
    freeze: tuple[str, ...] = ()
    """Roles that stay as they are, or parts of them, such as `planner` or `planner.tower`."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights that is exported, such as 0.999; None exports the last weights."""
    weights_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Storage type of the exported weights."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _not_below(self, 1, "batch_size", "log_every", "accumulate", "devices")
        problems += _not_below(self, 0, "validate_every", "validate_batches", "checkpoint_every", "workers")
        problems += [
            f"{name} is {getattr(self, name)}; expected more than 0, or null for no limit"
            for name in ("max_minutes", "gradient_clip", "gradient_limit")
            if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        problems += [
            f"{name} is {getattr(self, name)}; expected at least 1, or null"
            for name in ("max_steps", "threads")
            if getattr(self, name) is not None and not getattr(self, name) >= 1
        ]
        if self.max_steps is None and self.max_minutes is None:
            problems.append("max_steps and max_minutes are both null; expected at least one limit")
        if self.devices >= 1 and self.accumulate % self.devices:
            problems.append(
                f"accumulate is {self.accumulate}; expected a multiple of devices, {self.devices}, which share these "
                "batches (and batch_size smaller by as much, for as many examples in a step as before)"
            )
        if self.strategy == "fsdp" and self.devices == 1:
            problems.append("strategy is fsdp, which shares weights among devices; expected devices of more than 1")
        if not self.checkpoint_minutes > 0:
            problems.append(f"checkpoint_minutes is {self.checkpoint_minutes}; expected more than 0")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            problems.append(f"ema_decay is {self.ema_decay}; expected between 0 and 1, or null for none")
        return problems


@dataclass(kw_only=True)
class OptimizerSettings:
    """AdamW with warm-up and a final decay."""

    lr: float = 3e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running averages of gradient and squared gradient."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; vectors (biases, gains) have none."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from 0."""
    decay_fraction: float = 0.2
    """Share of the run, at its end, in which the learning rate falls to `min_lr_ratio` of its highest."""
    min_lr_ratio: float = 0.0
    """Last learning rate as a share of the highest."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _not_below(self, 0, "weight_decay", "warmup_steps")
        if not self.lr > 0:
            problems.append(f"lr is {self.lr}; expected more than 0")
        if not self.eps > 0:
            problems.append(f"eps is {self.eps}; expected more than 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas are {self.betas}; expected both at least 0 and below 1")
        problems += [
            f"{name} is {getattr(self, name)}; expected a share between 0 and 1"
            for name in ("decay_fraction", "min_lr_ratio")
            if not 0 <= getattr(self, name) <= 1
        ]
        return problems


@dataclass(kw_only=True)
class PrepareSettings:
    """What `songkit prepare` writes for each song of the source."""

    sample_rate: int = 48_000
    """Samples per second of the audio that is written."""
    channels: int = 1
    """1 or 2."""
    tracks: tuple[str, ...] = ("vocal", "accompaniment")
    """Which tracks are written; the mix is their sum and rarely needed."""
    workers: int = 1
    """Processes that make or read songs, and encode them where there is no GPU; the result does not depend on it."""
    audio: bool = True
    """Whether audio is written; false where codes are added to a prepared set."""
    codes: bool = False
    """Whether the codes of the recipe's tokenizer, or else codec, are written."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _not_below(self, 1, "sample_rate", "workers")
        if self.channels not in (1, 2):
            problems.append(f"channels is {self.channels}; expected 1 or 2")
        unknown = [track for track in self.tracks if track not in ("mix", "vocal", "accompaniment")]
        if unknown or not self.tracks:
            problems.append(f"tracks is {list(self.tracks)}; expected one or more of mix, vocal, accompaniment")
        return problems


@dataclass(kw_only=True)
class GenerateSettings:
    """How a model is sampled unless `songkit generate` is told otherwise."""

    temperature: float = 0.8
    """Divides the logits; 0 takes the most likely id."""
    top_k: int = 250
    """Ids that may be drawn at each step; 0 means all."""
    guidance: float = 1.5
    """Classifier-free guidance coefficient; 1 is none."""
    repetition_window: int = 50
    """Frames in which an id that was drawn before is made less likely; 0 means none."""
    repetition_penalty: float = 1.0
    """Divisor of the logits of ids within the window; 1 is none."""
    refiner_temperature: float = 0.0
    """The same as `temperature` for the track refiner; LeVo takes its most likely ids."""
    refiner_top_k: int = 250
    """The same as `top_k` for the track refiner."""
    track_temperature: dict[str, float] = field(default_factory=dict)
    """Temperatures of single tracks, in place of that of the planner or refiner that draws them: `{vocal: 0.6}`."""
    track_top_k: dict[str, int] = field(default_factory=dict)
    """The same of `top_k`."""
    max_seconds: float = 60.0
    """Where a song that does not end by itself is cut."""
    min_seconds: float = 0.0
    """Before which a song does not end by itself."""
    last_seconds: float = 0.0
    """How long a song stays on the last token of its lyrics, at least, before it ends by itself, where the planner
    follows the lyrics: a planner that has hardly arrived may take what came before for the end."""
    prompt_seconds: float = 10.0
    """How much of the start of an audio prompt is used."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """Of the weights of planner and refiner while decoding: float32, bfloat16 or whole numbers of 8 bits. Where memory
    limits the speed, as with large models on a CPU, bf16 is twice as fast as fp32, and int8 faster still, most of all
    in long songs: it keeps keys and values in 8 bits, too. Below fp32 a codec multiplies in bfloat16 as well where that
    is not heard, as the miniature's."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's choice, all cores. On a quiet machine that is fastest for small models,
    too: with two threads a step of towers of 2 to 90 MB took .5 to .8 of the time, the miniature's codec .6 to .85. On
    a busy one a thread that waits for its core holds up all others, and 1 is better."""
    device: str = "cpu"
    """Where songs are sung unless a command's `--device` says otherwise: `cpu`, `cuda` (the first GPU), `cuda:N`,
    `mps`, or `auto`, the fastest that is there. Mined songs are judged on the CPU in any case."""

    def validate(self) -> list[str]:
        """Returns every problem with the values."""
        problems = _not_below(
            self,
            0,
            *("temperature", "top_k", "guidance", "repetition_window", "refiner_temperature", "refiner_top_k"),
            "last_seconds",
        )
        if not 0 <= self.min_seconds <= self.max_seconds:
            problems.append(f"min_seconds is {self.min_seconds}; expected at least 0 and at most max_seconds")
        if not self.repetition_penalty >= 1:
            problems.append(f"repetition_penalty is {self.repetition_penalty}; expected 1 or more")
        for name, most in (("max_seconds", 600), ("prompt_seconds", 60)):
            if not 0 < getattr(self, name) <= most:
                problems.append(f"{name} is {getattr(self, name)}; expected more than 0 and at most {most}")
        if self.precision not in ("fp32", "bf16", "int8"):
            problems.append(f"precision is '{self.precision}'; expected fp32, bf16 or int8")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            problems.append(f"threads is {self.threads}; expected 1 to 1024, or null for torch's choice")
        if not DEVICE_NAMES.fullmatch(self.device):
            problems.append(f"device is '{self.device}'; expected auto, cpu, cuda, cuda:N (the GPU N) or mps")
        for name in ("track_temperature", "track_top_k"):
            for track, value in getattr(self, name).items():
                if track not in TRACKS or not 0 <= value < float("inf"):
                    problems.append(f"{name} is {value} for '{track}'; expected 0 or more for {' or '.join(TRACKS)}")
        for name in ("temperature", "guidance", "repetition_penalty", "refiner_temperature"):
            if getattr(self, name) == float("inf"):
                problems.append(f"{name} is infinite; expected a number")
        return problems


SECTIONS = {
    "trainer": TrainerSettings,
    "optimizer": OptimizerSettings,
    "prepare": PrepareSettings,
    "generate": GenerateSettings,
    "mine": MineSettings,
    "merge": MergeSettings,
    "semi_online": SemiOnlineSettings,
}
"""The sections by their key in a recipe."""


def _not_below(settings: object, least: int, *names: str) -> list[str]:
    values = {name: getattr(settings, name) for name in names}
    return [f"{name} is {value}; expected at least {least}" for name, value in values.items() if not value >= least]
