"""Every baseline trains for two steps on songs made on the spot, and sings."""

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
pytest.importorskip("songkit_planners")

REGISTRY = Registry.discover()
BASELINES = [name for name in REGISTRY.recipes() if name.startswith("baselines/") and "/_" not in name]
SYSTEMS = [name for name in BASELINES if not name.endswith("-tokenize")]
WRITTEN = {"mixed": ["mix"], "mixed-pro": ["mix"], "level-delay": ["mix"]}

TINY_CODECS = {
    "levo2/music-codec": [
        "codec.vae={mels: 20, encoder_dims: [16, 16], encoder_depths: [1, 1], decoder_dims: [16, 16]}",
        "codec.vae.decoder_depths=[1, 1]",
        "codec.semantic={mels: 20, dims: [16, 16], depths: [1, 2], codebook_dim: 4, feature_depth: 1}",
        "codec.semantic.taps={mix: 2, vocal: 2, accompaniment: 1}",
        "codec.semantic.codebook_size=64",
        "codec.diffusion={dim: 16, depth: 1, heads: 2, steps: 2}",
        "codec.weights=random",
    ],
    "encodec/encodec-24khz": ["codec.filters=2", "codec.dimension=8", "codec.weights=random", "paths.encodec=none"],
}
TINY_MODEL = ["vars.width=16", "planner.tower={layers: 1, heads: 2, feed_forward: 32}"]
SHORT = ["trainer.max_steps=2", "trainer.batch_size=2", "trainer.validate_every=2", "trainer.validate_batches=1"]


def run(*arguments: str | Path) -> None:
    assert main([str(a) for a in arguments]) == 0, arguments


def tiny(name: str) -> list[str]:
    """Overrides that make a recipe's codec small."""
    codec = load(name, registry=REGISTRY, allow_missing=True).roles["codec"].id
    if codec.startswith("encodec/"):
        pytest.importorskip("songkit_encodec")
    return TINY_CODECS[codec]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs with the codes of both codecs, untrained ones."""
    root = tmp_path_factory.mktemp("baselines") / "data"
    few = ["data.songs=2", "data.seconds_min=8", "data.seconds_max=12", "prepare.workers=1"]
    run("prepare", "levo2/mini/songs", "--out", root, *few)
    for name in ("levo2/mini/tokenize", *(set(BASELINES) - set(SYSTEMS))):
        run("prepare", name, "--out", root, *tiny(name), f"paths.data={root}", "prepare.workers=1")
    return root


def test_the_baselines_are_there() -> None:
    assert len(SYSTEMS) == 7


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_baseline_differs_from_the_miniature_only_in_what_it_must(name: str) -> None:
    given = ["paths.encodec=file.th"] if name == "baselines/level-delay" else []
    ours, theirs = (load(n, o, registry=REGISTRY) for n, o in ((name, given), ("levo2/mini/planner", [])))
    differing = {k for k, v in ours.resolved.items() if theirs.resolved.get(k) != v} - {"_components"}
    codec = {"vars", "codec", "conditioner", "data", "validation", "paths"} if given else set()
    assert differing == {"planner"} | codec
    assert ours.resolved["planner"]["tower"] == theirs.resolved["planner"]["tower"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_baseline_trains_and_sings(name: str, data: Path, tmp_path: Path) -> None:
    levo2 = "levo2/mini/tokenize" if name != "baselines/level-delay" else name
    sizes = [*tiny(levo2), *TINY_MODEL]
    if levo2 != name:
        sizes += ["vars.codebook_size=64", "data.codes=levo2/music-codec", "validation.codes=levo2/music-codec"]
    paths = [f"paths.data={data}", f"paths.validation={data}"]
    run("train", name, "--out", tmp_path / "run", *sizes, *SHORT, *paths)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert any("valid_vocal" in row for row in rows) == (name == "baselines/mixed-pro")

    recipe = load(name, [*sizes, *paths], registry=REGISTRY)
    parts = {role: dict(recipe.resolved[role]) for role in ("codec", "conditioner", "planner")}
    parts["codec"]["weights"] = "random"
    for role in ("conditioner", "planner"):
        parts[role]["weights"] = str(tmp_path / f"run/weights/{role}.safetensors")
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump({"format": 1, **parts, "generate": {"max_seconds": 1}}))
    lyrics = tmp_path / "lyrics.txt"
    lyrics.write_text("id: tiny\n[verse]\nsing a song of sixpence\n")
    run("generate", lyrics, "--out", tmp_path / "songs", "--seed", "3", "--model", model)
    made = sorted(path.stem for path in (tmp_path / "songs/tiny").glob("*.flac"))
    assert made == WRITTEN.get(name.split("/")[1], ["accompaniment", "mix", "vocal"])
    tracks = {track: soundfile.read(tmp_path / f"songs/tiny/{track}.flac", dtype="int16")[0] for track in made}
    assert all(0 < len(samples) <= 1.1 * 24000 for samples in tracks.values())
    if len(made) == 3:
        np.testing.assert_array_equal(tracks["mix"], tracks["vocal"] + tracks["accompaniment"])
