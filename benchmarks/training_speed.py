"""What songkit's training adds to the steps of a hand-written loop, and how fast batches are made.

    songkit prepare levo2/mini/songs --out data/mini
    songkit prepare levo2/mini/tokenize --out data/mini
    python benchmarks/training_speed.py --data data/mini --out results/training-speed.json

Parts:

- `overhead`: the miniature's planner, trained by `songkit.train` (Lightning, checks, log, progress bar) and by a loop
  of plain PyTorch with the same model, batches, noise, optimizer, schedule and moving average. Both are in one process
  and take turns, some steps at a time. The script fails unless they end with the same losses and, bit for bit, weights.
  Then the same with a model so small that what is added to a step can be seen.
- `loader`: batches of tokenised songs and of crops of audio, made in the training process and by workers, which take
  turns; nothing is trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import finish
from torch import Tensor, nn

from songkit.checkpoint import read_weights
from songkit.recipe import Recipe, load
from songkit.registry import Registry
from songkit.tasks.base import Task
from songkit.train import build_task, train


class PlainLoop:
    """The training of a recipe as one would write it by hand for one device."""

    def __init__(self, recipe: Recipe) -> None:
        self.model = build_task(recipe)  # its losses and its batches, nothing else
        self.model.train()
        self.trainer, self.options = recipe.trainer, recipe.optimizer
        matrices, vectors = ([p for p in self.model.trainable() if (p.ndim >= 2) == wanted] for wanted in (True, False))
        self.parameters = [*matrices, *vectors]  # in which order norms are added up is seen in the last bits
        decay = self.options.weight_decay
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
            betas=self.options.betas,
            eps=self.options.eps,
            fused=True,
        )
        self.averages = [p.detach().clone() for p in self.parameters]
        self.step, self.losses = 0, list[Tensor]()

    def run(self, steps: int) -> None:
        """Does some steps."""
        for _ in range(steps):
            self.losses.append(self.one(self.model.batch(self.step)))
            self.step += 1

    def one(self, batch: Any) -> Tensor:
        """Does a step and returns its loss."""
        dropout, noise = np.random.SeedSequence((self.model.seed, self.step)).generate_state(2, np.uint64)
        torch.default_generator.manual_seed(int(dropout))
        generator = torch.Generator().manual_seed(int(noise))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.trainer.precision == "bf16"):
            losses = self.model.losses(batch, generator)
        loss = torch.stack([value.float() for name, value in losses.items() if not name.startswith("_")]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.trainer.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        keep = min(self.trainer.ema_decay, 1 - 1 / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - keep)
        return loss.detach()

    def learning_rate(self) -> float:
        """Returns the learning rate of the step."""
        rise = min(1.0, (self.step + 1) / self.options.warmup_steps)
        left = min(1.0, (1 - self.step / self.trainer.max_steps) / self.options.decay_fraction)
        return self.options.lr * rise * (self.options.min_lr_ratio + (1 - self.options.min_lr_ratio) * left)


def overhead(recipe: Recipe, steps: int, model: str) -> list[dict[str, Any]]:
    """Trains with both, a turn each of so many steps."""
    plain, task = PlainLoop(recipe), build_task(recipe)
    batch_of, marks = task.batch, list[tuple[float, float]]()

    def with_turns(number: int) -> Any:
        # A batch is asked for before the step of the one before it is done: this is before step `number - 1`.
        if number % steps == 1:
            marks.append(clocks())
            plain.run(steps)
            marks.append(clocks())
        return batch_of(number)

    task.batch = with_turns  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, mock.patch("songkit.train.build_task", return_value=task):
        run = Path(folder) / "run"
        train(recipe, run)
        check(plain, run, recipe.trainer.log_every)
    print(f"{plain.step} steps of each; losses equal, weights equal bit for bit")
    # ms a step, of each turn but the first: of the wall clock and of the processor.
    spent = 1000 * np.diff(np.array(marks), axis=0)[2:] / steps
    rows = []
    for clock, name in enumerate(("", ", of the processor")):
        plains, songkits = spent[::2, clock], spent[1::2, clock]
        plains = plains[: len(songkits)]
        rows += [row(f"plain loop, ms a step{name}", plains), row(f"songkit, ms a step{name}", songkits)]
        rows += [row(f"songkit - plain loop, ms a step{name}", songkits - plains)]
        rows += [row(f"songkit / plain loop{name}", songkits / plains)]
    return [
        {
            "part": "overhead",
            "turns": len(marks) // 2,
            "steps a turn": steps,
            **found,
            "what": f"{model}: {found['what']}",
        }
        for found in rows
    ]


def clocks() -> tuple[float, float]:
    """Returns seconds of the wall clock and of this process on a processor."""
    return time.perf_counter(), time.process_time()


def check(plain: PlainLoop, run: Path, log_every: int) -> None:
    """Compares what the two trainings came to.

    Raises:
        SystemExit: If they did not do the same work.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    means = torch.stack(plain.losses).double().reshape(-1, log_every).mean(1).tolist()
    for line, mean in zip(lines, means, strict=True):
        if abs(line["loss"] - mean) > 1e-5 * abs(mean):  # the log has six digits
            raise SystemExit(f"step {line['step']}: songkit's loss is {line['loss']}, the plain loop's {mean}")
    names = {id(p): name for name, p in plain.model.named_parameters()}
    averages = {names[id(p)]: value for p, value in zip(plain.parameters, plain.averages, strict=True)}
    for role in ("planner", "conditioner"):
        tensors, _ = read_weights(run / "weights" / f"{role}.safetensors")
        found = {f"{role}.{name}": tensor for name, tensor in tensors.items()}
        differing = [name for name in averages if name in found and not torch.equal(averages[name], found[name])]
        if differing:
            raise SystemExit(f"the weights of the two trainings differ: {', '.join(differing[:5])}")


