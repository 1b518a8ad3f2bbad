"""The miniature's recipes, climbed from songs to a song in tiny sizes and few steps."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from songkit.build import build
from songkit.checkpoint import load_state
from songkit.cli import main
from songkit.components.prepared import PreparedSource
from songkit.lineage import find_runs, parents_of
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import TIERS

pytest.importorskip("songkit_synth")
pytest.importorskip("songkit_levo2")

REGISTRY = Registry.discover()
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
SHORT = [
    "trainer.max_steps=2",
    "trainer.log_every=1",
    "trainer.batch_size=2",
    "trainer.validate_every=2",
    "trainer.validate_batches=2",
]


SONGS = ["data.songs=4", "data.seconds_min=8", "data.seconds_max=12", "data.tiers={low: 1}"]
JUDGE = Path(__file__).parents[1] / "judges.py"
SCORED = (
    "{score: ear.crossings, min_gap: 0, min_relative_gap: 0, chosen_limit: null, rejected_limit: null, "
    "chosen_ended: false, keep: 1}"
)
MINED = [
    *("data.songs=2", "generate.max_seconds=2", "mine.candidates=2", f"plugins=[{JUDGE}]", "reward=null"),
    "metrics={phoneme-errors: null, style: null, ear: {use: local/loudness}}",
    *(f"mine.strategies.{name}={SCORED}" for name in ("lyrics", "prompt", "musicality")),
]
TOWER = MODEL[len(CODEC) :]
CODEC_SIZES = {*CODEC, "vars.codebook_size=64"}
"""What a ladder on a trained codec leaves as it is."""
TINY = {
    "songs": [*SONGS, "prepare.workers=1"],
    "valid-songs": [*SONGS, "prepare.workers=1"],
    "full-songs": [*SONGS[:3], "prepare.workers=1"],
    **{stage: ["prepare.workers=1"] for stage in ("heard", "valid-heard", "full-heard")},
    **{stage: [*CODEC, *SHORT] for stage in ("vae", "tokens", "diffusion")},
    **{stage: [*CODEC, "prepare.workers=1"] for stage in ("codes", "valid-codes", "full-codes")},
    "pretrain": [*MODEL, *SHORT],
    "sft": [*TOWER, *SHORT],
    **{stage: [*MODEL, *REFINER, *SHORT] for stage in ("voice", "extension")},
    "pairs": [*MODEL, *REFINER, *MINED],
    "dpo": [*TOWER, *SHORT],
    "semi-online": [
        *(*MODEL, *REFINER, *MINED[:6], f"mine.strategies.musicality={SCORED}"),
        *(
            "data.songs=4",
            "mine.limit=2",
            "semi_online.rounds=1",
            "semi_online.steps=2",
            "trainer.batch_size=2",
            "trainer.log_every=1",
        ),
    ],
    **{stage: [*TOWER, *REFINER, *SHORT] for stage in ("lyrics", "prompt", "musicality", "joint")},
    "merged": [*MODEL, *REFINER, *MINED[3:6]],
    "song": [*MODEL, *REFINER, "generate.max_seconds=4"],
}
"""Sizes and steps by stage of the ladders."""

CLIMBED: set[str] = set()
"""The recipes that were prepared or trained."""


def run(*arguments: str | Path) -> None:
    assert main([str(a) for a in arguments]) == 0, arguments
    CLIMBED.add(str(arguments[1]))


def climb(ladder: str, root: Path, skip: Collection[str] = ()) -> dict[str, Path]:
    """Climbs a ladder in tiny sizes, but for those to `skip`; returns the folders of its stages."""
    loaded = load(ladder, registry=REGISTRY)
    alone = "refiner" not in loaded.stages["song"].settings.starts_from or ladder.endswith("no-refiner")
    tiny = [
        f"stages.{stage}.options.{change}"
        for stage in loaded.stages
        for change in TINY[stage]
        if not (alone and change in REFINER) and change not in skip
    ]
    if "heard" in loaded.stages:  # of four songs none may be heard to be the best
        tiny.append(f"stages.sft.options.data.tiers={json.dumps(TIERS)}")
    run("train", ladder, "--out", root, *tiny)
    CLIMBED.update(stage.source for stage in loaded.stages.values())
    names = json.loads((root / f"{ladder.replace('/', '-')}.json").read_text())["stages"]
    return {stage: root / name for stage, name in names.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of all stages of the ladder, by name, and of the trainings that are no stage of it."""
    root = tmp_path_factory.mktemp("miniature")
    folders = climb("levo2/mini/ladder", root)
    paths = [f"paths.data={folders['codes']}", f"paths.validation={folders['valid-codes']}"]
    paths += [f"paths.tokens={folders['tokens'] / 'weights/codec.semantic.safetensors'}"]
    run("train", "levo2/mini/planner", "--out", root / "planner", *MODEL, *SHORT, *paths)
    planner = root / "planner" / "weights"
    paths += [f"paths.{role}={planner / f'{role}.safetensors'}" for role in ("planner", "conditioner")]
    run("train", "levo2/mini/refiner", "--out", root / "refiner", *MODEL, *REFINER, *SHORT, *paths)
    return {**folders, "planner": root / "planner", "refiner": root / "refiner"}


