import errno
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from songkit import cli
from songkit.checkpoint import load_state, read_metadata
from songkit.errors import CheckpointError, OutputError, RecipeError, SongkitError
from songkit.recipe import load
from songkit.registry import Registry
from songkit.train import build_task, train

TOY = Path(__file__).parent.parent / "toy_task.py"
RECIPE = f"""format: 1
seed: 3
plugins: [{TOY}]
task: {{use: local/toy}}
trainer:
  max_steps: 30
  log_every: 10
  validate_every: 15
  checkpoint_every: 10
  ema_decay: 0.9
  precision: bf16
  accelerator: cpu
  threads: 1
optimizer: {{lr: 0.01, warmup_steps: 5}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def registry():
    return Registry([])


@pytest.fixture
def recipe(recipe_file, registry):
    return lambda *overrides: load(recipe_file, overrides, registry=registry)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipe_file, registry):
    run = tmp_path_factory.mktemp("finished") / "run"
    train(load(recipe_file, registry=registry), run, progress=False)
    return run


def digest(run):
    return hashlib.sha256((run / "weights" / "task.net.safetensors").read_bytes()).hexdigest()


def full_state(run):
    """All that decides what a training does next; without the clock."""
    state = load_state(run / "checkpoints")
    state.pop("elapsed")
    return state


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def in_a_process(work):
    """Starts a forked process, which has torch imported already."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_a_run_holds_what_it_takes_to_understand_it(finished, recipe_file):
    assert sorted(file.name for file in finished.iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "provenance.json",
        "recipe.yaml",
        "resolved.yaml",
        "weights",
    ]
    assert (finished / "recipe.yaml").read_text() == RECIPE
    facts = json.loads((finished / "provenance.json").read_text())
    assert facts["seed"] == 3
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["components"]["task"]["id"] == "local/toy"
    weights = read_metadata(finished / "weights" / "task.net.safetensors")
    assert weights["component"] == "local/toy"
    assert weights["part"] == "net"
    assert weights["steps"] == 30
    assert weights["consumed"] == {"amount": 240.0, "unit": "rows"}
    assert weights["config"]["width"] == 8


def test_metrics_are_logged_and_the_loss_falls(finished):
    logged = lines(finished)
    steps = [line for line in logged if "loss" in line]
    assert [str(line["step"]) for line in steps] == ["10", "20", "30"]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[0]["loss"] == pytest.approx(steps[0]["mse"])
    assert steps[-1]["rows"] == 240
    assert [line["step"] for line in logged if "valid_mse" in line] == [15, 30]


def test_exported_weights_are_the_moving_average(finished):
    state = load_state(finished / "checkpoints")
    exported = safetensors.torch.load_file(finished / "weights" / "task.net.safetensors")
    assert torch.equal(exported["0.weight"], state["averages"]["net.0.weight"])
    assert not torch.equal(exported["0.weight"], state["weights"]["net.0.weight"])
    assert torch.equal(exported["1.running_mean"], state["weights"]["net.1.running_mean"])
    assert not any(name.startswith("fixed") for name in state["averages"])


def test_a_seed_decides_everything(finished, tmp_path, recipe):
    torch.manual_seed(12345)  # what the process drew before does not matter
    train(recipe("trainer.workers=2"), tmp_path / "same", progress=False)
    assert digest(tmp_path / "same") == digest(finished)
    train(recipe("seed=4"), tmp_path / "other", progress=False)
    assert digest(tmp_path / "other") != digest(finished)


