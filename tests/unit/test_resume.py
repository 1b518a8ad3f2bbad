"""Trainings of songs that break off in the middle of an epoch end with the bits of those that do not."""

from pathlib import Path

import pytest
import torch

from songkit.checkpoint import load_state
from songkit.errors import SongkitError
from songkit.recipe import load
from songkit.registry import Registry
from songkit.tasks.planner import TrainPlanner
from songkit.tasks.preference import TrainPreference
from songkit.train import train

RECIPE = f"""format: 1
plugins: [{Path(__file__).parent.parent / "toy_singer.py"}]
planner: local/planner
conditioner: local/tiny-conditioner
trainer: {{max_steps: 7, accumulate: 2, batch_size: 2, log_every: 1, validate_every: 3, validate_batches: 1,
  checkpoint_every: 2, ema_decay: 0.9, precision: bf16, accelerator: cpu, threads: 1}}
optimizer: {{warmup_steps: 2, decay_fraction: 0.5}}
"""
TASKS = {
    TrainPlanner: "task: {use: songkit/train-planner, grow_from: 1.0, prompt_share: 0.5}\n"
    "data: local/songs\nvalidation: local/songs\n",
    TrainPreference: "task: {use: songkit/train-preference, cache: CACHE}\nobjective: songkit/dpo\ndata: local/pairs\n",
}


@pytest.mark.parametrize(("task", "workers"), [(TrainPlanner, 2), (TrainPreference, 0)])
def test_a_training_that_broke_off_ends_with_the_same_bits(tmp_path, monkeypatch, task, workers):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE + TASKS[task].replace("CACHE", str(tmp_path / "cache")))
    registry = Registry.discover()
    train(load(file, registry=registry), tmp_path / "whole", progress=False)

    true_losses = task.losses

    def losses(self, batch, generator):
        if self.step == 5:  # one after the last state
            raise RuntimeError("the power is gone")
        return true_losses(self, batch, generator)

    recipe = load(file, [f"trainer.workers={workers}"], registry=registry)
    monkeypatch.setattr(task, "losses", losses)
    with pytest.raises(RuntimeError, match="the power is gone"):
        train(recipe, tmp_path / "run", progress=False)
    monkeypatch.undo()
    assert load_state(tmp_path / "run" / "checkpoints")["step"] == 4
    train(recipe, tmp_path / "run", resume=True, progress=False)

    states = [load_state(tmp_path / name / "checkpoints") for name in ("run", "whole")]
    for state in states:
        assert state["step"] == 7
        del state["elapsed"]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    for weights in (tmp_path / "whole" / "weights").iterdir():
        assert (tmp_path / "run" / "weights" / weights.name).read_bytes() == weights.read_bytes()


def test_what_diverges_names_the_songs(tmp_path, monkeypatch):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE + TASKS[TrainPlanner])
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(TrainPlanner, "losses", lambda *_: {"tokens": nan})
    with pytest.raises(SongkitError, match=r"in step 0: the loss is nan.*task\.batch\(0\), task\.batch\(1\): kit-\d"):
        train(load(file, registry=Registry.discover()), tmp_path / "run", progress=False)