TOLD = {"pretrain", "sft", "voice", "extension", "song"}
"""Stages that are told tiers, and those that follow from them, without preferences."""

LEVO = [f"levo2/mini/ablations/levo-{name}" for name in ("no-dpo", "strategy-1", "strategy-2", "strategy-3", "joint")]
OTHERS = ["levo2/mini/levo-ladder", *LEVO]
OTHERS += [f"levo2/mini/ablations/{name}" for name in ("no-delay", "no-dpo", "no-refiner", "no-tiers", "heard-tiers")]


@pytest.fixture(scope="module")
def others(trained: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """The stages of the other ladders, climbed in the same folder."""
    return {ladder: climb(ladder, trained["song"].parent) for ladder in OTHERS}


@pytest.mark.slow
def test_ladders_share_the_stages_in_which_they_do_not_differ(
    trained: dict[str, Path], others: dict[str, dict[str, Path]]
) -> None:
    changed = {
        ladder.rpartition("/")[2]: {name for name, folder in folders.items() if folder != trained.get(name)}
        for ladder, folders in others.items()
    }
    levo = {"pretrain", "extension", "pairs", "song"}
    assert changed == {
        "levo-ladder": {*levo, "lyrics", "prompt", "musicality", "merged"},
        "levo-no-dpo": {"pretrain", "extension", "song"},
        "levo-strategy-1": {*levo, "lyrics"},
        "levo-strategy-2": {*levo, "prompt"},
        "levo-strategy-3": {*levo, "musicality"},
        "levo-joint": {*levo, "joint"},
        "no-delay": {"voice", "sft", "extension", "song"},
        "no-dpo": {"extension", "song"},
        "no-refiner": {"pretrain", "sft", "song"},
        "no-tiers": TOLD,
        "heard-tiers": {*TOLD, "heard", "valid-heard", "codes", "valid-codes"},
    }
    levo_ladders = [folders for ladder, folders in others.items() if "/levo-" in ladder]
    assert len({folders["extension"] for folders in levo_ladders}) == 1
    # Of LeVo's strategies several choose the same few pairs in these sizes, and so the same song.
    songs = [folders["song"] for ladder, folders in others.items() if "/levo-" not in ladder]
    assert len({trained["song"], *songs}) == 1 + len(songs)


@pytest.mark.slow
def test_ladders_on_the_shipped_codec_train_none_and_share_what_they_do_not_change(tmp_path: Path) -> None:
    pytest.importorskip("songkit_mini")
    whole = load("mini/ladder", registry=REGISTRY).stages
    assert load("levo2/mini/ladder", registry=REGISTRY).stages.keys() - whole.keys() == {"vae", "tokens", "diffusion"}
    names = ("pre-training", "pre-training-no-delay", "pre-training-no-tiers")
    folders = {name: climb(f"mini/ablations/{name}", tmp_path, skip=CODEC_SIZES) for name in names}
    first = folders["pre-training"]
    changed = {name: {stage for stage in own if own[stage] != first[stage]} for name, own in folders.items()}
    assert changed == {
        "pre-training": set(),
        "pre-training-no-delay": {"voice", "song"},
        "pre-training-no-tiers": {"pretrain", "voice", "song"},
    }
    inputs = {i["key"]: i["path"] for i in json.loads((first["codes"] / "provenance.json").read_text())["inputs"]}
    assert Path(inputs["codec.weights"]).samefile(load("mini/song", registry=REGISTRY).roles["codec"].weights)


@pytest.mark.slow
def test_pretraining_is_told_the_tiers_that_a_judge_hears(others: dict[str, dict[str, Path]]) -> None:
    from songkit_judges.features import stems

    folders = others["levo2/mini/ablations/heard-tiers"]
    judge = build(load("judges/musicality", registry=REGISTRY).roles["reward"]).eval()
    resolved = load(folders["pretrain"] / "resolved.yaml", registry=REGISTRY)
    told, made = build(resolved.roles["data"]), PreparedSource(folders["songs"])
    assert len(told) == len(made) == 4
    for song, before in zip(told, made, strict=True):
        heard = judge.tiers(judge.score(stems(before), [before])[:, 0])
        assert [song.tier] == heard
        assert song.provenance["judged"]["tier_of_source"] == before.tier


@pytest.mark.slow
def test_every_recipe_of_the_miniature_is_climbed(others: dict[str, dict[str, Path]]) -> None:
    recipes = {name for name in REGISTRY.recipes() if name.startswith("levo2/mini/") and "/_" not in name}
    recipes -= {f"levo2/mini/mine-{strategy}" for strategy in ("lyrics", "prompt", "musicality")}  # parts of mine
    assert len(recipes) >= 30
    assert recipes - CLIMBED == set()


TRAININGS = ["vae", "tokens", "diffusion", "pretrain", "sft", "voice", "dpo", "extension", "planner", "refiner"]


@pytest.mark.parametrize("stage", TRAININGS)
def test_every_training_logs_finite_losses_and_validates(trained: dict[str, Path], stage: str) -> None:
    rows = [json.loads(line) for line in (trained[stage] / "metrics.jsonl").read_text().splitlines()]
    assert any(key.startswith("valid_") for row in rows for key in row) or stage == "dpo"
    assert any("loss" in row for row in rows)
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert (trained[stage] / "provenance.json").is_file()


def test_the_ladder_leads_from_songs_to_the_model(trained: dict[str, Path]) -> None:
    runs = [run for run in find_runs(trained["song"].parent) if run.folder in trained.values()]  # no rounds of a loop
    made = {run.folder: {parent.folder for parent, _ in parents_of(run, runs)} for run in runs}
    # Where no round is better than the policy that the loop began with, its weights are those of `dpo`.
    began = {trained["dpo"]} & made[trained["song"]]
    assert made[trained["song"]] == {trained[n] for n in ("diffusion", "semi-online", "extension")} | began
    assert (
        made[trained["extension"]]
        == {trained[n] for n in ("tokens", "codes", "valid-codes", "semi-online", "voice")} | began
    )
    assert made[trained["dpo"]] == {trained[name] for name in ("sft", "pairs")}
    assert made[trained["codes"]] == {trained[name] for name in ("songs", "tokens")}
    assert made[trained["songs"]] == set()
    ancestors, found = [trained["song"]], set()
    while ancestors:
        ancestors += made[ancestors.pop()] - found
        found |= set(ancestors)
    assert found == {trained[stage] for stage in load("levo2/mini/ladder", registry=REGISTRY).stages} - {
        trained["song"]
    }


def test_fine_tuning_sees_the_best_songs_only_and_starts_from_the_pretrained_planner(trained: dict[str, Path]) -> None:
    resolved = load(trained["sft"] / "resolved.yaml", registry=REGISTRY)
    best, every = build(resolved.roles["data"]), PreparedSource(trained["codes"])
    assert {song.tier for song in every} > {"very-high"}
    assert {song.tier for song in best} == {"very-high"}
    inputs = {i["key"]: i["path"] for i in json.loads((trained["sft"] / "provenance.json").read_text())["inputs"]}
    assert Path(inputs["planner.weights"]).parents[1] == trained["pretrain"]


@pytest.mark.parametrize(("first", "then"), [("planner", "refiner"), ("semi-online", "extension")])
def test_training_the_refiner_leaves_what_the_planner_reads(trained: dict[str, Path], first: str, then: str) -> None:
    from safetensors.torch import load_file

    before = load_file(trained[first] / "weights/conditioner.safetensors")
    after = load_file(trained[then] / "weights/conditioner.safetensors")
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed <= {name for name in before if name.startswith("prompts.refiner.")}


def test_the_extension_leaves_the_planner_bit_for_bit(trained: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    state = load_state(trained["extension"] / "checkpoints")
    assert state is not None
    planner = load_file(trained["semi-online"] / "weights/planner.safetensors")  # stored as int8 and read as such
    recipe = load(trained["extension"] / "resolved.yaml", registry=REGISTRY)
    before = build(recipe.roles["planner"]).state_dict()
    assert len(before) > 10
    assert planner.keys() >= before.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, state["weights"][f"planner.{name}"]), name
    assert not any(name.startswith("planner.") for name in state["averages"])


def test_the_trained_parts_sing_a_song(trained: dict[str, Path], tmp_path: Path) -> None:
    model = trained["song"] / "resolved.yaml"
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