def test_training_leaves_the_global_random_state_alone(tmp_path, recipe):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(recipe("trainer.max_steps=2"), tmp_path / "run", progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kill_step", [3, 17])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(finished, tmp_path, recipe, monkeypatch, kill_step):
    run = tmp_path / "run"
    process = in_a_process(lambda: train(recipe(f"task.kill_step={kill_step}"), run, progress=False))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list((run / "checkpoints").glob("*.pt"))) == (kill_step > 10)

    monkeypatch.setenv("TOY_SPARED", "1")
    resumed = recipe(f"task.kill_step={kill_step}")
    train(resumed, run, resume=True, progress=False)
    assert_equal(full_state(run), full_state(finished))
    assert [line["step"] for line in lines(run)] == [line["step"] for line in lines(finished)]
    assert len(json.loads((run / "provenance.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_training_can_go_on(tmp_path, recipe, number, status):
    run = tmp_path / "run"
    slow = ["trainer.max_steps=100000", "trainer.checkpoint_every=0", "task.seconds=0.01"]
    process = in_a_process(lambda: train(recipe(*slow), run, progress=False))
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status
    state = load_state(run / "checkpoints")
    assert state["step"] >= 10
    assert read_metadata(run / "weights" / "task.net.safetensors")["steps"] == state["step"]


def test_a_signal_to_the_whole_group_saves_although_it_reaches_the_workers_first(tmp_path, recipe):
    run = tmp_path / "run"
    slow = ["trainer.max_steps=100000", "trainer.checkpoint_every=0", "task.seconds=0.01", "trainer.workers=2"]

    def work():
        os.setsid()
        train(recipe(*slow), run, progress=False)

    process = in_a_process(work)
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    assert load_state(run / "checkpoints")["step"] >= 10


def test_a_run_killed_while_it_begins_is_begun_again(finished, tmp_path, recipe):
    run = tmp_path / "run"
    run.mkdir()
    (run / "provenance.json").write_text("{}")
    (run / ".resolved.yaml.123.partial").write_text("format")
    with pytest.raises(OutputError, match="already holds something"):
        train(recipe(), run, progress=False)
    train(recipe(), run, resume=True, progress=False)
    assert_equal(full_state(run), full_state(finished))
    assert not list(run.rglob("*.partial"))


def test_what_a_killed_process_was_writing_is_cleared_away(finished, tmp_path, recipe):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / ".step-000000040.pt.99.partial").write_bytes(b"half a state")
    train(recipe(), run, resume=True, progress=False)
    assert not list(run.rglob("*.partial"))


ACCUMULATED = ["trainer.accumulate=3", "trainer.max_steps=12", "trainer.checkpoint_every=5"]


@pytest.mark.parametrize("workers", [0, 2])
def test_accumulated_steps_go_on_with_the_same_bits(tmp_path, recipe, monkeypatch, workers):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(recipe(*ACCUMULATED), whole, progress=False)
    killing = [*ACCUMULATED, f"trainer.workers={workers}", "task.kill_step=8"]
    process = in_a_process(lambda: train(recipe(*killing), run, progress=False))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setenv("TOY_SPARED", "1")
    train(recipe(*killing), run, resume=True, progress=False)
    assert_equal(full_state(run), full_state(whole))
    assert full_state(run)["consumed"] == 12 * 3 * 8


def test_an_accumulated_gradient_is_that_of_the_mean_of_the_losses(tmp_path, recipe):
    calm = ["task.drop=0", "trainer.precision=32", "trainer.ema_decay=null", "trainer.max_steps=1"]
    calm += ["trainer.gradient_clip=null", "optimizer.warmup_steps=0"]
    train(recipe(*calm, "trainer.accumulate=3", "task.norm=false"), tmp_path / "run", progress=False)
    task = build_task(recipe(*calm, "task.norm=false"))
    seeds = [int(np.random.SeedSequence((3, i)).generate_state(2, np.uint64)[1]) for i in range(3)]
    losses = [task.losses(task.batch(i), torch.Generator().manual_seed(seed))["mse"] for i, seed in enumerate(seeds)]
    sum(losses).div(3).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in task.net.parameters() if p.grad is not None])
    state = load_state(tmp_path / "run" / "checkpoints")
    [optimizer] = state["optimizers"].values()
    found = torch.nn.utils.get_total_norm([s["exp_avg"] / 0.1 for s in optimizer["state"].values()])
    assert float(found) == pytest.approx(float(norm), rel=1e-5)


def test_a_full_disk_loses_nothing_that_was_saved(finished, tmp_path, recipe):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for file in (run / "checkpoints").glob("step-000000030.*"):
        file.unlink()

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writes fail, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))  # room for a line, not for a state
        try:
            train(recipe(), run, resume=True, progress=False)
        except OutputError as error:
            os._exit(7 if "step-000000030.pt" in str(error) and "Free some space" in str(error) else 8)

    process = in_a_process(work)
    process.join(60)
    assert process.exitcode == 7
    assert load_state(run / "checkpoints")["step"] == 20
    assert digest(run) == digest(finished)
    train(recipe(), run, resume=True, progress=False)  # there is space again
    assert_equal(full_state(run), full_state(finished))


