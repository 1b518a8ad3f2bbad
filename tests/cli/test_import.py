"""`songkit import levo2` on a checkpoint of stand-in weights, and on what is none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from levo2_golden import FOLDER, Golden
from levo2_lelm import write_checkpoint, write_recipe
from safetensors import safe_open

from songkit.build import build_roles
from songkit.cli import main
from songkit.errors import CheckpointError
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import TRACKS
from songkit_levo2.importing import recognised
from songkit_levo2.released import DEAD, NAMES, entries, released_shapes

REGISTRY = Registry.discover()
PARTS = ("conditioner", "planner", "refiner")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden.read(FOLDER / "lelm_v2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    """A checkpoint and the recipe of its sizes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder / "model.pt", golden)
    write_recipe(folder / "sizes.yaml", golden.config)
    return folder


@pytest.fixture(scope="module")
def imported(folder: Path) -> Path:
    out = folder / "out"
    assert main(["import", "levo2", str(folder), str(out), "--as", str(folder / "sizes.yaml")]) == 0
    return out


def altered(folder: Path, tmp_path: Path, change) -> Path:
    state = torch.load(folder / "model.pt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "altered.pt")
    return tmp_path / "altered.pt"


def refused(capsys, *arguments: object) -> str:
    assert main(["import", "levo2", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_the_report_tells_what_became_of_every_tensor(imported: Path, golden: Golden) -> None:
    report = json.loads((imported / "report.json").read_text())
    assert set(report["used"]) | set(DEAD) == set(golden.shapes)
    assert not set(report["used"]) & set(DEAD)
    left_out = {name for name in report["unused"] if "[" not in name}
    assert left_out == set(DEAD)
    assert report["missing"] == {}
    assert report["files"] == [*(f"{part}.safetensors" for part in PARTS), "model.yaml", "report.json"]
    assert sorted(path.name for path in imported.iterdir()) == sorted(report["files"])


def test_what_was_imported_is_mapped_in_its_own_type(imported: Path, golden: Golden) -> None:
    built = build_roles(load(imported / "model.yaml", registry=REGISTRY), require_weights=True)
    for part in PARTS:
        assert {p.dtype for p in built[part].parameters()} == {torch.bfloat16}
        assert not any(p.is_meta for p in built[part].parameters())
    with safe_open(imported / "planner.safetensors", framework="pt") as file:
        stored = file.get_tensor("tower.layers.0.qkv.weight")
    assert torch.equal(built["planner"].tower.layers[0].qkv.weight, stored)
    written = sum((imported / f"{part}.safetensors").stat().st_size for part in PARTS)
    numbers = sum(torch.Size(shape).numel() for name, shape in golden.shapes.items() if name not in DEAD)
    assert written == pytest.approx(2 * numbers, rel=0.01)


def test_one_changed_byte_is_found(imported: Path, tmp_path: Path) -> None:
    content = bytearray((imported / "refiner.safetensors").read_bytes())
    content[-100] ^= 1
    (tmp_path / "refiner.safetensors").write_bytes(content)
    parent = imported / "model.yaml"
    text = f"format: 1\ndefaults: [{parent}]\nrefiner: {{weights: ./refiner.safetensors}}\n"
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="SHA-256"):
        build_roles(load(tmp_path / "model.yaml", registry=REGISTRY), ["refiner"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: s.update({"audiolm.emb.1.weight": torch.zeros(2)}),
            "1 tensors that such a model has not: emb.1.weight",
        ),
        (lambda s: s.pop("audiolm.mlp.0.bias"), "it lacks 1: mlp.0.bias"),
        (lambda s: s.update({"audiolm.mlp.0.bias": torch.zeros(3)}), "mlp.0.bias is [3] instead of [64]"),
        (
            lambda s: s.update({"audiolm.emb.0.weight": 3}),
            "more than tensors by name: 'audiolm.emb.0.weight'. Save its tensors alone",
        ),
    ],
)
def test_other_tensors_are_refused_before_anything_is_written(capsys, folder, tmp_path, change, told) -> None:
    path, out = altered(folder, tmp_path, change), tmp_path / "out"
    assert told in refused(capsys, path, out, "--as", folder / "sizes.yaml")
    assert not out.exists()


def test_a_checkpoint_without_its_dead_tensors_is_as_good(capsys, folder, tmp_path) -> None:
    path = altered(folder, tmp_path, lambda s: [s.pop(f"audiolm.{name}") for name in DEAD])
    assert (
        main(["import", "levo2", str(path), str(tmp_path / "out"), "--as", str(folder / "sizes.yaml"), "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert not set(DEAD) & set(report["unused"])


def test_files_that_could_run_code_or_are_no_checkpoints_are_refused(capsys, tmp_path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, told in (("evil", "code"), ("pointer", "not fetched"), ("list", "holds a list"), ("absent", "no file")):
        assert told in refused(capsys, tmp_path / f"{name}.pt", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_mistakes_in_the_command_are_told(capsys, folder, tmp_path) -> None:
    out = tmp_path / "out"
    assert "Did you mean 'v2-large'?" in refused(capsys, folder, out, "--as", "v2-larg")
    assert "is none of base" in refused(capsys, folder, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "already holds something" in refused(capsys, folder, tmp_path / "full")
    assert main(["import", "lev2", str(folder), str(out)]) == 2
    assert "Did you mean 'levo2'?" in capsys.readouterr().err


CODEC = """
codec:
  use: levo2/dual-track-codec
  weights: random
  vae: {channels: 2, multiples: [1, 2, 2, 2, 2], latent: 4, chunk_frames: 16}
  semantic: {mels: 16, front: 4, dim: 8, layers: 2, heads: 2, feedforward: 16, kernel: 3, codebook_dim: 4,
    taps: {mix: 2, vocal: 2, accompaniment: 1}, window_seconds: 2.0}
  diffusion: {flag_dim: 4, layers: 1, heads: 2, feedforward: 16, positions: 50, steps: 2}
  window_seconds: 2.0
  overlap_seconds: 0.5
"""


@pytest.mark.parametrize("request_text", ["[verse]\nsing to me\n", "pure_music: yes\ndescription: piano\n"])
def test_imported_weights_sing(imported: Path, tmp_path: Path, request_text: str) -> None:
    (tmp_path / "model.yaml").write_text(f"format: 1\ndefaults: [{imported / 'model.yaml'}]{CODEC}")
    (tmp_path / "song.txt").write_text(request_text)
    options = [
        "--model",
        str(tmp_path / "model.yaml"),
        "--out",
        str(tmp_path),
        "--max-seconds",
        "0.5",
        "--threads",
        "1",
    ]
    assert main(["generate", str(tmp_path / "song.txt"), *options]) == 0
    sung = {track: soundfile.read(tmp_path / "song" / f"{track}.flac", dtype="int16")[0] for track in TRACKS}
    assert np.array_equal(sung["mix"], sung["vocal"] + sung["accompaniment"])
    assert sung["accompaniment"].any()
    assert sung["vocal"].any() == ("pure" not in request_text)


# --- which of the released models it is ----------------------------------------------------------------------


def state_of(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a released checkpoint, without numbers."""
    with torch.device("meta"):
        parts = build_roles(load(f"levo2/released/{name}", registry=REGISTRY), PARTS)
        shapes = {part: module.state_dict() for part, module in parts.items()}
        layers = {part: len(parts[part].tower.layers) for part in ("planner", "refiner")}
        return {
            source: torch.empty(shape)
            for entry in entries(layers)
            for source, shape in released_shapes(entry, tuple(shapes[entry.part][entry.name].shape)).items()
        }


@pytest.mark.parametrize("name", ["large", "v2-medium", "v2-large"])
def test_tensors_tell_which_model_it_is(tmp_path, name) -> None:
    assert name in NAMES
    assert recognised(tmp_path / "model.pt", state_of(name), REGISTRY) == name


def test_models_of_the_same_tensors_are_told_apart_by_their_config_or_not_at_all(tmp_path) -> None:
    state, path = state_of("base"), tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match=r"base, base-new, base-full(.|\n)*config.yaml(.|\n)*--as"):
        recognised(path, state, REGISTRY)
    config = tmp_path / "config.yaml"
    for theta, name in ((100000.0, "base"), (500000.0, "base-full")):
        config.write_text(f"lm:\n  dim: 1536\n  rope_theta: {theta}\n")
        assert recognised(path, state, REGISTRY) == name
    config.write_text("lm: {dim: 1536}\n")
    with pytest.raises(CheckpointError, match="rope_theta"):
        recognised(path, state, REGISTRY)
