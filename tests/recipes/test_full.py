"""The ladder at the released sizes, climbed from a folder of music to a song in tiny sizes and few steps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import judges
import numpy as np
import pytest
import soundfile

from songkit.build import build
from songkit.checkpoint import save_weights
from songkit.cli import main
from songkit.components.prepared import PreparedSource
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import TIERS
from songkit_judges.reward import SHIPPED

REGISTRY = Registry.discover()
RATE = 48000
[CODEC] = [entry.component for entry in REGISTRY.list("codec") if entry.id == "levo2/dual-track-codec"]
TINY_CODEC = f"codec={json.dumps(dataclasses.asdict(CODEC.example))}"
SIZES = ("width=16", "feed_forward=32", "heads=2", "layers=1", "refiner_layers=1", "codebook_size=32", "delay=2")
STRATEGIES = ("lyrics", "prompt", "musicality")
SHORT = [
    *(f"trainer.{name}=2" for name in ("max_steps", "validate_every", "batch_size")),
    *(f"trainer.{name}=1" for name in ("log_every", "accumulate", "devices", "threads", "validate_batches")),
    *("trainer.strategy=auto", "trainer.accelerator=cpu", "trainer.workers=0"),
]
MODEL = ["conditioner.prompt_seconds=1"]
SONGS = [*MODEL, *SHORT, "task.prompt_seconds=1"]
SCORED = "{score: ear.seconds, min_gap: 0, chosen_limit: null, rejected_limit: null, chosen_ended: false, keep: 1}"
SUNG = [
    *(*MODEL, TINY_CODEC, "generate.device=cpu", "generate.threads=1", "generate.max_seconds=4"),
    *("generate.prompt_seconds=1", "data.seconds_min=8", "data.seconds_max=12", "mine.candidates=2", "reward=null"),
    *(f"plugins=[{judges.__file__}]", "metrics={phoneme-errors: null, style: null, ear: {use: local/loudness}}"),
]
TINY = {
    **{stage: ["prepare.workers=1"] for stage in ("songs", "valid-songs", "heard", "valid-heard")},
    **{stage: ["prepare.workers=1", TINY_CODEC] for stage in ("codes", "valid-codes")},
    **{stage: SONGS for stage in ("pretrain", "voice", "extension")},
    # Of four songs none may be heard to be the best.
    "sft": [*SONGS, *(f"{role}.tiers={json.dumps(TIERS)}" for role in ("data", "validation"))],
    "pairs": [*SUNG, "data.songs=2", *(f"mine.strategies.{name}={SCORED}" for name in STRATEGIES)],
    "dpo": [*MODEL, *SHORT],
    "semi-online": [
        *(*SHORT, *SUNG, "data.songs=4", f"mine.strategies.musicality={SCORED}"),
        *("mine.limit=2", "semi_online.rounds=1", "semi_online.steps=2"),
    ],
    "song": [*MODEL, TINY_CODEC, "generate.max_seconds=1"],
}
"""Sizes and steps by stage."""


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four songs with stems and lyrics, as people have them: without tiers."""
    root, rng = tmp_path_factory.mktemp("music"), np.random.default_rng(0)
    times = np.arange(8 * RATE)[:, None] / RATE
    for number in range(4):
        folder = root / f"song-{number}"
        folder.mkdir()
        for name, pitch in (("vocal", 220.0 + 20 * number), ("accompaniment", 110.0)):
            samples = 0.2 * np.sin(2 * np.pi * pitch * times) + 0.01 * rng.standard_normal((len(times), 2))
            soundfile.write(folder / f"{name}.wav", samples, RATE)
        (folder / "lyrics.txt").write_text(f"[verse]\nsing a song of {number}\n\n[chorus]\nla la la\n")
    return root


@pytest.fixture(scope="module")
def folders(music: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of all stages of the ladder, by name."""
    out = tmp_path_factory.mktemp("full") / "ladder"
    codec = out.with_name("codec.safetensors")
    [node] = load("levo2/released/codec", [TINY_CODEC], registry=REGISTRY).roles.values()
    save_weights(codec, build(node), {"component": "levo2/dual-track-codec", "revision": CODEC.revision})
    paths = {"music": music, "valid_music": music, "codec": codec, "judge": SHIPPED}
    words = [f"paths.{name}={path}" for name, path in paths.items()]
    words += [f"vars.{size}" for size in SIZES]
    words += [f"stages.{stage}.options.{change}" for stage, changes in TINY.items() for change in changes]
    assert main(["train", "levo2/full/ladder", "--out", str(out), *words]) == 0
    made = json.loads((out / "levo2-full-ladder.json").read_text())["stages"]
    return {stage: out / folder for stage, folder in made.items()}


@pytest.mark.slow
def test_pretraining_is_told_the_tiers_that_the_judge_hears_in_a_folder_of_music(folders: dict[str, Path]) -> None:
    assert {song.tier for song in PreparedSource(folders["songs"])} == {None}
    told = build(load(folders["pretrain"] / "resolved.yaml", registry=REGISTRY).roles["data"])
    assert len(told) == 4
    for song in told:
        assert song.tier in TIERS
        assert song.provenance["judged"]["tier_of_source"] is None


@pytest.mark.slow
def test_the_full_ladder_leads_from_a_folder_of_music_to_a_song(folders: dict[str, Path], tmp_path: Path) -> None:
    assert set(folders) == set(TINY)
    lyrics = tmp_path / "lyrics.txt"
    lyrics.write_text("[verse]\nla la la\n")
    model = folders["song"] / "resolved.yaml"
    assert main(["generate", str(lyrics), "--out", str(tmp_path), "--model", str(model)]) == 0
    audio, rate = soundfile.read(tmp_path / "lyrics" / "mix.flac")
    assert rate == RATE
    assert audio.shape[1] == 2
