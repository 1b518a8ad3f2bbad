"""The laws of tasks. That the same seed gives the same losses is a law of all kinds."""

from __future__ import annotations

import torch
from torch import Tensor

from songkit.testing.checks import law, require
from songkit.testing.exercise import steps_of
from songkit.testing.subject import Subject

__all__: list[str] = []


@law("two-steps", "task")
def two_steps(subject: Subject) -> None:
    """Two steps of training give finite losses, and change what is trained and nothing else."""
    task = subject.build()
    trained = {id(parameter) for parameter in task.trainable()}
    require(bool(trained), "trainable() is empty")
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    for number, logged in enumerate(steps_of(task, 2)):
        for name, value in logged.items():
            require(
                value.numel() == 1, f"step {number} logs {name} of the shape {list(value.shape)}; expected a scalar"
            )
            require(bool(torch.isfinite(value)), f"step {number} logs {name} = {float(value)}")
    moved = {name: not torch.equal(before[name], p) for name, p in task.named_parameters()}
    changed = {name for name, p in task.named_parameters() if moved[name] and id(p) not in trained}
    require(not changed, f"{', '.join(sorted(changed))} changed, which trainable() does not name")
    require(any(moved.values()), "nothing that is trained has changed")


@law("batches", "task")
def batches(subject: Subject) -> None:
    """The batch of a step is a function of seed and step alone: asked for again, it is the same."""
    task = subject.build()
    first = [_tensors(task.batch(step)) for step in (0, 1)]
    for step in (1, 0):
        again = _tensors(task.batch(step))
        same = len(again) == len(first[step]) and all(map(torch.equal, again, first[step]))
        require(same, f"the batch of step {step} is another one at the second call")


@law("exports", "task")
def exports(subject: Subject) -> None:
    """`exports` names modules of the task, and among them all that is trained."""
    task = subject.build()
    named = task.exports()
    require(bool(named), "exports() is empty: the training would leave nothing")
    kept = {id(parameter) for module in named.values() for parameter in module.parameters()}
    own = {id(parameter) for parameter in task.parameters()}
    require(kept <= own, "exports() holds parameters that are not the task's")
    lost = [name for name, p in task.named_parameters() if id(p) in {id(t) for t in task.trainable()} - kept]
    require(not lost, f"{', '.join(lost[:3])} are trained and not exported")


def _tensors(batch: object) -> list[Tensor]:
    from songkit.tasks.batches import tensors_in

    return list(tensors_in(batch))
