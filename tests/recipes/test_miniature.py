"""The miniature's recipes, climbed from songs to a song in tiny sizes and few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from songkit.cli import main
from songkit.recipe import load
from songkit.registry import Registry

pytest.importorskip("songkit_synth")
pytest.importorskip("songkit_levo2")

CODEC = [
    "codec.vae.mels=20",
    "codec.vae.encoder_dims=[16, 16]",
    "codec.vae.encoder_depths=[1, 1]",
    "codec.vae.decoder_dims=[16, 16]",
    "codec.vae.decoder_depths=[1, 1]",
    "codec.semantic.mels=20",
    "codec.semantic.dims=[16, 16]",
    "codec.semantic.depths=[1, 2]",
    "codec.semantic.taps={mix: 2, vocal: 2, accompaniment: 1}",
    "codec.semantic.codebook_size=64",
    "codec.semantic.codebook_dim=4",
    "codec.semantic.warmup=1",
    "codec.semantic.feature_depth=1",
    "codec.diffusion.dim=16",
    "codec.diffusion.depth=1",
    "codec.diffusion.heads=2",
    "codec.diffusion.steps=2",
]
MODEL = [
    *CODEC,
    "vars.codebook_size=64",
    "vars.width=16",
    "planner.tower.layers=1",
    "planner.tower.heads=2",
    "planner.tower.feed_forward=32",
]
REFINER = ["refiner.tower.layers=1", "refiner.tower.heads=2", "refiner.tower.feed_forward=32"]
SHORT = ["trainer.max_steps=3", "trainer.batch_size=2", "trainer.validate_every=3", "trainer.validate_batches=2"]


CLIMBED: set[str] = set()
"""The recipes that were prepared or trained."""


def run(*arguments: str | Path) -> None:
    assert main([str(a) for a in arguments]) == 0, arguments
    CLIMBED.add(str(arguments[1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and all the runs, each begun from what the one before it left."""
    root = tmp_path_factory.mktemp("miniature")
    data, paths = root / "data", [f"paths.data={root / 'data'}", f"paths.validation={root / 'data'}"]
    few = ["data.songs=3", "data.seconds_min=8", "data.seconds_max=12", "prepare.workers=1"]
    run("prepare", "levo2/mini/songs", "--out", data, *few)
    vae, tokens = (root / name / "weights" for name in ("vae", "tokens"))
    run("train", "levo2/mini/vae", "--out", root / "vae", *CODEC, *SHORT, *paths)
    run("train", "levo2/mini/tokens", "--out", root / "tokens", *CODEC, *SHORT, *paths)
    made = [f"paths.tokens={tokens / 'codec.semantic.safetensors'}"]
    both = [*made, f"paths.vae={vae / 'codec.vae.safetensors'}"]
    run("train", "levo2/mini/diffusion", "--out", root / "diffusion", *CODEC, *SHORT, *paths, *both)
    run("prepare", "levo2/mini/tokenize", "--out", data, *CODEC, paths[0], *made, "prepare.workers=1")
    run("train", "levo2/mini/planner", "--out", root / "planner", *MODEL, *SHORT, *paths, *made)
    planner = root / "planner" / "weights"
    finished = [
        f"paths.planner={planner / 'planner.safetensors'}",
        f"paths.conditioner={planner / 'conditioner.safetensors'}",
    ]
    run("train", "levo2/mini/refiner", "--out", root / "refiner", *MODEL, *REFINER, *SHORT, *paths, *made, *finished)
    return root


def test_every_recipe_of_the_miniature_is_climbed(trained: Path) -> None:
    recipes = {name for name in Registry.discover().recipes() if name.startswith("levo2/mini/") and "/_" not in name}
    assert len(recipes) >= 7
    assert recipes - CLIMBED == set()


@pytest.mark.parametrize("stage", ["vae", "tokens", "diffusion", "planner", "refiner"])
def test_every_training_logs_finite_losses_and_validates(trained: Path, stage: str) -> None:
    rows = [json.loads(line) for line in (trained / stage / "metrics.jsonl").read_text().splitlines()]
    assert any(key.startswith("valid_") for row in rows for key in row)
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert (trained / stage / "provenance.json").is_file()


def test_training_the_refiner_leaves_what_the_planner_reads(trained: Path) -> None:
    from safetensors.torch import load_file

    before = load_file(trained / "planner/weights/conditioner.safetensors")
    after = load_file(trained / "refiner/weights/conditioner.safetensors")
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed <= {name for name in before if name.startswith("prompts.refiner.")}


def test_the_trained_parts_sing_a_song(trained: Path, tmp_path: Path) -> None:
    weights = {
        "codec": trained / "diffusion/weights/codec.safetensors",
        "conditioner": trained / "refiner/weights/conditioner.safetensors",
        "planner": trained / "planner/weights/planner.safetensors",
        "refiner": trained / "refiner/weights/refiner.safetensors",
    }
    recipe = load("levo2/mini/refiner", [*MODEL, *REFINER], registry=Registry.discover())
    parts = {role: {**recipe.resolved[role], "weights": str(path)} for role, path in weights.items()}
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump({"format": 1, **parts, "generate": {"max_seconds": 4}}))
    lyrics = tmp_path / "lyrics.txt"
    lyrics.write_text("id: tiny\n[verse]\nsing a song of sixpence\n")
    run("generate", lyrics, "--out", tmp_path / "songs", "--seed", "3", "--model", model)
    tracks = {
        name: soundfile.read(tmp_path / "songs/tiny" / f"{name}.flac", dtype="int16")
        for name in ("mix", "vocal", "accompaniment")
    }
    assert {rate for _, rate in tracks.values()} == {24000}
    np.testing.assert_array_equal(tracks["mix"][0], tracks["vocal"][0] + tracks["accompaniment"][0])
    written = json.loads((tmp_path / "songs/tiny/song.json").read_text())
    assert [section["label"] for section in written["sections"]] == ["verse"]
