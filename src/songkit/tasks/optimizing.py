"""What changes the weights: optimizers, their learning rate, the guard before a step, the moving average."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from songkit.errors import SongkitError
from songkit.settings import OptimizerSettings
from songkit.tasks.processes import alike, local

__all__ = ["MovingAverage", "adamw", "learning_rate", "refuse_divergence"]


def adamw(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, state: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """Returns AdamW over the parameters that need gradients; matrices alone decay.

    Args:
        parameters: Shared out among processes or not.
        settings: Its options.
        state: Its whole state in a training that goes on.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        fused=True,
    )
    if state is not None:
        optimizer.load_state_dict(_shared_out(state, optimizer))
    return optimizer


def learning_rate(settings: OptimizerSettings, step: int, progress: float) -> float:
    """Returns the learning rate of a step, counted from 0, when `progress`, from 0 to 1, of the training is done."""
    rise = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    left = (1.0 - progress) / settings.decay_fraction if settings.decay_fraction else 1.0
    return settings.lr * rise * (settings.min_lr_ratio + (1.0 - settings.min_lr_ratio) * min(1.0, left))


def refuse_divergence(loss: Tensor, norm: Tensor, limit: float | None, step: int, named: Callable[[], str]) -> None:
    """Stops a training before a step that would spoil its weights.

    Args:
        loss: Of the step.
        norm: Of its gradient, before clipping.
        limit: The longest gradient; None is any finite one.
        step: For the message.
        named: Tells what the step was done on, for the message.

    Raises:
        SongkitError: If the loss or the norm is not finite, or the norm is above the limit.
    """
    most = limit or float("inf")
    if torch.isfinite(loss) & (norm <= most):  # a NaN is not `<=`; one question, as a GPU is waited for
        return
    expected = "finite numbers are" if math.isinf(most) else f"a norm of {most:g} at most (gradient_limit) is"
    raise SongkitError(
        f"training diverged in step {step}: the loss is {float(loss.detach()):.4g} and the norm of its "
        f"gradient {float(norm):.4g}; {expected} expected. Look at that batch ({named()}), lower optimizer.lr or "
        "trainer.gradient_clip, or set trainer.precision to 32, then run the same command again ('songkit train' with "
        "--resume)."
    )


class MovingAverage:
    """The exponential moving average of some parameters, in float32.

    Attributes:
        values: The averages by the parameters' names.
    """

    def __init__(self, decay: float, named: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
        """Begins with the parameters as they are, or goes on with the saved whole averages of a training."""
        self._decay = decay
        self._parameters = list(named.values())
        self.values = {
            name: alike(saved.get(name, p.detach()), p).to(p.device, torch.float32, copy=True)
            for name, p in named.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after a step, counted from 0."""
        # Early on a long memory would only remember the random start.
        decay = min(self._decay, 1 - 1 / (step + 10))
        current = [local(parameter).float() for parameter in self._parameters]
        torch._foreach_lerp_([local(average) for average in self.values.values()], current, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averages in the place of the parameters for the duration of a `with` block."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._put(self.values.values())
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Iterable[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _shared_out(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns this process's part of an optimizer's state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {
        number: {name: alike(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": kept}
