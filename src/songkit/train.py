"""Trains what a recipe's task trains, in a run directory from which an interrupted training goes on.

    run/recipe.yaml            the recipe as it was given
    run/resolved.yaml          the same with every default explicit; `songkit train` takes it too
    run/provenance.json        versions, commit, command, seed and hardware of the run and of each resumption
    run/metrics.jsonl          one line for every `trainer.log_every` steps, and for every validation
    run/checkpoints/step-*.pt  the last two training states
    run/weights/ROLE.safetensors  the (averaged) weights, replaced at every checkpoint

Lightning runs the steps; checkpoints are our own, because its are neither atomic across file systems nor exact. With
several devices each has a process, and the first alone writes: the folder is the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed import is_torchelastic_launched
from tqdm import tqdm

from songkit._launch import launch
from songkit.build import build, build_roles
from songkit.checkpoint import load_state, save_state, save_weights
from songkit.errors import CheckpointError, OutputError, RecipeError, did_you_mean
from songkit.processes import gathered, place
from songkit.recipe import Recipe
from songkit.run_folder import check_run, described, forget_metrics_after, open_run
from songkit.tasks.base import Task
from songkit.tasks.processes import refuse_own_buffers, whole

__all__ = ["build_task", "train"]

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train(recipe: Recipe, run: Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Trains until the recipe's limit of steps or minutes.

    A training that was interrupted and resumed ends with the same bits as one that was not, where the limit is one of
    steps and the kernels are deterministic (as on a CPU, with the same number of threads).

    Args:
        recipe: With a task, and settings for `trainer` and `optimizer`.
        run: The run directory; it must not exist, or be empty, unless `resume`.
        resume: Whether to go on with the training in `run`; a run that has not begun is begun.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder with the trained weights.

    Raises:
        OutputError: If the run directory is in use, is that of another recipe, or cannot be written.
        CheckpointError: If the training states are damaged or do not fit.
        SongkitError: If the loss is not finite any more.
        SystemExit: With 128 + the signal's number after SIGINT or SIGTERM, when a checkpoint has been written.

    With `trainer.devices` of more than 1 a process is started for each, unless torchrun has started this one.
    """
    if "task" not in recipe.roles:
        raise RecipeError(f"{recipe.path}: the recipe '{recipe.name}' has no task, so there is nothing to train.")
    if recipe.trainer.accelerator == "gpu" and not torch.accelerator.is_available():
        raise RecipeError(
            "trainer.accelerator is gpu, and torch finds none here. Use auto or cpu, or install its driver."
        )
    if recipe.trainer.devices == 1 or is_torchelastic_launched():
        _train(recipe, run, resume, progress)
    else:
        check_run(recipe, run, resume)
        launch(_train, recipe, run, resume, progress)
    return run / "weights"


def _train(recipe: Recipe, run: Path, resume: bool, progress: bool) -> None:
    """Trains in this process, which may be one of several."""
    launched = is_torchelastic_launched()
    number, processes = (int(os.environ[name]) if launched else i for i, name in enumerate(("RANK", "WORLD_SIZE")))
    settings = recipe.trainer
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if launched else 1
    if here != settings.devices:
        raise RecipeError(f"trainer.devices is {settings.devices}; torchrun has started {here} processes here.")
    if settings.accumulate % processes:
        raise RecipeError(f"trainer.accumulate is {settings.accumulate}; expected a multiple of {processes} processes.")
    if number == 0:
        check_run(recipe, run, resume)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    task = build_task(recipe)  # before anything is written: a recipe whose parts do not fit leaves no folder
    if open_run(recipe, run, resume) if number == 0 else resume:
        _restore(task, recipe, run)
    if number == 0:
        forget_metrics_after(run, task.step)
    if task.progress() >= 1:
        _log.warning("the training in %s is complete (%d steps); nothing was done.", run, task.step)
        return
    loop = _Loop(recipe, run, progress and number == 0)
    with _quiet_lightning(), loop.signals():
        trainer = lightning.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=processes // settings.devices,
            strategy=_strategy(recipe, processes),
            max_epochs=1,
            callbacks=[loop],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=run,
        )
        trainer.fit(task)
    if loop.received is not None:
        raise SystemExit(128 + loop.received)


def _strategy(recipe: Recipe, processes: int) -> Strategy | str:
    if processes == 1:
        return "auto"
    if recipe.trainer.strategy == "fsdp":
        return ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1)
    # A refiner's part of the conditions is unused while the planner learns, and so on. Buffers are the same without
    # being sent: what changes them does so by the batches of all processes, or is refused (`refuse_own_buffers`).
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def build_task(recipe: Recipe) -> Task:
    """Builds the recipe's task with all its other roles."""
    roles = build_roles(recipe)
    extra = {"settings": recipe.trainer, "optimizer": recipe.optimizer, "seed": recipe.seed, **roles}
    task = build(recipe.roles["task"], seed=recipe.seed, extra=extra)
    if not isinstance(task, Task):
        raise TypeError(f"{recipe.roles['task'].factory} returned a {type(task).__name__}; a Task is expected")
    for name in recipe.trainer.freeze:
        try:
            task.freeze(task.get_submodule(name))
        except AttributeError:
            parts = [child for child, _ in task.named_children()]
            hint = did_you_mean(name, parts) or f" It trains with {', '.join(parts)}."
            raise RecipeError(f"trainer.freeze: {recipe.roles['task'].id} has no part '{name}'.{hint}") from None
    return task


