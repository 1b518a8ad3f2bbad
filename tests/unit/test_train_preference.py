"""Training on pairs: what a pair's probability is, the reference on disk, and that the right song is preferred."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from songkit.components.configs import TransformerConfig
from songkit.components.preference import DPO, SimPO
from songkit.components.preference_configs import DPOConfig, SimPOConfig, TrainPreferenceConfig
from songkit.components.transformer import Transformer
from songkit.errors import LayoutError
from songkit.lineage import inputs_of
from songkit.patterns import parallel
from songkit.recipe import load
from songkit.registry import Registry
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.stream_planner import StreamPlanner
from songkit.tasks.pair_batches import pair_batch, pair_order
from songkit.tasks.preference import TrainPreference
from songkit.tasks.reference import weights_digest
from songkit.testing.exercise import steps_of
from songkit.testing.preferences import TokenisedPairs
from songkit.testing.standins import ModelConfig, SongsConfig, TinyCodec, TinyConditioner
from songkit.testing.tiny_language import TinyRefiner

MODEL = ModelConfig()
SONGS = SongsConfig(songs=5)


@pytest.fixture(scope="module")
def songs() -> TokenisedPairs:
    torch.manual_seed(0)
    return TokenisedPairs(SONGS, TinyCodec(MODEL))


@pytest.fixture
def pairs(songs, tmp_path) -> TokenisedPairs:
    made = object.__new__(TokenisedPairs)
    made.__dict__.update(vars(songs) | {"root": tmp_path})
    return made


def task(data, *, refiner=False, objective=None, seed=0, lr=1e-3, batch_size=2, **options) -> TrainPreference:
    torch.manual_seed(seed)
    tower = Transformer(TransformerConfig(dim=16, layers=1, heads=2, feed_forward=32, dropout=0.3))
    planner = StreamPlanner(MODEL.layout.select(["mix"]), parallel(1), tower, cursor_steps=3)
    return TrainPreference(
        TrainPreferenceConfig(**options),
        planner=planner,
        conditioner=TinyConditioner(MODEL),
        refiner=TinyRefiner(MODEL) if refiner else None,
        objective=objective or DPO(DPOConfig(beta=0.5)),
        data=data,
        settings=TrainerSettings(max_steps=100, batch_size=batch_size, accelerator="cpu"),
        optimizer=OptimizerSettings(lr=lr, warmup_steps=0),
        seed=0,
    )


def test_a_training_prefers_the_right_songs(pairs):
    logged = steps_of(task(pairs, lr=5e-3), 20)
    first, last = logged[0], {name: np.mean([float(row[name]) for row in logged[-4:]]) for name in logged[0]}
    assert float(first["preference"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(first["_drift"]) == pytest.approx(0.0, abs=1e-5)
    assert last["_accuracy"] == 1.0
    assert last["_margin"] > 1
    assert last["preference"] < 0.5
    assert last["_drift"] != 0


def test_planner_and_refiner_are_trained_together(pairs):
    made = task(pairs, refiner=True, train_conditioner=False)
    before = {role: weights_digest({role: module}) for role, module in made.exports().items()}
    steps_of(made, 2)
    moved = {role for role, module in made.exports().items() if weights_digest({role: module}) != before[role]}
    assert moved == {"planner", "refiner"}


def test_a_song_is_the_sum_of_its_ids_its_end_and_the_moves_of_its_cursor(pairs):
    made = task(pairs, refiner=True)
    made.train()
    batch = pair_batch(pairs, np.arange(2))
    found = made._scores(batch)
    assert found.streams == ("mix.0", "cursor", "vocal.0", "accompaniment.0")
    lengths, ended = batch.codes.lengths, batch.codes.ended
    assert ended.tolist() == [False, False, True, True]
    assert found.tokens[:, 0].tolist() == (lengths + ended).tolist()
    assert found.tokens[:, 1].tolist() == (lengths - 1).tolist()

    mixed = dataclasses.replace(batch.codes.arrange(made.planner.layout), ended=ended)
    conditions = made._conditions(batch, "planner")
    logits = made.planner(mixed, conditions).logits.log_softmax(-1)
    song, frames = 2, int(lengths[2])
    ids = mixed.ids[song, 0, :frames].tolist()
    expected = sum(float(logits[song, 0, f, i]) for f, i in enumerate(ids)) + float(logits[song, 0, frames, 32])
    assert float(found.sums[song, 0]) == pytest.approx(expected, rel=1e-5)


def test_a_pair_is_as_likely_alone_as_among_longer_ones(pairs):
    made = task(pairs)
    made.train()
    together = made._scores(pair_batch(pairs, np.arange(5))).sums
    for number in range(5):
        alone = made._scores(pair_batch(pairs, np.array([number]))).sums
        torch.testing.assert_close(alone, together[[number, number + 5]], rtol=1e-5, atol=1e-3)


def test_the_reference_is_computed_once_for_the_same_pairs_and_weights(pairs):
    def prepared(**options):
        made = task(pairs, **options)
        made.prepare_reference()
        return made._tables["data"]

    first, again = prepared(), prepared()
    assert (first.computed, again.computed) == (True, False)
    torch.testing.assert_close(first.sums, again.sums, rtol=0, atol=0)
    assert prepared(recompute=True).computed
    other = prepared(seed=1)
    assert other.computed
    assert other.path != first.path
    assert prepared(max_seconds=2.0).path not in (first.path, other.path)
    assert prepared(cache=str(pairs.root / "elsewhere")).path.parent == pairs.root / "elsewhere"


def test_a_damaged_reference_is_told_and_computed_again(pairs, caplog):
    made = task(pairs)
    made.prepare_reference()
    path = made._tables["data"].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    again = task(pairs)
    again.prepare_reference()
    assert again._tables["data"].computed
    assert "is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_a_resumed_training_goes_on_with_the_reference_it_began_with(pairs):
    begun = task(pairs)
    steps_of(begun, 3)
    state = begun.state()
    for forget in (False, True):
        if forget:
            begun._tables["data"].path.unlink()
        resumed = task(pairs)
        resumed.restore(state)
        torch.testing.assert_close(resumed._tables["data"].sums, begun._tables["data"].sums, rtol=1e-5, atol=1e-4)
        assert resumed.step == 3
        batch = begun.batch(3)
        generator = torch.Generator()
        one, other = (float(made.losses(batch, generator)["preference"]) for made in (begun, resumed))
        assert one == pytest.approx(other, abs=1e-5)


def test_what_needs_no_reference_computes_none(pairs):
    made = task(pairs, objective=SimPO(SimPOConfig()))
    logged = steps_of(made, 2)
    assert not (pairs.root / "reference").exists()
    assert "_drift" not in logged[0]


def test_every_pair_comes_once_in_an_epoch_and_in_another_order_in_the_next(pairs):
    made = task(pairs)
    epochs = [[made.batch(3 * epoch + step).pairs.tolist() for step in range(3)] for epoch in range(4)]
    assert all(sorted(np.concatenate(epoch).tolist()) == list(range(5)) for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) > 1
    assert made.batch(0).pairs.tolist() == epochs[0][0]
    assert made.named(made.batch(0)) == "pairs " + ", ".join(f"{n} (kit-{n})" for n in epochs[0][0])


def test_pairs_of_a_batch_are_of_similar_length():
    class Lengths:
        frames = np.random.default_rng(0).integers(10, 1000, (160, 2))

        def __len__(self):
            return 160

    batches = pair_order(Lengths(), 4, np.random.default_rng(1))
    waste = [1 - Lengths.frames[b].max(1).mean() / Lengths.frames[b].max() for b in batches]
    assert np.mean(waste) < 0.1  # 0.25 if they were drawn alone
    assert sorted(np.concatenate(batches).tolist()) == list(range(160))


def test_a_cut_song_has_no_end(pairs):
    batch = pair_batch(pairs, np.arange(5), max_seconds=2.0)
    assert batch.codes.ids.shape[2] == 50
    assert not batch.codes.ended.any()


def test_what_judges_are_silent_about_is_no_number(pairs, monkeypatch):
    batch = pair_batch(pairs, np.arange(2))
    assert batch.aspects["judge.value"].tolist() == [1.0, 1.0]
    silent = pairs.pair(1)
    silent = dataclasses.replace(silent, rejected=dataclasses.replace(silent.rejected, scores={}))
    monkeypatch.setattr(pairs, "pair", lambda number, of=pairs.pair: silent if number == 1 else of(number))
    assert batch.aspects["judge.value"][0] == 1.0
    assert math.isnan(pair_batch(pairs, np.arange(2)).aspects["judge.value"][1])


def test_pairs_of_another_model_and_pairs_with_prompts_are_refused(pairs, monkeypatch):
    wrong = object.__new__(TokenisedPairs)
    wrong.__dict__.update(vars(pairs) | {"layout": ModelConfig(sizes={"mix": [64]}).layout})
    with pytest.raises(LayoutError, match=r"vocabulary: the planner has 32 ids.*\n.*Mine them with the model"):
        task(wrong)
    pair = pairs.pair(0)
    prompted = dataclasses.replace(pair, request=dataclasses.replace(pair.request, prompt_audio="a.flac"))
    monkeypatch.setattr(pairs, "pair", lambda number: prompted)
    with pytest.raises(LayoutError, match=r"sung to the audio prompt a\.flac"):
        task(pairs).prepare_reference()


def test_an_objective_that_does_not_fit_is_told_before_the_reference_is_computed(pairs):
    made = task(pairs, objective=DPO(DPOConfig(stream_weights={"vocal": 1.0})))
    with pytest.raises(LayoutError, match=r"names vocal; the pairs have the streams mix\.0, cursor"):
        made.prepare_reference()
    assert not (pairs.root / "reference").exists()


def test_a_cache_that_is_not_there_yet_is_no_input_of_a_training(tmp_path):
    file = tmp_path / "prefer.yaml"
    file.write_text("format: 1\ntask: {use: songkit/train-preference, cache: not-yet}\n")
    recipe = load(file, registry=Registry.discover())
    assert Path(recipe.roles["task"].config.cache).name == "not-yet"
    assert inputs_of(recipe) == []
