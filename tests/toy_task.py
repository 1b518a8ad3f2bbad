"""A local plugin with the smallest task that has dropout, noise, a buffer that training changes, and a held module."""

import os
import time
from dataclasses import dataclass

import torch
from torch import nn

from songkit.plugin import Component, hookimpl
from songkit.tasks.base import Task


@dataclass(kw_only=True)
class ToyConfig:
    """A line to fit."""

    width: int = 8
    """Hidden channels."""
    nan_step: int | None = None
    """Step of which the loss is not finite."""
    explode_step: int | None = None
    """Step of which the loss, and so the gradient, is a million times as large."""
    kill_step: int | None = None
    """Step in which the process kills itself, once, as a crash would."""
    seconds: float = 0.0
    """How long a step takes at least."""
    drop: float = 0.5
    """Dropout of the net."""
    norm: bool = True
    """Whether the net has a layer that looks at the whole batch."""


class ToyTask(Task):
    unit = "rows"

    def __init__(self, config, *, settings, optimizer, seed):
        super().__init__(settings=settings, optimizer=optimizer, seed=seed)
        self.config = config
        self.net = nn.Sequential(
            nn.Linear(4, config.width),
            nn.BatchNorm1d(config.width) if config.norm else nn.Identity(),
            nn.Dropout(config.drop),
            nn.Linear(config.width, 1),
        )
        self.fixed = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5))
        self.freeze(self.fixed)

    def batch(self, step):
        return torch.from_numpy(self.rng(step).standard_normal((8, 4)).astype("float32"))

    def losses(self, batch, generator):
        if self.step == self.config.kill_step and not os.environ.get("TOY_SPARED"):
            os.kill(os.getpid(), 9)
        time.sleep(self.config.seconds)
        out = self.net(batch + 0.1 * torch.randn(batch.shape, generator=generator))
        factor = {self.config.explode_step: 1e6, self.config.nan_step: float("nan")}.get(self.step, 1.0)
        return {"mse": factor * (out - self.fixed(batch)).square().mean(), "_size": out.abs().mean()}

    def named(self, batch):
        return f"rows {len(batch)}"

    def validate_step(self, step):
        assert not self.net.training
        batch = self.batch(10**6)
        return {"mse": float((self.net(batch) - self.fixed(batch)).square().mean())}

    def exports(self):
        return {"task.net": self.net}


@hookimpl
def songkit_components():
    return [
        Component(kind="task", name="toy", config=ToyConfig, factory=f"{__name__}:ToyTask", example=ToyConfig()),
    ]
