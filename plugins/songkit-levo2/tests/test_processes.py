"""What follows the batches of a training is the same on two processes as on one, whichever tracks they hold."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from songkit.errors import RecipeError
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.testing.standins import SongsConfig, TinySongs
from songkit_levo2.codec import build
from songkit_levo2.configs import TrainTokensConfig, TrainVAEConfig
from songkit_levo2.plugin import songkit_components
from songkit_levo2.tasks import TrainTokens, TrainVAE

TASKS: dict[str, Any] = {
    "vae": lambda **parts: TrainVAE(TrainVAEConfig(crop_seconds=0.4), **parts),
    "tokens": lambda **parts: TrainTokens(TrainTokensConfig(crop_seconds=0.4), **parts),
}
BATCHES = 12


def task(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = next(c.example for c in songkit_components() if c.name == "music-codec")
    codec = build(config)
    for quantizer in codec.semantic.quantizers.values():
        quantizer.warmup, quantizer.noise = 1, 0.1
        quantizer.usage.fill_(0.003)  # codes that are not hit at once are moved, by the batch's generator
    return TASKS[name](
        codec=codec,
        data=TinySongs(SongsConfig(songs=6, sample_rate=24000)),
        settings=TrainerSettings(max_steps=BATCHES, batch_size=2, accelerator="cpu", **settings),
        optimizer=OptimizerSettings(),
        seed=3,
    ).train()


def followed(name: str, number: int, processes: int) -> dict[str, Any]:
    """Returns the losses of a process's batches, their tracks, and the buffers after them."""
    made = task(name)
    losses, tracks = [], []
    for index in range(number, BATCHES, processes):
        batch = made.batch(index)
        generator = torch.Generator().manual_seed(index)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            losses.append({key: float(value) for key, value in made.losses(batch, generator).items()})
        tracks.append(batch.track)
    return {"losses": losses, "tracks": tracks, "buffers": dict(made.codec.named_buffers())}


def together(work: Callable[[int, int], Any], folder: Path) -> list[Any]:
    """Returns what `work` returns in each of two processes that hear each other."""

    def joined(number: int) -> None:
        torch.set_num_threads(1)  # a fork has none of its parent's
        distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=number, world_size=2)
        torch.save(work(number, 2), folder / f"{number}.pt")
        distributed.barrier()  # or the first to end takes the connection with it
        distributed.destroy_process_group()

    processes = [multiprocessing.get_context("fork").Process(target=joined, args=(number,)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


@pytest.mark.parametrize("name", list(TASKS))
def test_buffers_follow_the_batches_of_two_processes_as_of_one(tmp_path: Path, name: str) -> None:
    before = dict(task(name).codec.named_buffers())
    alone = followed(name, 0, 1)
    assert any(one != other for one, other in zip(alone["tracks"][::2], alone["tracks"][1::2], strict=True))
    changed = {key for key, value in alone["buffers"].items() if not torch.equal(value, before[key])}
    kinds = {"vae": {"mean", "std"}, "tokens": {"codes", "usage", "seen"}}
    assert {key.rpartition(".")[2] for key in changed} == kinds[name]
    for number, found in enumerate(together(lambda number, processes: followed(name, number, processes), tmp_path)):
        for losses, expected in zip(found["losses"], alone["losses"][number::2], strict=True):
            assert losses == pytest.approx(expected, abs=1e-6)
        for key, value in alone["buffers"].items():
            torch.testing.assert_close(
                found["buffers"][key], value, rtol=0, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
            )


def test_sharing_out_weights_that_only_some_batches_train_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"trainer\.strategy is fsdp, and TrainTokens has weights for each track"):
        task("tokens", strategy="fsdp", devices=2, accumulate=2)
    task("vae", strategy="fsdp", devices=2, accumulate=2)
