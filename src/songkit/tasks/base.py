"""The training loop that every task shares: optimizer, schedule, moving average, state.

A task makes its batches from `(seed, step)` and draws its noise from a generator seeded by `(seed, step)`. A training
that goes on after an interruption therefore does exactly what it would have done, without any recorded position in
the data and without any recorded state of a random number generator. So does one on another number of devices: the
batches of a step, `trainer.accumulate` of them, are dealt out among the processes, and everything that is logged or
descended is the mean over all of them (`songkit.tasks.processes`).
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from songkit.errors import RecipeError
from songkit.processes import gathered, place
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.tasks.batches import Batches, leave_signals_to_the_training, tensors_in
from songkit.tasks.optimizing import MovingAverage, adamw, learning_rate, refuse_divergence
from songkit.tasks.processes import blocks, forget_whole, make_lean, share_out, whole

__all__ = ["Task"]


class Task(lightning.LightningModule, ABC):
    """What is trained, on which batches, with which losses.

    A subclass is built as `Subclass(config, settings=..., optimizer=..., seed=..., **roles)` with the built components
    of the recipe's roles, and writes `batch`, `losses` and `exports`; the other methods have working defaults.
    Tasks that train against an adversary override `optimized` and `update`, and can neither accumulate gradients nor
    use several devices.
    """

    unit: str = "items"
    """What `items` counts, in the plural (`seconds of audio`, `tokens`)."""
    reads_weights: tuple[str, ...] = ("losses", "validate_step")
    """Methods that read weights. Where devices have a part of the weights each (FSDP2), they are whole in these."""

    def __init__(self, *, settings: TrainerSettings, optimizer: OptimizerSettings, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        self.optimizer_settings = optimizer
        self.seed = seed
        self.step = 0
        """Number of finished steps."""
        self.elapsed = 0.0
        """Seconds of training until the end of the last step, over all the parts of an interrupted training."""
        self.consumed = 0.0
        """What the finished steps used, in `unit`."""
        self._frozen: list[nn.Module] = []
        self._average: MovingAverage | None = None
        self._restored: Mapping[str, Any] | None = None
        self._configured = False
        self._started = 0.0
        self._batches: list[Any] = []  # of the step that is being done

    @abstractmethod
    def batch(self, step: int) -> Any:
        """Makes the batch of a step: tensors in a tuple, mapping or dataclass, on the CPU.

        A pure function of `self.seed` and `step` (`self.rng(step)`), which may run in another process: it neither
        reads the weights being trained nor changes the task. Where gradients are accumulated, steps are counted in
        batches here: `trainer.accumulate` of them make one step of the training.
        """

    @abstractmethod
    def losses(self, batch: Any, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Returns the losses of a batch, already weighted; scalars.

        Their sum is minimised, except for names that begin with `_`, which are only logged. Runs under autocast when
        the precision is bf16. Dropout is reproducible as it is; all other noise is drawn from `generator`, which
        lives on the task's device.
        """

    @abstractmethod
    def exports(self) -> Mapping[str, nn.Module]:
        """Returns the modules whose weights are the result, by role."""

    def trainable(self) -> Iterable[nn.Parameter]:
        """Returns the parameters that are trained and averaged."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def optimized(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Returns the parameters of every optimizer, by a name for `descend`."""
        return {"main": self.trainable()}

    def update(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Changes the weights once and returns what to log; a task with one optimizer need not override it."""
        total, losses = self._total(batch, generator)
        return {"loss": total.detach(), **losses, "_grad_norm": self.descend(total)}

    def named(self, batch: Any) -> str:
        """Returns what a batch holds as a person would look it up, for messages; empty if there is nothing to say."""
        return ""

    def validate_step(self, step: int) -> dict[str, float]:
        """Returns numbers on held-out data; called without gradients, in eval mode, with the averaged weights."""
        return {}

    def items(self, batch: Any) -> float:
        """Returns how much a batch holds, in `unit`; the length of its first tensor's first axis by default."""
        return float(next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 1))

    def rng(self, *key: int) -> np.random.Generator:
        """Returns a generator for numpy that depends on the seed and the key alone."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, *key))))

    def freeze(self, module: nn.Module | None = None) -> Task:
        """Keeps a module as it is: no gradients, and always in eval mode; the whole task without an argument."""
        module = self if module is None else module
        module.requires_grad_(requires_grad=False).eval()
        self._frozen.append(module)
        return self

    def autocast(self) -> torch.autocast:
        """Returns the context in which losses are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    def descend(self, loss: Tensor, name: str = "main") -> Tensor:
        """Takes one step of the named optimizer down a loss.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            SongkitError: If the loss or the gradient is not finite, or the gradient is longer than
                `trainer.gradient_limit`; the weights are untouched then.
        """
        self._optimizer(name).zero_grad()
        self.manual_backward(loss)
        return self._step(loss, name)

    def _step(self, loss: Tensor, name: str = "main") -> Tensor:
        """Takes one step down the gradient that is there."""
        optimizer = self._optimizer(name)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip or float("inf"))
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        refuse_divergence(loss, norm, self.settings.gradient_limit, self.step, self._at_hand)
        optimizer.step()
        return norm

    def _at_hand(self) -> str:
        """Names the batches of this step: those of all processes by number, this one's also by what they hold."""
        numbers = ", ".join(f"task.batch({number})" for number in self.numbers(self.step))
        named = "; ".join(filter(None, map(self.named, self._batches)))
        return f"{numbers}: {named}" if named else numbers

    def _total(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with self.autocast():
            losses = dict(self.losses(batch, generator))
        return torch.stack([v.float() for name, v in losses.items() if not name.startswith("_")]).sum(), losses

    def _accumulated(self, batches: Sequence[Any], generators: Iterable[torch.Generator]) -> dict[str, Tensor]:
        """Takes one step down the mean of the losses of several batches, of which this process has some."""
        if type(self).update is not Task.update:
            raise RecipeError(
                f"trainer.accumulate is {self.settings.accumulate}, and {type(self).__name__} changes its weights in a "
                "way of its own, which does not accumulate. Set trainer.accumulate and trainer.devices to 1."
            )
        self._optimizer("main").zero_grad()
        sums: dict[str, Tensor] = {}
        for index, (batch, generator) in enumerate(zip(batches, generators, strict=True)):
            total, losses = self._total(batch, generator)
            with self._alone(last=index == len(batches) - 1):
                self.manual_backward(total / len(batches))
            for name, value in {"loss": total, **losses}.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / len(batches)
        means = _means(sums)
        return {**means, "_grad_norm": self._step(means["loss"])}

    def _alone(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Leaves the averaging of gradients over processes to the last batch."""
        strategy = self.trainer.strategy if place()[1] > 1 and not last else None
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext()

    def progress(self) -> float:
        """Returns how much of the training is done, from 0 to 1, by whichever limit is nearer."""
        steps, minutes = self.settings.max_steps, self.settings.max_minutes
        by_steps = self.step / steps if steps else 0.0
        by_time = self.elapsed / (60 * minutes) if minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def learning_rate(self) -> float:
        """Returns the learning rate of the coming step."""
        return learning_rate(self.optimizer_settings, self.step, self.progress())

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averaged weights in place of the trained ones for the duration of a `with` block."""
        with torch.no_grad(), self._average.in_place() if self._average else contextlib.nullcontext():
            try:
                yield
            finally:
                forget_whole(self)

    def state(self) -> dict[str, Any]:
        """Returns all that `restore` needs to go on exactly where this task is, on any number of devices.

        All processes must ask for it; whole weights are in that of the first.
        """
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            "consumed": self.consumed,
            "seed": self.seed,
            "weights": whole(self.state_dict()),
            "averages": whole(self._average.values if self._average else {}),
            "optimizers": {name: whole(self._optimizer(name).state_dict()) for name in self.optimized()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over a state before the training begins."""
        self.step, self.elapsed, self.consumed = state["step"], state["elapsed"], state["consumed"]
        self.load_state_dict(state["weights"])
        self._restored = state

    # From here on: what Lightning calls.

    def configure_model(self) -> None:
        """Shares the weights out where that is the strategy, and makes training lean as the settings say.

        Raises:
            RecipeError: If the settings are about the layers of a backbone, and the task has none.
        """
        if self._configured:  # Lightning may ask twice
            return
        self._configured = True
        chosen = self.settings
        if (chosen.activation_checkpointing or chosen.compile) and not blocks(self):
            name = "activation_checkpointing" if chosen.activation_checkpointing else "compile"
            raise RecipeError(
                f"trainer.{name} is about the layers of backbones, and {type(self).__name__} has none. Set it to false."
            )
        make_lean(self, activation_checkpointing=chosen.activation_checkpointing, compiled=chosen.compile)
        if self._trainer is not None and isinstance(self.trainer.strategy, ModelParallelStrategy):
            share_out(self, self.trainer.strategy.device_mesh["data_parallel"], self.reads_weights)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Makes one AdamW for every entry of `optimized`, with its state when a training is resumed."""
        states = self._restored["optimizers"] if self._restored is not None else {}
        return [
            adamw(chosen, self.optimizer_settings, states[name] if states else None)
            for name, chosen in self.optimized().items()
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        """Makes the batches of the remaining steps, in order, whatever the number of workers."""
        workers = self.settings.workers
        return DataLoader(
            Batches(self, *place()),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            generator=torch.Generator(),  # or it would draw from the global one
            worker_init_fn=leave_signals_to_the_training,
        )

    def on_fit_start(self) -> None:
        """Prepares the moving average on the device of the weights."""
        forget_whole(self)
        if self.settings.ema_decay is not None:
            chosen = {id(parameter) for parameter in self.trainable() if parameter.requires_grad}
            named = {name: parameter for name, parameter in self.named_parameters() if id(parameter) in chosen}
            saved = self._restored["averages"] if self._restored is not None else {}
            self._average = MovingAverage(self.settings.ema_decay, named, saved)
        self._restored = None
        self.train()

    def on_train_start(self) -> None:
        """Starts the clock."""
        self._started = time.monotonic() - self.elapsed

    def training_step(self, numbered: tuple[int, list[Any]], index: int) -> dict[str, Tensor]:
        """Does one step; `index` counts from the last resume and is not used."""
        step, self._batches = numbered
        if step != self.step:
            raise RuntimeError(f"got the batch of step {step} in step {self.step}")
        # Dropout can only draw from the global generator: seed it for each batch, and leave it as it was.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            process, processes = place()
            generators = map(self._generator, self.numbers(step)[process::processes])
            if self.settings.accumulate == 1:
                values = self.update(self._batches[0], next(generators))
            else:
                values = self._accumulated(self._batches, generators)
        if self._average is not None:
            self._average.update(self.step)
        self.step += 1
        told = gathered((sum(map(self.items, self._batches)), time.monotonic() - self._started))
        self.consumed += sum(items for items, _ in told)
        self._batches = []
        self.elapsed = told[0][1]  # one clock, or processes would not agree on the end
        return {name: value.detach() for name, value in values.items()}

    def train(self, mode: bool = True) -> Task:
        """Sets the mode of everything but the frozen modules."""
        super().train(mode)
        for module in self._frozen:
            if module is not self:
                module.eval()
        return self

    def numbers(self, step: int) -> range:
        """Returns the numbers of the batches of a step."""
        return range(step * self.settings.accumulate, (step + 1) * self.settings.accumulate)

    def _generator(self, number: int) -> torch.Generator:
        """Seeds all noise for a batch."""
        seeds = [int(value) for value in np.random.SeedSequence((self.seed, number)).generate_state(2, np.uint64)]
        # Not torch.manual_seed: for each kind of device that this machine lacks it writes down where it was called,
        # which takes longer than the rest of what surrounds a step.
        torch.default_generator.manual_seed(seeds[0])
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seeds[0])
        return torch.Generator(self.device).manual_seed(seeds[1])

    def _optimizer(self, name: str) -> Any:
        optimizers = self.optimizers()
        return optimizers[list(self.optimized()).index(name)] if isinstance(optimizers, list) else optimizers


def _means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the means over the processes; one that does not log a name counts as 0, as a batch does."""
    processes = place()[1]
    if processes == 1:
        return dict(values)
    everyone = gathered({name: float(value) for name, value in values.items()})
    names = dict.fromkeys(name for one in everyone for name in one)
    return {name: torch.tensor(sum(one.get(name, 0.0) for one in everyone) / processes) for name in names}
