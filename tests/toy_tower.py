"""A local plugin with a task that trains a small tower: dropout, noise, frozen and unused weights, a loss by tokens."""

from dataclasses import dataclass

import torch
from torch import nn

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.plugin import Component, hookimpl
from songkit.tasks.base import Task


@dataclass(kw_only=True)
class TowerConfig:
    """Ids to be guessed."""

    drop: float = 0.2
    """Dropout of the tower."""
    nan_step: int | None = None
    """Step in which the loss of the last batch is not finite."""


class TowerTask(Task):
    unit = "ids"

    def __init__(self, config, *, settings, optimizer, seed):
        super().__init__(settings=settings, optimizer=optimizer, seed=seed)
        self.config = config
        self.table = nn.Embedding(11, 16)
        self.tower = Transformer(TransformerConfig(dim=16, layers=2, heads=2, feed_forward=32, dropout=config.drop))
        self.head = nn.Linear(16, 11)
        self.unused = nn.Linear(3, 3)
        self.fixed = nn.Linear(16, 16)
        self.freeze(self.fixed)

    def batch(self, step):
        rng = self.rng(step)
        ids = torch.from_numpy(rng.integers(11, size=(3, 9)))
        ids[:, 1::2] = ids[:, :-1:2]  # every other id can be learnt
        return ids, torch.from_numpy(rng.integers(3, 10, size=3)), torch.tensor(step)

    def items(self, batch):
        return float(batch[1].sum())

    def losses(self, batch, generator):
        ids, lengths, number = batch
        x = self.table(ids) + 0.1 * torch.randn((*ids.shape, 16), generator=generator)
        counted = torch.arange(ids.shape[1]) < lengths[:, None]
        states = self.tower(x + self.fixed(x), torch.ones_like(counted))
        nats = nn.functional.cross_entropy(
            self.head(states[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (nats.view(len(ids), -1) * counted[:, 1:]).sum() / counted[:, 1:].sum()
        if self.step == self.config.nan_step and int(number) == (self.step + 1) * self.settings.accumulate - 1:
            loss = loss * float("nan")
        return {"nats": loss, "_drawn": torch.rand((), generator=generator)}

    def validate_step(self, step):
        losses = [self.losses(self.batch(10**6 + i), torch.Generator().manual_seed(i)) for i in range(2)]
        return {"nats": sum(float(loss["nats"]) for loss in losses) / 2}

    def exports(self):
        return {"task.tower": self.tower, "task.head": self.head}


@hookimpl
def songkit_components():
    return [
        Component(
            kind="task", name="tower", config=TowerConfig, factory=f"{__name__}:TowerTask", example=TowerConfig()
        ),
    ]