def test_a_disk_that_is_full_when_metrics_are_logged_costs_only_the_steps_since_the_last_state(
    finished, tmp_path, recipe, monkeypatch
):
    run = tmp_path / "run"
    tried = recipe("trainer.checkpoint_every=3")
    true_open = Path.open

    def full(path, mode="r", *args, **options):
        if path.name == "metrics.jsonl" and mode == "a" and path.exists():
            true_open(path, mode).write('{"step": 20, "lo')  # as much as still fits
            raise OSError(errno.ENOSPC, "No space left on device")
        return true_open(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.jsonl: No space left.*--resume"):
        train(tried, run, progress=False)
    monkeypatch.undo()
    train(tried, run, resume=True, progress=False)
    assert [line["step"] for line in lines(run)] == [line["step"] for line in lines(finished)]
    assert digest(run) == digest(finished)


def test_the_last_step_is_logged_however_short_the_training(tmp_path, recipe):
    train(recipe("trainer.max_steps=3", "trainer.log_every=1000"), tmp_path / "run", progress=False)
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [3]


def test_a_flipped_bit_in_the_newest_state_costs_only_the_steps_since_the_one_before(
    finished, tmp_path, recipe, caplog
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    newest = run / "checkpoints" / "step-000000030.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 16
    newest.write_bytes(content)
    train(recipe(), run, resume=True, progress=False)
    assert "step-000000030.pt is damaged" in caplog.text
    assert_equal(full_state(run), full_state(finished))


def test_a_state_of_another_model_is_refused(finished, tmp_path, recipe):
    run = tmp_path / "run"
    train(recipe("task.width=5"), run, progress=False)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    with pytest.raises(CheckpointError, match="does not fit the recipe"):
        train(recipe("task.width=5"), run, resume=True, progress=False)


def test_a_run_is_never_overwritten(finished, tmp_path, recipe):
    before = digest(finished)
    with pytest.raises(OutputError, match=r"already holds something.*--resume"):
        train(recipe(), finished, progress=False)
    with pytest.raises(OutputError, match="begun with another recipe: seed, task differ"):
        train(recipe("seed=4", "task.width=9"), finished, resume=True, progress=False)
    assert digest(finished) == before
    (tmp_path / "song.flac").write_text("")
    with pytest.raises(OutputError, match="not the folder of a training"):
        train(recipe(), tmp_path, resume=True, progress=False)


def test_a_finished_run_can_be_made_longer_from_its_own_resolved_recipe(finished, tmp_path, registry):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    longer = load(run / "resolved.yaml", ["trainer.max_steps=35", f"plugins=[{TOY}]"], registry=registry)
    train(longer, run, resume=True, progress=False)
    assert load_state(run / "checkpoints")["step"] == 35


def test_a_loss_that_is_not_finite_names_the_step_and_the_batch(tmp_path, recipe):
    run = tmp_path / "run"
    with pytest.raises(SongkitError, match=r"diverged in step 12: the loss is nan.*batch\(12\): rows 8.*--resume"):
        train(recipe("task.nan_step=12"), run, progress=False)
    assert load_state(run / "checkpoints")["step"] == 10


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_exploding_gradient_stops_before_it_does_harm_and_names_the_batch(tmp_path, recipe, accumulate):
    run, batches = tmp_path / "run", r"task.batch\(12\)" if accumulate == 1 else r"task.batch\(24\), task.batch\(25\)"
    with pytest.raises(SongkitError, match=rf"in step 12: .*at most \(gradient_limit\) is expected.*{batches}.*rows 8"):
        train(recipe("task.explode_step=12", f"trainer.accumulate={accumulate}"), run, progress=False)
    state = load_state(run / "checkpoints")
    assert state["step"] == 10
    assert all(torch.isfinite(value).all() for value in state["weights"].values())
    train(recipe("task.explode_step=2", "trainer.gradient_limit=null"), tmp_path / "any", progress=False)


def test_a_time_limit_ends_the_training_with_the_decay_done(tmp_path, recipe):
    limited = recipe("trainer.max_steps=null", "trainer.max_minutes=0.01", "task.seconds=0.02", "trainer.log_every=1")
    train(limited, tmp_path / "run", progress=False)
    logged = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert all(line["seconds"] < 0.6 for line in logged[:-1])
    assert logged[-1]["seconds"] >= 0.6
    assert logged[-1]["lr"] == 0


def test_the_learning_rate_rises_stays_and_falls(recipe):
    task = build_task(recipe("trainer.max_steps=100", "optimizer.decay_fraction=0.4", "optimizer.min_lr_ratio=0.1"))
    rates = []
    for step in range(101):
        task.step = step
        rates.append(task.learning_rate())
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5:61] == pytest.approx([0.01] * 56)
    assert rates[80] == pytest.approx(0.0055)
    assert rates[100] == pytest.approx(0.001)


def test_a_component_of_another_revision_is_not_resumed(finished, tmp_path, recipe):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    resolved = run / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("revision: 1", "revision: 0"))
    with pytest.raises(OutputError, match="revisions of components differ"):
        train(recipe(), run, resume=True, progress=False)
    resolved.write_text("half")
    with pytest.raises(OutputError, match="damaged"):
        train(recipe(), run, resume=True, progress=False)


