import copy
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from songkit.checkpoint import load_state, load_weights, read_metadata, save_state, save_weights
from songkit.errors import CheckpointError, OutputError

META = {"component": "levo2/vae", "revision": 2, "config": {"dim": 4}}


def make(seed=0, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "vae.safetensors"
    save_weights(file, make(), META)
    return file


def test_weights_come_back_as_they_were(path):
    module = make(seed=1)
    assert load_weights(path, module, component="levo2/vae", revision=2) == META
    assert same(module, make())
    assert read_metadata(path) == META


def test_the_same_weights_give_the_same_bytes(path, tmp_path):
    for attempt in range(8):  # the order of keys in hash maps differs from time to time
        save_weights(tmp_path / f"{attempt}", make(), META)
        assert (tmp_path / f"{attempt}").read_bytes() == path.read_bytes()


def test_half_precision_halves_the_floats_and_keeps_the_integers(tmp_path):
    module = nn.Linear(64, 64)
    module.register_buffer("count", torch.tensor(2**40 + 1))
    save_weights(tmp_path / "full", module, META)
    save_weights(tmp_path / "half", module, META, dtype=torch.float16)
    other = copy.deepcopy(module)
    nn.init.zeros_(other.weight)
    other.count.zero_()
    load_weights(tmp_path / "half", other)
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "full").stat().st_size
    assert other.weight.dtype == torch.float32
    assert torch.equal(other.weight, module.weight.half().float())
    assert other.count == 2**40 + 1


def test_tied_weights_can_be_saved(tmp_path):
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    module[1].weight = module[0].weight
    save_weights(tmp_path / "tied", module, META)
    load_weights(tmp_path / "tied", module)


@given(st.data())
@settings(derandomize=True, max_examples=60, deadline=None)
def test_no_flipped_bit_is_loaded(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "w"
    save_weights(path, make(), META)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    module = make(seed=1)
    try:
        metadata = load_weights(path, module, component="levo2/vae")
    except CheckpointError:
        assert same(module, make(seed=1)), "a refused file must not change the module"
    else:  # a bit of the header that means nothing, such as one of its padding
        assert metadata == META
        assert same(module, make())


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_refused(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"damaged.*Fetch or copy it again"):
        load_weights(path, make())


def test_a_missing_file_names_the_next_step(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist.*songkit train"):
        load_weights(tmp_path / "none.safetensors", make())


def test_foreign_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"0.weight": torch.zeros(3, 2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not written by songkit"):
        load_weights(tmp_path / "foreign", make())
    torch.save(make().state_dict(), tmp_path / "pickle")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_weights(tmp_path / "pickle", make())


def test_weights_of_another_component_or_revision_are_refused(path):
    with pytest.raises(CheckpointError, match=r"belongs to component 'levo2/vae', not to 'levo2/codec'"):
        load_weights(path, make(), component="levo2/codec")
    with pytest.raises(CheckpointError, match=r"revision 2 of 'levo2/vae'; the installed revision is 3"):
        load_weights(path, make(), revision=3)


def test_tensors_that_do_not_fit_are_listed(path):
    with pytest.raises(
        CheckpointError, match=r"6 tensors of another shape: 0.bias \(\[3\] in the file, \[5\] w.* and 1 more"
    ):
        load_weights(path, make(width=5))
    larger = nn.Sequential(*make(), *[nn.Linear(2, 2) for _ in range(4)])
    with pytest.raises(CheckpointError, match=r"8 tensors missing: 2.bias, .* and 3 more"):
        load_weights(path, larger)
    with pytest.raises(CheckpointError, match=r"5 tensors unexpected: 1.bias"):
        load_weights(path, make()[:1])
    load_weights(path, make()[:1], strict=False)


def test_an_unwritable_place_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_weights(tmp_path / "file" / "w", make(), META)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_is_on_the_disk_beside_its_target_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    sync, rename = os.fsync, os.replace

    def synced(handle):
        name = Path(os.readlink(f"/proc/self/fd/{handle}"))
        events.append(("sync", name))
        sync(handle)

    def renamed(old, new):
        events.append(("rename", Path(old), Path(new)))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    state = save_state(tmp_path, 1, {"step": 1})
    written = []
    for file in (state.with_suffix(".sha256"), state):  # a state never stands without its digest
        written.append(next(event[1] for event in events if event[0] == "rename" and event[2] == file))
        assert written[-1].parent == tmp_path
        renaming = events.index(("rename", written[-1], file))
        assert ("sync", written[-1]) in events[:renaming]
        assert ("sync", tmp_path) in events[renaming:]
    assert events.index(("sync", written[1])) < events.index(("rename", written[0], state.with_suffix(".sha256")))
    assert events.index(("rename", written[0], state.with_suffix(".sha256"))) < renaming


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_full_disk_keeps_the_earlier_state(tmp_path):
    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            save_state(tmp_path, 2, {"weights": torch.ones(100_000)})
        except OutputError as error:
            os._exit(7 if "cannot write" in str(error) and "step-000000002.pt" in str(error) else 8)

    save_state(tmp_path, 1, {"step": 1})
    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    process.join()
    assert process.exitcode == 7
    assert load_state(tmp_path) == {"step": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-000000001.pt", "step-000000001.sha256"]


def test_the_last_two_states_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"step": step})
    assert [file.name for file in sorted(tmp_path.glob("*.pt"))] == ["step-000000002.pt", "step-000000003.pt"]
    assert load_state(tmp_path) == {"step": 3}


@pytest.mark.parametrize("damage", ["flip", "truncate", "no digest"])
def test_a_damaged_newest_state_is_reported_and_the_one_before_it_used(tmp_path, caplog, damage):
    save_state(tmp_path, 1, {"step": 1})
    newest = save_state(tmp_path, 2, {"step": 2})
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "truncate":
        newest.write_bytes(content[:50])
    else:
        newest.with_suffix(".sha256").unlink()
    assert load_state(tmp_path) == {"step": 1}
    assert "step-000000002.pt" in caplog.text


def test_only_damaged_states_are_an_error(tmp_path):
    assert load_state(tmp_path) is None
    save_state(tmp_path, 1, {"step": 1}).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no usable training state"):
        load_state(tmp_path)


def test_states_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    save_state(tmp_path, 1, {"step": Evil()})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path)


@pytest.mark.slow
def test_weights_need_no_lightning():
    code = "import sys, songkit.checkpoint; assert 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_int8_storage_loses_at_most_half_a_step_of_each_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Conv1d(4, 4, 3))
    with torch.no_grad():
        module[0].weight[3] *= 100  # a loud row must not cost the others their precision
    path = tmp_path / "weights.safetensors"
    save_weights(path, module, {"component": "x/y", "revision": 1}, dtype=torch.int8)
    other = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Conv1d(4, 4, 3))
    load_weights(path, other)
    for name, true in module.state_dict().items():
        found = other.state_dict()[name]
        step = true.abs().flatten(1).amax(1) / 127 if true.ndim > 1 else true.abs() / 500
        assert bool((step / 2 + 1e-6 >= (found - true).abs().flatten(1 if true.ndim > 1 else 0).T).all()), name
    assert path.stat().st_size < 4 * sum(t.numel() for t in module.state_dict().values())