def loaders(recipes: dict[str, Recipe], batches: int, rounds: int) -> list[dict[str, Any]]:
    """Measures tokens a second, with 0, 1 and 2 workers in turn; each time the songs are new to the loader."""
    speeds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, recipe in recipes.items():
            for workers in (0, 1, 2):
                task = build_task(recipe)
                task.settings = dataclasses.replace(task.settings, workers=workers)
                speeds.setdefault((name, workers), []).append(speed(task, batches))
    return [
        {"part": "loader", "workers": workers, **row(f"{name}, workers: {workers}, tokens/s", values)}
        for (name, workers), values in speeds.items()
    ]


def speed(task: Task, batches: int) -> float:
    """Returns tokens a second of a loader that has begun."""
    loader = iter(task.train_dataloader())
    for _ in range(2 + 2 * task.settings.workers):  # what workers have made ahead of time does not count
        next(loader)
    began, total = time.perf_counter(), 0.0
    for _ in range(batches):
        _, made = next(loader)
        total += sum(tokens(task, batch) for batch in made)
    return total / (time.perf_counter() - began)


def tokens(task: Task, batch: Any) -> float:
    """Returns how many ids are in a batch, or how many the codec makes of its audio, which is of one track."""
    return task.items(batch) * (len(batch.codes.layout) if hasattr(batch, "codes") else task.codec.layout.frame_rate)


def row(name: str, values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Returns the median and its 95 % interval by bootstrap."""
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(np.median(np.asarray(values)[draws], axis=1), [0.025, 0.975])
    return {"what": name, "median": float(np.median(values)), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/mini"), help="prepared songs with codes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=("overhead", "loader"), default=("overhead", "loader"))
    parser.add_argument("--models", nargs="+", choices=("planner", "tiny"), default=("planner", "tiny"))
    parser.add_argument("--steps", type=int, default=500, help="of each loop; a multiple of 20")
    parser.add_argument("--turn", type=int, default=2, help="steps of a turn, at least 2")
    parser.add_argument("--batch-size", type=int, default=1, help="songs in a batch of the two loops")
    parser.add_argument("--seconds", type=float, default=2.0, help="where songs are cut for the two loops")
    parser.add_argument("--batches", type=int, default=100, help="of each measurement of a loader")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each loader")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    registry = Registry.discover()
    data = [f"paths.data={args.data}", f"paths.validation={args.data}"]
    planner = [*data, "paths.tokens=none", "codec.weights=random"]
    limits = f"max_steps: {args.steps}, log_every: 20, threads: {args.threads}"
    quiet = "validate_every: 0, checkpoint_every: 0, checkpoint_minutes: 1000, weights_dtype: float32"
    small = [f"trainer={{{limits}, {quiet}, batch_size: {args.batch_size}}}", f"task.max_seconds={args.seconds}"]
    small += ["data.stop=32"]  # so few that neither loop is the first to read a song from the disk
    rows: list[dict[str, Any]] = []
    if "overhead" in args.only:
        sizes = {"planner": [], "tiny": ["vars.width=32", "planner.tower={layers: 1, heads: 2, feed_forward: 32}"]}
        for model in args.models:
            recipe = load("levo2/mini/planner", [*planner, *small, *sizes[model]], registry=registry)
            rows += overhead(recipe, args.turn, model)
    if "loader" in args.only:
        recipes = {
            "tokenised songs": load("levo2/mini/planner", planner, registry=registry),
            "audio segments": load("levo2/mini/tokens", data, registry=registry),
        }
        rows += loaders(recipes, args.batches, args.rounds)
    table = [[r["what"], f"{r['median']:.4g} [{r['low']:.4g}, {r['high']:.4g}]"] for r in rows]
    record = {"rows": rows, "batch_size": args.batch_size, "seconds": args.seconds}
    runs = args.steps // args.turn if "overhead" in args.only else args.rounds
    finish("Training: speed", ["", "median [95 %]"], table, out=args.out, runs=runs, record=record)


if __name__ == "__main__":
    main()