@pytest.mark.slow
def test_the_command_trains_and_says_where_the_weights_are(tmp_path, recipe_file):
    script = Path(sys.executable).with_name("songkit")
    words = ["train", str(recipe_file), "--out", str(tmp_path / "run"), "--json", "trainer.max_steps=3"]
    done = subprocess.run([script, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["weights"] == [str(tmp_path / "run" / "weights" / "task.net.safetensors")]
    again = subprocess.run([script, *words], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")


def test_a_recipe_without_a_task_is_refused_and_leaves_nothing(tmp_path, registry):
    file = tmp_path / "none.yaml"
    file.write_text("format: 1\n")
    with pytest.raises(RecipeError, match="has no task"):
        train(load(file, registry=registry), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, recipe_file, finished, capsys):
    words = ["train", str(recipe_file), "--dry-run", "--out"]
    assert cli.main([*words, str(tmp_path / "run"), "trainer.max_steps=7"]) == 0
    shown = capsys.readouterr().out
    assert "until 7 steps" in shown
    assert "local/toy, revision 1" in shown
    assert "8 examples a step, 56 in all: no earlier run tells how long" in shown
    assert not (tmp_path / "run").exists()
    assert cli.main([*words, str(finished), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["from_step"] == 30
    assert cli.main([*words, str(finished.parent / "other"), "trainer.max_steps=60", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["minutes"] < 1  # at the pace of the run beside it
    assert cli.main([*words, str(finished)]) == 2
    assert "already holds something" in capsys.readouterr().err


def test_a_dry_run_says_what_is_not_there(tmp_path, recipe_file, capsys):
    data, weights = tmp_path / "none", tmp_path / "none.safetensors"
    words = ["train", str(recipe_file), "--dry-run", "--out", str(tmp_path / "run")]
    words += [f"task.weights={{net: {weights}}}", f"data={{use: songkit/prepared, root: {data}}}"]
    assert cli.main(words) == 2
    shown = capsys.readouterr().out
    assert f"weights.net {weights} (NOT THERE)" in shown
    assert f"root {data} (NOT THERE)" in shown
    data.mkdir()
    weights.write_bytes(b"")
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert f"root {data}" in shown
    assert "NOT THERE" not in shown


def test_a_dry_run_refuses_a_recipe_without_a_task(tmp_path, capsys):
    (tmp_path / "none.yaml").write_text("format: 1\n")
    assert cli.main(["train", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run"), "--dry-run"]) == 2
    assert "has no task, so there is nothing to train" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path, recipe):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*/file/run/provenance\.json"):
        train(recipe(), tmp_path / "file" / "run", progress=False)


def test_a_training_that_fails_to_write_its_weights_has_no_state_of_them_either(tmp_path, recipe, monkeypatch):
    def full(path, *args, **options):
        raise OutputError(f"cannot write {path}: no space")

    monkeypatch.setattr("songkit.train.save_weights", full)
    with pytest.raises(OutputError, match="no space"):
        train(recipe("trainer.checkpoint_every=0"), tmp_path / "run", progress=False)
    monkeypatch.undo()
    # So going on does not take it for complete.
    weights = train(recipe("trainer.checkpoint_every=0"), tmp_path / "run", resume=True, progress=False)
    assert sorted(weights.glob("*.safetensors"))
