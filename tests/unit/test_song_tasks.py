"""What the tasks on prepared songs do with them: growing samples, tiers, degraded plans, adopted codes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from songkit.components.configs import TrainPlannerConfig, TrainRefinerConfig
from songkit.components.prepared import PreparedSource
from songkit.errors import LayoutError, RecipeError
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.tasks.planner import TrainPlanner
from songkit.tasks.refiner import TrainRefiner
from songkit.tasks.songs import lingering
from songkit.testing.standins import ModelConfig, SongsConfig, TinyCodec, TinyConditioner, TokenisedSongs
from songkit.testing.tiny_language import TinyPlanner, TinyRefiner
from songkit.types import TIERS, Codes, Conditions, Plan

MODEL = ModelConfig()
SETTINGS = TrainerSettings(max_steps=100, batch_size=2, accelerator="cpu")


@pytest.fixture(scope="module")
def codec() -> TinyCodec:
    torch.manual_seed(0)
    return TinyCodec(MODEL).eval()


@pytest.fixture(scope="module")
def songs(codec: TinyCodec) -> TokenisedSongs:
    return TokenisedSongs(SongsConfig(songs=4, sample_rate=codec.sample_rate), codec)


@pytest.fixture
def planner_task(songs: TokenisedSongs) -> Any:
    def make(trainer: TrainerSettings = SETTINGS, codec: Any = None, planner: Any = None, **options: Any) -> Any:
        return TrainPlanner(
            TrainPlannerConfig(**options),
            conditioner=TinyConditioner(MODEL),
            data=songs,
            planner=planner or TinyPlanner(MODEL),
            codec=codec,
            settings=trainer,
            optimizer=OptimizerSettings(),
            seed=1,
        )

    return make


@pytest.fixture
def refiner_task(songs: TokenisedSongs) -> Any:
    def make(codec: Any = None, **options: Any) -> Any:
        return TrainRefiner(
            TrainRefinerConfig(**options),
            conditioner=TinyConditioner(MODEL),
            data=songs,
            planner=TinyPlanner(MODEL),
            refiner=TinyRefiner(MODEL),
            codec=codec,
            settings=SETTINGS,
            optimizer=OptimizerSettings(),
            seed=1,
        )

    return make


def test_samples_grow_over_the_run_to_the_longest(planner_task: Any, songs: TokenisedSongs) -> None:
    shortest = int(min(songs.frames)) / 25
    task = planner_task(grow_from=0.2, grow_until=0.5, max_seconds=0.6 * shortest)
    lengths = [int(task.batch(step).codes.lengths.max()) for step in (0, 25, 50, 99)]
    ends = [0.2 * 25, (0.2 + 0.6 * shortest) / 2 * 25, 0.6 * shortest * 25]
    assert lengths == [round(frames) for frames in (*ends, ends[-1])]
    assert not task.batch(0).complete.any()  # a song that was cut has no end to learn
    accumulated = planner_task(
        dataclasses.replace(SETTINGS, accumulate=4), grow_from=0.2, grow_until=0.5, max_seconds=0.6 * shortest
    )
    assert [int(accumulated.batch(4 * step).codes.lengths.max()) for step in (0, 25, 50, 99)] == lengths
    with pytest.raises(RecipeError, match=r"trainer.max_steps is null"):
        planner_task(dataclasses.replace(SETTINGS, max_steps=None, max_minutes=1.0), grow_from=0.2)


def test_whole_songs_overrun_their_end_in_training_alone(planner_task: Any, songs: TokenisedSongs) -> None:
    task = planner_task(overrun_seconds=0.2, max_seconds=60)
    batch = task.batch(0)
    lengths, overrun = batch.codes.lengths, batch.codes.overrun
    assert overrun == round(0.2 * songs.layout.frame_rate)
    assert batch.complete.all()
    assert batch.codes.ids.shape[2] == int(lengths.max()) + overrun
    for ids, length in zip(batch.codes.ids, lengths.tolist(), strict=True):
        doubled = torch.cat([ids[:, :length], ids[:, :length]], 1)  # the song, and again from its beginning
        after = ids[:, length : length + overrun]
        assert any(torch.equal(after, doubled[:, start : start + overrun]) for start in range(length))
        assert not ids[:, length + overrun :].any()
    assert not planner_task(overrun_seconds=0.2, max_seconds=0.3).batch(0).codes.ids[:, :, 8:].any()  # cut songs go on
    counted = task.planner.score(dataclasses.replace(batch.codes, ended=batch.complete), task.conditions(batch, None))
    assert counted.scores.counted[:, 0].sum(1).tolist() == [length + 1 + overrun for length in lengths.tolist()]


@given(
    stands=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    longest=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_cursor_that_lingers_repeats_what_is_sung_there_and_should_have_moved(
    stands: list[int], longest: int, seed: int
) -> None:
    cursor = np.repeat(2 * np.arange(len(stands)), stands)
    order, there, due = lingering(cursor, longest, np.random.default_rng(seed), ends=False)
    late = due != there
    assert order[~late].tolist() == list(range(len(cursor)))
    assert there.tolist() == cursor[order].tolist()
    assert due[~late].tolist() == cursor.tolist()
    assert (late.sum() == 0) if len(stands) == 1 else (1 <= late.sum() <= longest)
    assert np.flatnonzero(late).tolist() == list(range(late.argmax(), late.argmax() + late.sum()))
    assert (due[late] == there[late] + 2).all()


@given(stands=st.lists(st.integers(1, 6), min_size=2, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_a_cursor_may_linger_at_the_last_place_until_the_song_should_be_over(stands: list[int], seed: int) -> None:
    cursor, rng = np.repeat(np.arange(len(stands)), stands), np.random.default_rng(seed)
    draws = [lingering(cursor, 4, rng, ends=True) for _ in range(60)]
    held = [(order, due) for order, there, due in draws if (due < 0).any() and there.tolist() == cursor.tolist()]
    assert (0 < len(held) < 40) if stands[-1] > 1 else not held
    for order, due in held:
        at, first = int((due < 0).argmax()), len(cursor) - stands[-1]
        assert at > first
        assert (due[at:] == -1).all()
        assert due[:at].tolist() == cursor[:at].tolist()
        assert order[:at].tolist() == list(range(at))
        again = [(np.arange(at - part, at).tolist() * len(order))[: len(order) - at] for part in range(1, 7)]
        assert order[at:].tolist() in again
        assert order.min() >= 0
        assert (order[at:] >= first).all()


class Following(TinyPlanner):
    """Says that it follows the lyrics, and finds the ids of lingering frames less likely than they are."""

    worse = 0.0

    def score(self, codes: Codes, conditions: Conditions) -> Plan:
        plan = super().score(codes, conditions)
        late = functional.pad(conditions.due != conditions.cursor, (0, 1))[:, None]
        assert late.any()
        found = plan.scores.log_probabilities - self.worse * late
        streams = (*plan.scores.streams, "cursor")
        return dataclasses.replace(
            plan, scores=dataclasses.replace(plan.scores, log_probabilities=found, streams=streams)
        )


def test_ids_of_frames_at_which_a_cursor_lingers_teach_nothing(planner_task: Any) -> None:
    planner = Following(MODEL)
    task = planner_task(planner=planner, linger_seconds=1.0)
    batch, losses = task.batch(0), []
    for planner.worse in (0.0, 5.0):
        losses.append(task.losses(batch, torch.Generator().manual_seed(0)))
    assert losses[0]["tokens"] == losses[1]["tokens"] > 0
    assert losses[0]["_accuracy"] == losses[1]["_accuracy"]
    assert task.batch(0).codes.lengths.tolist() == batch.codes.lengths.tolist()
    assert planner_task().batch(0).codes.lengths.sum() < batch.codes.lengths.sum()


def test_songs_that_are_held_at_their_end_should_end(planner_task: Any) -> None:
    task, held = planner_task(overrun_seconds=0.2, linger_seconds=0.5, max_seconds=60), 0
    for step in range(8):
        batch = task.batch(step)
        for cursor, due, length in zip(batch.cursor, batch.due, batch.codes.lengths.tolist(), strict=True):
            held += int(due[length - 1] == -1)
            assert torch.equal(due[length:], cursor[length:])  # what teaches nothing is over where the end is due
            assert (cursor[length:] == cursor[length - 1]).all()
    assert held


def test_a_planner_that_does_not_follow_lyrics_refuses_to_linger(planner_task: Any) -> None:
    task = planner_task(linger_seconds=1.0)
    with pytest.raises(RecipeError, match=r"task.linger_seconds is 1.0, and this planner does not follow the lyrics"):
        task.losses(task.batch(0), torch.Generator().manual_seed(0))


def test_songs_whose_cursor_may_linger_overrun_with_what_is_sung_last(planner_task: Any) -> None:
    batch = planner_task(overrun_seconds=0.2, linger_seconds=0.5, max_seconds=60).batch(0)
    for ids, cursor, length in zip(batch.codes.ids, batch.cursor, batch.codes.lengths.tolist(), strict=True):
        last, overrun = int((cursor[:length] == cursor[length - 1]).sum()), batch.codes.overrun
        repeated = [
            torch.cat([ids[:, length - n : length]] * (1 + overrun), 1)[:, :overrun] for n in range(1, last + 1)
        ]
        assert any(torch.equal(ids[:, length : length + overrun], part) for part in repeated)


def test_tiers_are_told_unless_they_are_hidden(planner_task: Any, songs: TokenisedSongs, monkeypatch: Any) -> None:
    whole = TokenisedSongs.__getitem__
    monkeypatch.setattr(
        TokenisedSongs, "__getitem__", lambda self, i: dataclasses.replace(whole(self, i), tier=TIERS[i % 5])
    )
    told = [r.tier for step in range(8) for r in planner_task().batch(step).requests]
    assert len(set(told)) > 1
    rows = [planner_task(tiers=False).batch(step).requests for step in range(8)]
    hidden = {r.id: {s.tier for row in rows for s in row if s.id == r.id} for row in rows for r in row}
    monkeypatch.setattr(
        TokenisedSongs, "__getitem__", lambda self, i: dataclasses.replace(whole(self, i), tier=TIERS[0])
    )
    again = {r.id: {r.tier} for step in range(8) for r in planner_task(tiers=False).batch(step).requests}
    assert again == hidden  # whatever the songs are like
    assert len(set.union(*hidden.values())) > 1


@functools.cache
def telling() -> tuple[TinyCodec, TokenisedSongs]:
    """A codec that tells its codes, and songs that it has encoded."""
    codec = TinyCodec(MODEL)
    codec.code_vectors = lambda track: torch.arange(32.0)[:, None].cos().repeat(1, 2) + torch.tensor([0.0, 2.0])
    return codec, TokenisedSongs(SongsConfig(songs=2, sample_rate=codec.sample_rate), codec)


@given(share=st.floats(0, 1), count=st.sampled_from([0, 3, 31]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_degraded_tokens_are_the_asked_share_and_of_the_codes_that_sound_alike(
    share: float, count: int, seed: int
) -> None:
    codec, songs = telling()
    task = TrainRefiner(
        TrainRefinerConfig(degrade_share=share, degrade_neighbours=count),
        conditioner=TinyConditioner(MODEL),
        data=songs,
        planner=TinyPlanner(MODEL),
        refiner=TinyRefiner(MODEL),
        codec=codec,
        settings=SETTINGS,
        optimizer=OptimizerSettings(),
        seed=seed,
    ).train()
    batch = task.batch(0)
    codes = batch.codes.arrange(task.planner.layout)
    degraded = task._degrade(codes, torch.Generator().manual_seed(seed))
    again = task._degrade(codes, torch.Generator().manual_seed(seed))
    assert torch.equal(degraded.ids, again.ids)
    known = torch.arange(codes.ids.shape[2]) < codes.lengths[:, None, None]
    assert torch.equal(degraded.ids[~known], codes.ids[~known])
    changed = (degraded.ids != codes.ids) & known
    # Of ids drawn from all 32, one in 32 is the old one; a neighbour never is.
    expected = share * (1 if count else 31 / 32)
    assert abs(float(changed.sum() / known.sum()) - expected) < 5 * (0.25 / int(known.sum())) ** 0.5 + 1e-9
    vectors = torch.nn.functional.normalize(codec.code_vectors("mix"), dim=1)
    if count:
        nearer = (vectors @ vectors.T)[codes.ids[changed]] > (
            vectors[codes.ids[changed]] * vectors[degraded.ids[changed]]
        ).sum(-1)[:, None]
        assert bool((nearer.sum(1) <= count + 1).all())
    task.eval()
    assert torch.equal(task._degrade(codes, torch.Generator()).ids, codes.ids)  # validation hears the plan as it is


def test_degrading_leaves_what_is_to_be_learnt_and_the_frozen_planner(refiner_task: Any) -> None:
    plain, degraded = refiner_task(), refiner_task(degrade_share=1.0)
    degraded.load_state_dict(plain.state_dict())
    before = copy.deepcopy(degraded.planner.state_dict())
    batch = plain.batch(0)
    losses = [t.train().losses(batch, torch.Generator().manual_seed(0)) for t in (plain, degraded)]
    assert losses[0].keys() == losses[1].keys()
    assert any(not torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    sum(value for name, value in losses[1].items() if not name.startswith("_")).backward()
    assert all(p.grad is None for p in degraded.planner.parameters())
    assert all(torch.equal(value, before[name]) for name, value in degraded.planner.state_dict().items())
    with pytest.raises(RecipeError, match=r"degrade_neighbours is 3: that takes a role 'codec'"):
        refiner_task(degrade_share=0.5, degrade_neighbours=3)


def test_only_what_is_untrained_starts_from_the_codec(planner_task: Any, codec: TinyCodec) -> None:
    class Adopting(TinyPlanner):
        adopted = 0

        def adopt(self, tokenizer: Any) -> None:
            self.adopted += 1

    fresh, trained = Adopting(MODEL), Adopting(MODEL)
    trained.weights_loaded = True  # as `songkit.build` says it of what it filled from a file
    planner_task(codec=codec, planner=fresh)
    planner_task(codec=codec, planner=trained)
    assert (fresh.adopted, trained.adopted) == (1, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grow_from": 9.0, "max_seconds": 5.0}, "grow_from is 9.0, expected above 0 and at most max_seconds"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0, expected above 0"),
        ({"degrade_share": 1.5}, "degrade_share is 1.5, expected a probability"),
        ({"overrun_seconds": 1.0}, "overrun_seconds is 1.0, expected 0: a refiner goes where its plan goes"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float], told: str) -> None:
    assert any(told in problem for problem in TrainRefinerConfig(**options).validate())


def test_songs_are_chosen_by_tier_and_a_judge_can_give_the_tiers(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    everything = PreparedSource(root)
    best = PreparedSource(root, tiers=["very-high"])
    assert [song.id for song in best] == ["s0", "s2"]
    assert {song.tier for song in everything} == {"very-high", "low"}
    np.testing.assert_array_equal(best.samples, everything.samples[[0, 2]])
    assert [len(best.song_tracks(i)["vocal"].read()[0]) for i in range(2)] == best.samples.tolist()
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"s0": "low", "s1": "very-high", "s2": "low", "s3": "medium"}))
    assert [song.id for song in PreparedSource(root, tiers=["very-high", "medium"], labels=labels)] == ["s1", "s3"]
    with pytest.raises(LayoutError, match="holds no song of the tiers medium; it holds low, very-high"):
        PreparedSource(root, tiers=["medium"])
    labels.write_text('{"s0": "best"}')
    with pytest.raises(LayoutError, match="'s0': 'best'; expected tiers: very-low"):
        PreparedSource(root, labels=labels)
    labels.write_text('{"s0": "low"}')
    with pytest.raises(LayoutError, match=r"song 's1' of .* has no label"):
        PreparedSource(root, labels=labels)[1]


def prepared(folder: Path) -> Path:
    """Writes a prepared set of four songs, by hand."""
    root, lengths = folder / "set", [10, 20, 30, 40]
    audio = root / "audio-k"
    audio.mkdir(parents=True)
    records = [
        json.dumps({"id": f"s{i}", "sections": [], "tier": ("very-high", "low")[i % 2]}) + "\n" for i in range(4)
    ]
    (root / "songs.jsonl").write_text("".join(records))
    (audio / "vocal.i16").write_bytes(np.arange(100, dtype="<i2").tobytes())
    index = {"format": 1, "sample_rate": 100, "channels": 1, "tracks": ["vocal"], "samples": lengths}
    (audio / "index.json").write_text(json.dumps({**index, "records": [len(record) for record in records]}))
    return root
