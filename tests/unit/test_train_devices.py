"""Two processes on the CPU train what one trains: the same samples, losses, weights and files."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from songkit.checkpoint import load_state, read_metadata
from songkit.errors import RecipeError, SongkitError
from songkit.recipe import load
from songkit.registry import Registry
from songkit.tasks import processes
from songkit.tasks.batches import Batches
from songkit.train import build_task, train

TOWER = Path(__file__).parent.parent / "toy_tower.py"
RECIPE = f"""format: 1
seed: 5
plugins: [{TOWER}]
task: {{use: local/tower}}
trainer:
  max_steps: 8
  accumulate: 4
  log_every: 1
  validate_every: 4
  checkpoint_every: 4
  ema_decay: 0.9
  accelerator: cpu
  threads: 1
optimizer: {{lr: 0.01, warmup_steps: 2}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "tower.yaml"
    file.write_text(RECIPE)
    return lambda *overrides: load(file, overrides, registry=Registry([]))


SINGER = f"""format: 1
plugins: [{TOWER.with_name("toy_singer.py")}]
planner: local/planner
conditioner: local/tiny-conditioner
trainer: {{max_steps: 3, accumulate: 2, batch_size: 2, log_every: 1, validate_every: 3, validate_batches: 1,
  accelerator: cpu, threads: 1}}
optimizer: {{warmup_steps: 0}}
"""
TASKS = {
    "planner": "task: songkit/train-planner\ndata: local/songs\nvalidation: local/songs\n",
    "preference": "task: {use: songkit/train-preference, cache: CACHE}\nobjective: songkit/dpo\ndata: local/pairs\n",
}
TOWER_SIZES = "layers: 1, heads: 2, feed_forward: 32"
TINY = [
    f"plugins=[{TOWER.with_name('toy_singer.py')}]",
    "codec.vae={mels: 20, latent: 8, encoder_dims: [16, 16], encoder_depths: [1, 1]}",
    "codec.vae={decoder_dims: [16, 16], decoder_depths: [1, 1]}",
    "codec.semantic={mels: 20, dims: [16, 16], depths: [1, 2], feature_depth: 1, codebook_size: 32, codebook_dim: 4}",
    "codec.semantic={taps: {mix: 2, vocal: 2, accompaniment: 1}, warmup: 1}",
    "codec.diffusion={dim: 16, depth: 1, heads: 2}",
    "codec.weights=null",
    "trainer={max_steps: 4, accumulate: 2, batch_size: 2, log_every: 1, validate_every: 4, validate_batches: 1}",
    "trainer={accelerator: cpu, precision: '32', weights_dtype: float32}",
    "optimizer.warmup_steps=0",
]
CROPS = ["task.crop_seconds=0.4", "data={use: local/waves}", "validation={use: local/waves}"]
SUNG = [
    "vars={codebook_size: 32, width: 16}",
    *("data={use: local/songs}", "validation={use: local/songs}", "planner.weights=null", "conditioner.weights=null"),
    *(f"{role}.tower={{{TOWER_SIZES}}}" for role in ("planner", "refiner")),
]
SHIPPED = {"vae": CROPS, "tokens": CROPS, "diffusion": CROPS, "refiner": SUNG, "extension": SUNG}
"""What recipes of the miniature need to be trained on the kit's songs at once."""
CHANGED = {"vae": ("mean", "std"), "tokens": ("codes", "usage", "seen")}
"""The buffers that trainings change."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory, recipe):
    run = tmp_path_factory.mktemp("alone") / "run"
    train(recipe(), run, progress=False)
    return run


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(one, other, path="state"):
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6, msg=lambda text: f"{path}: {text}")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_close(a, b, f"{path}.{i}")
    else:
        assert one == other, path


def assert_same_run(run, alone):
    """Losses within 1e-6; states and weights of the same names and shapes, within what rounding does in eight steps."""
    for line, expected in zip(lines(run), lines(alone), strict=True):
        assert line.keys() == expected.keys()
        for name in line:
            if name != "seconds" and not name.endswith("_per_s"):
                assert line[name] == pytest.approx(expected[name], abs=1e-6), name
    states = [load_state(folder / "checkpoints") for folder in (run, alone)]
    for state in states:
        del state["elapsed"]
    assert_close(*states)
    for file in sorted((alone / "weights").iterdir()):
        assert_close(*(safetensors.torch.load_file(folder / "weights" / file.name) for folder in (run, alone)))
        made = [read_metadata(folder / "weights" / file.name) for folder in (run, alone)]
        assert made[0] == made[1]


def test_processes_share_the_samples_of_a_step(recipe):
    task = build_task(recipe())
    whole, shares = Batches(task, 0, 1), [Batches(task, number, 2) for number in range(2)]
    for (step, batches), *dealt in zip(whole, *shares, strict=True):
        assert [part[0] for part in dealt] == [step, step]
        together = [batch for pair in zip(*(part[1] for part in dealt), strict=True) for batch in pair]
        assert len(together) == 4
        for one, other in zip(batches, together, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(tmp_path, recipe, alone, strategy):
    train(recipe("trainer.devices=2", f"trainer.strategy={strategy}"), tmp_path / "run", progress=False)
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "strategy"), [("planner", "ddp"), ("planner", "fsdp"), ("preference", "ddp"), ("preference", "fsdp")]
)
def test_two_processes_train_models_as_one_does(tmp_path, task, strategy):
    file = tmp_path / "singer.yaml"
    for devices in (1, 2):
        file.write_text(SINGER + TASKS[task].replace("CACHE", str(tmp_path / f"cache-{devices}")))
        chosen = [f"trainer.devices={devices}", f"trainer.strategy={strategy if devices > 1 else 'auto'}"]
        train(load(file, chosen, registry=Registry.discover()), tmp_path / str(devices), progress=False)
    assert_same_run(tmp_path / "2", tmp_path / "1")
    assert sorted(f.name for f in tmp_path.glob("cache-1/*")) == sorted(f.name for f in tmp_path.glob("cache-2/*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), [*((name, "ddp") for name in SHIPPED), ("vae", "fsdp")])
def test_two_processes_train_shipped_recipes_as_one_does(tmp_path, name, strategy):
    pytest.importorskip("songkit_levo2")
    for devices in (1, 2):
        chosen = [f"trainer.devices={devices}", f"trainer.strategy={strategy if devices > 1 else 'auto'}"]
        made = load(f"levo2/mini/{name}", [*TINY, *SHIPPED[name], *chosen], registry=Registry.discover())
        train(made, tmp_path / str(devices), progress=False)
    assert_same_run(tmp_path / "2", tmp_path / "1")
    begun = build_task(made).state_dict()
    learned = load_state(tmp_path / "1" / "checkpoints")["weights"]
    changed = {key.rpartition(".")[2] for key, value in learned.items() if not torch.equal(value, begun[key])}
    assert changed >= {"weight", *CHANGED.get(name, ())}


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_training_goes_on_with_another_number_of_processes(tmp_path, recipe, alone, first):
    together = ["trainer.devices=2", "trainer.strategy=fsdp"]
    begun, gone_on = ([], together) if first == 1 else (together, [])
    with pytest.raises(SongkitError, match="diverged in step 4"):
        train(recipe("task.nan_step=4", *begun), tmp_path / "run", progress=False)
    assert load_state(tmp_path / "run" / "checkpoints")["step"] == 4
    file = tmp_path / "run" / "resolved.yaml"
    file.write_text(file.read_text().replace("nan_step: 4", "nan_step: null"))
    train(recipe(*gone_on), tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_signal_to_a_training_of_several_processes_saves(tmp_path, recipe):
    run, words = tmp_path / "run", ["trainer.max_steps=100000", "trainer.devices=2", "trainer.checkpoint_every=0"]
    process = os.fork()
    if not process:
        try:
            train(recipe(*words), run, progress=False)
        except SystemExit as ended:
            os._exit(ended.code)
        os._exit(1)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 143
    state = load_state(run / "checkpoints")
    assert state["step"] >= 1
    assert read_metadata(run / "weights" / "task.tower.safetensors")["steps"] == state["step"]


def test_layers_that_are_computed_again_learn_the_same_bits(tmp_path, recipe, alone):
    train(recipe("trainer.activation_checkpointing=true"), tmp_path / "run", progress=False)
    states = [load_state(folder / "checkpoints") for folder in (tmp_path / "run", alone)]
    for name, value in states[0]["weights"].items():
        assert torch.equal(value, states[1]["weights"][name])


@pytest.mark.slow
def test_compiled_layers_learn_the_same_within_rounding(tmp_path, recipe):
    plain = ["task.drop=0", "trainer.max_steps=3", "trainer.validate_every=0"]  # compiled dropout draws other numbers
    train(recipe(*plain), tmp_path / "plain", progress=False)
    compiled = recipe(*plain, "trainer.compile=true", "trainer.activation_checkpointing=true")
    train(compiled, tmp_path / "compiled", progress=False)
    for line, expected in zip(lines(tmp_path / "compiled"), lines(tmp_path / "plain"), strict=True):
        assert line["nats"] == pytest.approx(expected["nats"], abs=1e-5)


def test_buffers_that_a_process_changes_for_itself_are_refused(monkeypatch):
    task = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    monkeypatch.setattr(processes, "place", lambda: (0, 2))
    told = []

    def gathered(value):
        told.append(value)
        return [told[0], value]

    monkeypatch.setattr(processes, "gathered", gathered)
    for _ in range(2):
        processes.refuse_own_buffers(task)
    with torch.no_grad():
        task[0].weight.add_(1)  # shared out or averaged, weights are none of its business
    processes.refuse_own_buffers(task)
    task(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(SongkitError, match=r"differ between .*: 1\.running_mean, 1\.running_var, 1\.num_.*devices"):
        processes.refuse_own_buffers(task)


def test_what_has_no_layers_cannot_be_computed_again(tmp_path, recipe):
    toy = TOWER.with_name("toy_task.py")
    plain = recipe(f"plugins=[{toy}]", "task.use=local/toy", "trainer.activation_checkpointing=true")
    with pytest.raises(RecipeError, match=r"trainer\.activation_checkpointing is about .* ToyTask has none"):
        train(plain, tmp_path / "run", progress=False)


def test_another_number_of_processes_than_torchrun_has_started_is_refused(tmp_path, recipe, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=r"trainer\.devices is 2; torchrun has started 4 processes"):
        train(recipe("trainer.devices=2"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_batches_that_devices_cannot_share_are_refused(tmp_path, recipe):
    with pytest.raises(RecipeError, match="accumulate is 4; expected a multiple of devices, 3"):
        recipe("trainer.devices=3")
    with pytest.raises(RecipeError, match="expected devices of more than 1"):
        recipe("trainer.strategy=fsdp")
