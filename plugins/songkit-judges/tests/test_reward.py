"""The musicality reward: what it learns, from what, and what is done with it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from songkit.errors import RecipeError, RequestError
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.testing import samples
from songkit.testing.exercise import steps_of
from songkit.testing.standins import SongsConfig, TinySongs
from songkit.types import TIERS, ArrayTrack, Audio, Song
from songkit_judges import train_reward
from songkit_judges.configs import SHIPPED, MusicalityConfig, MusicalityScoreConfig, TieredConfig, TrainRewardConfig
from songkit_judges.features import MEASURES, SIZE, features_of, stems
from songkit_judges.preferences import pairs_of_tiers, pairwise_accuracy, read_preferences
from songkit_judges.reward import MusicalityMetric, MusicalityReward, load_reward
from songkit_judges.tiered import TieredSongs
from songkit_judges.train_reward import TrainReward

needs_musicnn = pytest.mark.skipif(
    importlib.util.find_spec("musicnn") is None, reason="pip install --no-deps musicnn==0.1.0"
)


class Songs:
    """Songs of alternating tiers, each of another level."""

    def __init__(self, count, tiers=TIERS, level=1.0):
        self.tiers = [tiers[i % len(tiers)] for i in range(count)]
        self.level = level

    def __len__(self):
        return len(self.tiers)

    def __getitem__(self, index):
        return Song(
            id=f"s-{index}",
            tier=self.tiers[index],
            tracks={r: ArrayTrack(np.full((1, 9), self.level / (index + 1), np.float32), 9) for r in ROLES},
        )


ROLES = ("vocal", "accompaniment")


@pytest.fixture
def heard(monkeypatch):
    """Makes listening instant: the first measure is the tier with noise, the second is constant, the rest is noise."""
    listened = []

    def features_of(audio):
        index = len(listened)
        listened.append(index)
        features = torch.from_numpy(np.random.default_rng(index).standard_normal(SIZE)).float()
        features[len(MEASURES) + 3 :] = 0.5  # so many songs cannot teach to ignore two hundred of them
        features[0] = index % 5 + 0.3 * features[0]
        features[1] = 7.0
        return features[None]

    monkeypatch.setattr(train_reward, "features_of", features_of)
    return listened


def task(data, steps=60, **options):
    return TrainReward(
        TrainRewardConfig(**options),
        reward=MusicalityReward(MusicalityConfig(hidden=8)),
        data=data,
        settings=TrainerSettings(max_steps=steps, batch_size=32, accelerator="cpu"),
        optimizer=OptimizerSettings(lr=0.02, weight_decay=0.3, warmup_steps=0),
        seed=0,
    )


def trained(*given, **options):
    made = task(*given, **options)
    steps_of(made, made.settings.max_steps)
    return made


def written(made):
    """The reward as `load_reward` reads it."""
    reward = MusicalityReward(MusicalityConfig(hidden=8)).eval()
    reward.load_state_dict(made.exports()["reward"].state_dict())
    return reward


def test_what_is_learnt_from_tiers_holds_for_songs_that_were_held_out(heard):
    made = trained(Songs(150))
    values = made.validate_step(60)
    assert values["accuracy"] > 0.85
    assert values["accuracy_low"] <= values["accuracy"] <= values["accuracy_high"]
    assert values["tier_beside"] > 0.8
    thresholds = written(made).thresholds.tolist()
    assert thresholds == sorted(thresholds)
    train, held = set(made._train_pairs.ravel().tolist()), set(made._held_pairs.ravel().tolist())
    assert train & held == set()
    assert len(train | held) == 150


def test_thresholds_give_the_trained_songs_the_shares_of_their_tiers(heard):
    made = trained(Songs(100, (*TIERS, *TIERS[:1] * 5)), held_out=0.0)
    tiers = written(made).tiers(torch.from_numpy(made._scores(np.arange(100))))
    assert [tiers.count(tier) for tier in TIERS] == pytest.approx([60, 10, 10, 10, 10], abs=1)


def test_what_is_written_has_the_odds_and_tiers_of_held_out_songs(heard):
    made = trained(Songs(150))
    before = {name: value.clone() for name, value in made.reward.state_dict().items()}
    values, reward, held = made.validate_step(60), written(made), torch.from_numpy(made._held)
    raw, scores = made._scores(made._held), reward(made.features[held]).detach()
    assert values["temperature"] != 1
    assert scores.tolist() == pytest.approx((raw / values["temperature"]).tolist(), rel=1e-4, abs=1e-5)
    tiers = reward.tiers(scores)
    known = [TIERS[i % 5] for i in made._held]
    assert [tiers.count(tier) for tier in TIERS] == [known.count(tier) for tier in TIERS]
    after = made.reward.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # the training goes on as it was


def test_a_feature_that_never_differed_is_not_heard(heard):
    reward = trained(Songs(40), steps=2).reward.eval()
    features = torch.zeros(2, SIZE)
    features[1, 1] = 1e6
    assert torch.allclose(*reward(features).detach())
    deaf = trained(Songs(40), steps=2, embedding=False).reward.eval()
    features[1] = 0
    features[1, len(MEASURES) :] = 1e6
    assert torch.allclose(*deaf(features).detach())


def test_a_listening_test_decides_where_there_is_one(heard, tmp_path):
    rows = [f"s-{i},ann,{-(i % 5)}" for i in range(100)]  # likes the low tiers
    (tmp_path / "test.csv").write_text("\n".join(["song,rater,score", *rows]))
    made = trained(Songs(100), preferences=str(tmp_path / "test.csv"))
    scores = made._scores(np.arange(100))
    assert np.corrcoef(scores, np.arange(100) % 5)[0, 1] < -0.8
    reward, held = written(made), torch.from_numpy(made._held)
    tiers = reward.tiers(reward(made.features[held]).detach())
    assert [tiers.count(tier) for tier in TIERS] == pytest.approx([len(held) / 5] * 5, abs=1)
    assert "tier_right" not in made.validate_step(60)  # what the listeners hold of the tiers is not known


def test_songs_are_listened_to_once(heard, tmp_path):
    path = str(tmp_path / "kept" / "features.npz")
    first = task(Songs(20), features=path)
    again = task(Songs(20), features=path)
    assert len(heard) == 20
    assert torch.equal(first.features, again.features)
    task(Songs(22), features=path)
    assert len(heard) == 22


def test_other_audio_under_known_ids_is_listened_to(heard, tmp_path):
    path = str(tmp_path / "features.npz")
    task(Songs(20), features=path)
    other = task(Songs(20, level=-1.0), features=path)
    assert len(heard) == 40
    assert torch.equal(other.features, task(Songs(20, level=-1.0), features=path).features)
    task(Songs(20), features=path)  # what was heard first is still there
    assert len(heard) == 40


def test_songs_without_pairs_are_refused(heard, tmp_path):
    with pytest.raises(RecipeError, match="no pair of a better and a worse one"):
        task(Songs(10, TIERS[:1]))
    (tmp_path / "test.csv").write_text("chosen,rejected,rater\ns-0,other,ann\n")
    with pytest.raises(RecipeError, match="names 1 songs that are not in `data`, such as other"):
        task(Songs(10), preferences=str(tmp_path / "test.csv"))


def test_a_training_whose_accuracy_could_not_be_told_is_refused(heard, tmp_path):
    with pytest.raises(RecipeError, match=r"among the 0 of 12 songs .* set it to 0 to train on all songs"):
        task(Songs(12), held_out=0.01)
    pairs = csv(tmp_path, "chosen,rejected,rater\ns-0,s-1,ann\ns-12,s-2,ann\n")  # s-12 alone is held out
    with pytest.raises(RecipeError, match=r"task.held_out is 0.25, and among the 3 of 20 songs"):
        task(Songs(20), preferences=str(pairs))
    assert task(Songs(20), preferences=str(pairs), held_out=0.0).validate_step(0) == {}


def csv(tmp_path, text):
    path = tmp_path / "test.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_opinions_of_one_rater_make_pairs(tmp_path):
    path = csv(tmp_path, "rater,song,score,remark\nann,a,5,\nann,b,3,hm\nann,c,3,\nbob,a,1,\nbob,b,2,\n")
    assert read_preferences(path) == [("a", "b"), ("a", "c"), ("b", "a")]


def test_choices_are_pairs(tmp_path):
    assert read_preferences(csv(tmp_path, "\ufeffchosen,rejected,rater\na,b,ann\nb,c,bob\n")) == [
        ("a", "b"),
        ("b", "c"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"columns \(none\); expected song,rater,score or chosen,rejected,rater"),
        ("song,score\na,1\n", "columns song, score; expected"),
        ("song,rater,score\na,ann,good\n", "row 2: the score is 'good'; expected a number"),
        ("song,rater,score\na,ann,nan\n", "row 2: the score is 'nan'"),
        ("song,rater,score\na,,3\n", "row 2: rater is empty"),
        ("chosen,rejected,rater\na,a,ann\n", "row 2: song 'a' is chosen and rejected"),
        ("song,rater,score\na,ann,3\nb,ann,3\n", "holds no pair"),
    ],
)
def test_a_listening_test_that_cannot_be_read_is_refused(tmp_path, text, told):
    with pytest.raises(RequestError, match=told):
        read_preferences(csv(tmp_path, text))


def test_a_listening_test_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RequestError, match="cannot read the listening test"):
        read_preferences(tmp_path / "nothing.csv")


@given(st.lists(st.sampled_from([*TIERS, None]), min_size=2, max_size=12), st.integers(0, 3))
def test_true_scores_are_always_in_order_and_reversed_ones_never(tiers, seed):
    pairs = pairs_of_tiers(tiers)
    assert all(TIERS.index(tiers[a]) > TIERS.index(tiers[b]) for a, b in pairs.tolist())
    if len(pairs):
        truth = np.array([TIERS.index(tier) if tier else 0 for tier in tiers], float)
        assert pairwise_accuracy(truth, pairs, replicates=20, seed=seed)[0] == 1
        assert pairwise_accuracy(-truth, pairs, replicates=20, seed=seed)[0] == 0
        assert pairwise_accuracy(0 * truth, pairs, replicates=20, seed=seed) == (0.5, 0.5, 0.5)


def test_the_interval_of_chance_holds_a_half():
    rng = np.random.default_rng(0)
    pairs = pairs_of_tiers([TIERS[i % 5] for i in range(60)])
    _, low, high = pairwise_accuracy(rng.standard_normal(60), pairs)
    assert low < 0.5 < high
    assert high - low > 0.1  # not as narrow as if the 1,440 pairs were independent


@needs_musicnn
def test_how_loud_a_song_is_does_not_matter():
    audio = stems(samples.song(0, sample_rate=16000))
    softer = Audio({name: 0.25 * track for name, track in audio.tracks.items()}, audio.lengths, audio.sample_rate)
    loud, soft = features_of(audio), features_of(softer)
    assert torch.allclose(loud, soft, rtol=1e-3, atol=1e-3)
    assert loud.shape == (1, SIZE)


def test_a_song_without_stems_has_no_musicality():
    with pytest.raises(RequestError, match="song 'a' has no accompaniment, no vocal"):
        stems(Song(id="a"))
    with pytest.raises(RequestError, match="there is no vocal"):
        features_of(Audio({"accompaniment": torch.ones(1, 1, 99)}, torch.tensor([99]), 16000))


@needs_musicnn
def test_the_shipped_reward_tells_good_songs_from_bad_ones():
    synth = pytest.importorskip("songkit_synth.source")
    from songkit_synth.configs import SynthSongsConfig

    form = {"split": "test", "songs": 2, "seconds_min": 10, "seconds_max": 14, "sample_rate": 24000, "channels": 1}
    metric = MusicalityMetric(MusicalityScoreConfig())
    for tier in ("very-low", "very-high"):
        source = synth.build(SynthSongsConfig(tiers={tier: 1.0}, tracks=list(ROLES), **form))
        for i in range(2):
            metric.update(stems(source[i]), [source[i]])
    rows = metric.per_song()
    assert max(row["musicality"] for row in rows[:2]) + 1 < min(row["musicality"] for row in rows[2:])
    assert {row["tier_number"] for row in rows[:2]} <= {0, 1}
    assert {row["tier_number"] for row in rows[2:]} <= {3, 4}


@needs_musicnn
def test_a_tiered_source_labels_the_songs_of_another():
    songs = TinySongs(SongsConfig(songs=2))
    source = TieredSongs(TieredConfig(), songs=songs)
    assert len(source) == 2
    song = source[1]
    score = load_reward().score(stems(songs[1]), [songs[1]])[:, 0]
    assert song.tier == load_reward().tiers(score)[0]
    assert song.provenance["judged"] == {"musicality": round(float(score), 6), "tier_of_source": songs[1].tier}
    assert song.id == songs[1].id


def test_what_songs_are_labelled_with_decides_the_stage_whether_it_is_named_or_shipped(tmp_path):
    pytest.importorskip("songkit_synth")
    from songkit._identity import identity_of
    from songkit.lineage import digest_of, inputs_of
    from songkit.recipe import load
    from songkit.registry import Registry

    file = tmp_path / "heard.yaml"
    file.write_text(
        "format: 1\ndata: {use: judges/tiered, songs: {use: synth/songs, songs: 1}}\n"
        "metrics: {musicality: {use: judges/musicality}}\n"
    )
    recipe = load(str(file), [], registry=Registry.discover())
    assert {source.key: source.path for source in inputs_of(recipe)} == {"data.model": SHIPPED}
    identity = identity_of("prepare", recipe)
    assert identity["data.model"] == f"sha256:{digest_of(SHIPPED)}"
    (tmp_path / "same.safetensors").write_bytes(SHIPPED.read_bytes())
    named = load(str(file), [f"data.model={tmp_path / 'same.safetensors'}"], registry=Registry.discover())
    assert identity_of("prepare", named) == identity
    assert identity["metrics.musicality.model"] == ""  # stages that were made before go by the judge's revision


@needs_musicnn
@pytest.mark.slow
def test_the_shipped_recipe_trains_a_reward_that_the_judge_takes(tmp_path):
    pytest.importorskip("songkit_synth")
    from songkit.recipe import load
    from songkit.registry import Registry
    from songkit.train import train

    options = ["data.songs=8", "data.seconds_min=8", "data.seconds_max=12", "trainer.max_steps=4", "task.held_out=0"]
    recipe = load("judges/train-musicality", options, registry=Registry.discover())
    weights = train(recipe, tmp_path / "run", progress=False) / "reward.safetensors"
    metric = MusicalityMetric(MusicalityScoreConfig(model=str(weights)))
    song = samples.song(0)
    metric.update(stems(song), [song])
    assert metric.per_song()[0]["tier"] in TIERS