class _Loop(lightning.Callback):
    """Logs, validates, saves, and stops at the limit or on a signal."""

    def __init__(self, recipe: Recipe, run: Path, progress: bool) -> None:
        self.received: int | None = None
        self._process = os.getpid()
        self._recipe = recipe
        self._settings = recipe.trainer
        self._run = run
        self._progress = progress
        self._bar: Any = None
        self._sums: dict[str, tuple[torch.Tensor, int]] = {}  # of logged values, and how many
        self._logged = (0.0, 0.0)  # seconds and items at the last line of metrics.jsonl
        self._saved = (-1, 0.0)  # step and time of the last checkpoint
        self._first = 0  # step after which this part of the training was begun

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Puts the handlers back that were there before the training."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                with contextlib.suppress(ValueError):  # not in the main thread, where none was set either
                    signal.signal(number, handler)
            if self._bar is not None:
                self._bar.close()

    def on_train_start(self, trainer: lightning.Trainer, task: Task) -> None:  # type: ignore[override]
        """Takes the signals over from Lightning, which would stop in the middle of a step."""
        for number in _SIGNALS:
            with contextlib.suppress(ValueError):  # only the main thread may
                signal.signal(number, self._receive)
        self._logged = (task.elapsed, task.consumed)
        self._saved = (task.step, time.monotonic())
        self._first = task.step
        self._bar = tqdm(
            total=self._settings.max_steps, initial=task.step, unit=" steps", disable=not self._progress, smoothing=0.05
        )

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: lightning.Trainer, task: Task, outputs: Mapping[str, torch.Tensor], batch: Any, batch_idx: int
    ) -> None:
        """Does what is due after a step."""
        self._bar.update()
        for name, value in outputs.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value.float().mean(), count + 1
        if _due(task.step, self._settings.log_every) or task.progress() >= 1:
            self._log(task)
        late = time.monotonic() - self._saved[1] >= 60 * self._settings.checkpoint_minutes
        # All processes must do the same, whichever of them a signal has reached.
        told = gathered((self.received, late))
        self.received = next((number for number, _ in told if number is not None), None)
        late = told[0][1]
        done = task.progress() >= 1 or self.received is not None
        saves = done or late or _due(task.step, self._settings.checkpoint_every)
        if saves or task.step == self._first + 1:
            refuse_own_buffers(task)
        if _due(task.step, self._settings.validate_every) or (task.progress() >= 1 and self._settings.validate_every):
            self._validate(task)
        if saves:
            self._save(task)
        if done:
            trainer.should_stop = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # Ctrl-C reaches the workers too; they end with this process
            return
        if self.received is not None:  # the second time the user does not want to wait
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
        _log.warning("%s: saving after this step.", signal.Signals(number).name)

    def _log(self, task: Task) -> None:
        seconds, items = self._logged
        speed = (task.consumed - items) / max(task.elapsed - seconds, 1e-9)
        means = {name.lstrip("_"): float(total) / count for name, (total, count) in self._sums.items()}
        line = {
            "step": task.step,
            "seconds": task.elapsed,
            "lr": task.learning_rate(),
            **means,
            task.unit.replace(" ", "_"): task.consumed,
            f"{task.unit.replace(' ', '_')}_per_s": speed,
        }
        self._write(line)
        self._bar.set_postfix_str(f"loss {means.get('loss', float('nan')):.4g}, {speed:.4g} {task.unit}/s")
        self._logged = (task.elapsed, task.consumed)
        self._sums = {}

    def _validate(self, task: Task) -> None:
        with task.averaged(), torch.no_grad():
            task.eval()
            values = task.validate_step(task.step)
        task.train()
        if values:
            self._write({"step": task.step, **{f"valid_{name}": float(value) for name, value in values.items()}})

    def _save(self, task: Task) -> None:
        # The weights first: a training whose last state is there counts as complete.
        with task.averaged():
            for name, module in task.exports().items():
                weights = whole(module.state_dict())
                if place()[0] == 0:
                    save_weights(
                        self._run / "weights" / f"{name}.safetensors",
                        weights,
                        described(self._recipe, name, steps=task.step, consumed=task.consumed, unit=task.unit),
                        dtype=getattr(torch, self._settings.weights_dtype),
                    )
        state = task.state()
        if place()[0] == 0:
            save_state(self._run / "checkpoints", task.step, state)
        self._saved = (task.step, time.monotonic())

    def _write(self, line: Mapping[str, Any]) -> None:
        if place()[0] != 0:
            return
        path = self._run / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({name: _plain(value) for name, value in line.items()}) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}. Free some space, then run the same command again "
                "('songkit train' with --resume): the last checkpoint is whole, and the steps after it are done and "
                "logged again."
            ) from error


def _plain(value: float) -> float | None:
    """Rounds to six digits; JSON has no word for what is not finite."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _restore(task: Task, recipe: Recipe, run: Path) -> None:
    state = load_state(run / "checkpoints")
    if state is None:
        return
    try:
        task.restore(state)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the training state in {run / 'checkpoints'} does not fit the recipe '{recipe.name}': "
            f"{str(error).splitlines()[0]}. Go on with the songkit that wrote it (see provenance.json), or choose "
            "another --out."
        ) from error


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silences Lightning's announcements; its errors and other warnings still come through."""
    announcer = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = announcer.level
    announcer.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")  # its use of torch, not ours
            warnings.filterwarnings("ignore", message="Found .* in eval mode at the start")  # those of Task.freeze
            warnings.filterwarnings("ignore", message=".*does not have many workers")  # trainer.workers is a choice
            yield
    finally:
        announcer.setLevel(level)
