"""Mining: every candidate sung once whatever happens, judged with a status and a reason, and paired as asked."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import fakes
import judges
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit._mine_inputs import directions_of
from songkit._mine_journal import Journal, read_rows
from songkit.cli import main
from songkit.errors import OutputError, RecipeError, RequestError
from songkit.generate import generate
from songkit.mine import mine, plan
from songkit.pairs import CANDIDATE_COLUMNS, MinedPairs, read_table
from songkit.preference_settings import MineSettings, StrategySettings
from songkit.recipe import Recipe, load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.singing import SongModel
from songkit.types import Section, Stream, TokenLayout

REQUESTS, CANDIDATES = 5, 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, requests, and a recipe that mines them."""
    folder = tmp_path_factory.mktemp("mine")
    fakes.write_model(folder)
    judges.write_reward(folder / "reward.safetensors")
    lines = [
        {
            "idx": f"r{i}",
            "gt_lyric": " ; ".join(f"[verse] la la {word}." for word in ("one", "two", "three")[: 1 + i % 3]),
        }
        for i in range(REQUESTS)
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "mine.yaml").write_text(
        f"""
format: 1
defaults: [./model.yaml]
seed: 7
plugins: ['{Path(fakes.__file__)}', '{Path(judges.__file__)}']
reward: {{use: local/brightness, weights: ./reward.safetensors}}
metrics: {{ear: local/loudness}}
generate: {{threads: 1}}
mine:
  requests: ./requests.jsonl
  candidates: {CANDIDATES}
  batch: 2
  strategies:
    short: {{score: ear.seconds}}
    bright: {{score: reward.brightness, min_gap: 0.001}}
"""
    )
    return folder


def recipe(files: Path, *overrides: str) -> Recipe:
    return load(files / "mine.yaml", overrides, registry=Registry.discover())


@pytest.fixture(scope="module")
def mined(files: Path) -> Path:
    mine(recipe(files), files / "mined")
    return files / "mined"


def content(root: Path) -> dict[str, bytes]:
    """All files but those that tell of the run itself."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name not in ("provenance.json", ".lock")
    }


def test_every_candidate_is_a_row_in_order_with_its_scores(files: Path, mined: Path) -> None:
    rows = read_table(mined / "candidates.parquet", CANDIDATE_COLUMNS)
    assert [(row["request"], row["candidate"]) for row in rows] == [
        (f"r{i}", n) for i in range(REQUESTS) for n in range(CANDIDATES)
    ]
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["seed"] for row in rows}) == len(rows)
    for row in rows:
        assert row["ear.seconds"] == pytest.approx(row["seconds"])
        assert 0 < row["ear.crossings"] < 1
        assert 0 < row["reward.brightness"] < 1
    assert "ear.heard" not in rows[0]


def test_a_candidate_is_the_song_that_generate_sings_under_its_name(files: Path, mined: Path) -> None:
    model = SongModel.load(recipe(files))
    pairs = MinedPairs(mined)
    pair = pairs.pair(0)
    name = f"{pair.request.id}.{pair.chosen.candidate}"
    request = SongRequest(id=name, sections=pair.request.sections)
    _, song = next(iter(generate(model, [request], out=files / "again", seed=7)))
    np.testing.assert_array_equal(pair.chosen.ids[:1], song.planned.ids[0])
    np.testing.assert_array_equal(pair.chosen.ids[1:], song.codes.ids[0])
    np.testing.assert_array_equal(pair.chosen.cursor, song.cursor)
    assert pair.chosen.seed == song.seed


def test_pairs_prefer_the_better_one_in_the_direction_of_the_judge(mined: Path) -> None:
    pairs = MinedPairs(mined)
    for pair in map(pairs.pair, range(len(pairs))):
        if pair.strategy == "short":
            assert pair.chosen.scores["ear.seconds"] < pair.rejected.scores["ear.seconds"]
        else:
            gap = pair.chosen.scores["reward.brightness"] - pair.rejected.scores["reward.brightness"]
            assert pair.margin == pytest.approx(gap)
            assert gap >= 0.001
    assert {pairs.pair(i).strategy for i in range(len(pairs))} == {"short", "bright"}


@pytest.mark.slow  # each worker imports torch
def test_workers_and_batches_change_no_byte(files: Path, mined: Path, tmp_path: Path) -> None:
    mine(recipe(files, "mine.batch=4"), tmp_path / "two", workers=2)
    one, two = content(mined), content(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name] and name != "resolved.yaml"] == []


def test_a_finished_folder_is_left_as_it_is(files: Path, mined: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in mined.rglob("*") if path.name != ".lock"}
    summary = mine(recipe(files, "mine.workers=3"), mined)
    assert {path: path.stat().st_mtime_ns for path in mined.rglob("*") if path.name != ".lock"} == before
    assert summary.candidates == REQUESTS * CANDIDATES
    assert plan(recipe(files), mined).finished


def test_killed_at_random_points_it_ends_with_the_same_bytes(files: Path, mined: Path, tmp_path: Path) -> None:
    root, draw = tmp_path / "killed", random.Random(1)
    kills = 0
    for attempt in range(60):
        child = os.fork()
        if child == 0:  # torch is imported already: a process of its own would spend its life on that
            status = 1
            try:
                mine(recipe(files), root)
                status = 0
            finally:
                os._exit(status)
        # Delays that start far below a song's time and grow without a bound: killed often and ended, on any machine.
        time.sleep(draw.uniform(0, 0.02 * 1.15**attempt))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
    assert kills >= 3
    whole, again = content(mined), content(root)
    assert {name: again[name] for name in whole} == whole
    assert not [name for name in again if name not in whole and not name.endswith(".partial")]


@settings(max_examples=25, deadline=None)
@given(
    frames=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 400), min_size=3, max_size=3),
    garbage=st.binary(max_size=30),
)
def test_a_journal_that_lost_any_bytes_goes_on_and_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory, frames: list[int], cuts: list[int], garbage: bytes
) -> None:
    root = tmp_path_factory.mktemp("journal")
    layout = TokenLayout(25.0, (Stream("mix", 0, 300), Stream("vocal", 0, 300)))

    def fill(journal: Journal) -> None:
        for i in range(len(journal.rows), len(frames)):
            ids = np.full((2, frames[i]), 40 + i)
            journal.append({"request": "ä", "candidate": i, "frames": frames[i]}, ids, np.arange(frames[i]))

    for name in ("whole", "cut"):
        with Journal(root / name, layout) as journal:
            fill(journal)
    folder = root / "cut" / ".candidates"
    for name, cut in zip(("ids.u2", "cursor.i32", "rows.jsonl"), cuts, strict=True):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: max(0, len(data) - cut)] + (garbage if name == "rows.jsonl" else b""))
    with Journal(root / "cut", layout) as journal:
        assert [row["candidate"] for row in journal.rows] == list(range(len(journal.rows)))
        fill(journal)
        assert read_rows(root / "cut") == journal.rows
    assert content(root / "cut") == content(root / "whole")


def test_another_recipe_or_policy_is_refused_with_what_differs(files: Path, mined: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"generate\.temperature was 0\.8, is 0\.5; mine\.candidates was 3, is 4"):
        mine(recipe(files, "generate.temperature=0.5", "mine.candidates=4"), mined)
    other = Path(shutil.copytree(files, tmp_path / "files"))
    fakes.write_model(other, loudness=0.3)
    with pytest.raises(OutputError, match=r"codec\.loudness was 0\.4, is 0\.3"):
        mine(recipe(other), mined)
    (other / "requests.jsonl").write_text('{"idx": "x", "gt_lyric": "[verse] la."}\n')
    with pytest.raises(OutputError, match=r"mine\.requests was 'sha256:"):
        mine(recipe(other), mined)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"already holds thesis\.tex and is no mined folder"):
        mine(recipe(files), tmp_path / "full")


def test_pairs_are_made_anew_from_the_same_candidates(files: Path, mined: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(mined, tmp_path / "mined"))
    changed = recipe(files, "mine.strategies.short.pairs_per_request=2", "mine.strategies.bright=null")
    with pytest.raises(OutputError, match=r"Delete .*pairs\.parquet to make them anew"):
        mine(changed, root)
    (root / "pairs.parquet").unlink()
    sung = (root / "codes" / "ids.u1").stat()
    assert set(mine(changed, root).pairs) == {"short"}
    assert (root / "codes" / "ids.u1").stat() == sung


def test_a_candidate_that_is_not_judged_or_not_sung_is_a_row_with_a_reason(
    files: Path, mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fakes.FakeCodec.decode

    def decode(self: fakes.FakeCodec, codes: object, *, seeds: list[int], **more: object) -> object:
        audio = whole(self, codes, seeds=seeds, **more)  # type: ignore[arg-type]
        if seeds[0] == broken:
            audio.tracks["vocal"][:] = float("nan")
        return audio

    rows = read_table(mined / "candidates.parquet", CANDIDATE_COLUMNS)
    broken = next(row["seed"] for row in rows if (row["request"], row["candidate"]) == ("r2", 1))
    # The plugin's own module: local plugins are imported under a name of their own.
    singer = SongModel.load(recipe(files)).codec
    monkeypatch.setattr(type(singer), "decode", decode)
    summary = mine(recipe(files, "metrics.ear.deaf_to=r0.2"), tmp_path / "mined")
    assert not summary.complete
    again = read_table(tmp_path / "mined" / "candidates.parquet", CANDIDATE_COLUMNS)
    assert [(row["request"], row["candidate"]) for row in again] == [(row["request"], row["candidate"]) for row in rows]
    by_name = {(row["request"], row["candidate"]): row for row in again}
    failed, deaf = by_name.pop(("r2", 1)), by_name.pop(("r0", 2))
    assert (failed["status"], failed["frames"]) == ("failed", 0)
    assert "not numbers in vocal" in failed["reason"]
    assert (deaf["status"], deaf["reason"]) == ("unjudged", "ear it cannot be heard")
    assert deaf["reward.brightness"] is not None
    assert deaf["ear.seconds"] is None
    assert {row["status"] for row in by_name.values()} == {"ok"}
    assert all(
        row["ear.seconds"] == old["ear.seconds"] for row, old in zip(again, rows, strict=True) if row["status"] == "ok"
    )


def test_a_reward_that_gives_no_number_is_told_and_makes_no_pair(files: Path, tmp_path: Path) -> None:
    mine(recipe(files, "reward.lost_in=r0.1", "mine.limit=1"), tmp_path / "mined")
    rows = read_table(tmp_path / "mined" / "candidates.parquet", CANDIDATE_COLUMNS)
    assert [row["status"] for row in rows] == ["ok", "unjudged", "ok"]
    assert rows[1]["reason"] == "reward gave no number for ['brightness']"
    assert rows[1]["reward.brightness"] is None
    bright = MinedPairs(tmp_path / "mined", strategies=["bright"])
    assert 1 not in {
        song.candidate for pair in map(bright.pair, range(len(bright))) for song in (pair.chosen, pair.rejected)
    }


def test_each_number_of_a_judge_has_its_own_direction_unless_a_strategy_says_otherwise(files: Path) -> None:
    scores = ["ear.seconds", "ear.crossings", "reward.brightness"]
    assert directions_of(recipe(files), scores) == {scores[0]: False, scores[1]: True, scores[2]: True}
    turned = recipe(files, "mine.strategies.short.higher_is_better=true")
    assert directions_of(turned, scores[:2]) == {scores[0]: True, scores[1]: True}


def test_requests_are_chosen_and_shortened(files: Path, tmp_path: Path) -> None:
    mine(recipe(files, "mine.start=2", "mine.limit=1", "mine.max_sections=2"), tmp_path / "mined")
    assert json.loads((files / "requests.jsonl").read_text().splitlines()[2])["gt_lyric"].count(";") == 2
    (line,) = (tmp_path / "mined" / "requests.jsonl").read_text().splitlines()
    assert [section["lines"] for section in json.loads(line)["sections"]] == [["la la one"], ["la la two"]]
    with pytest.raises(RequestError, match="no request is left"):
        mine(recipe(files, "mine.start=5"), tmp_path / "none")
    with pytest.raises(RequestError, match="no request is left"):
        plan(recipe(files, "mine.start=5"), tmp_path / "planned")


def test_faults_of_a_recipe_are_told_at_once(files: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        mine(recipe(files, "metrics=null", "reward=null", "mine.requests=null"), tmp_path / "mined")
    assert len(caught.value.problems) == 4  # no judge, nothing to sing, and two strategies without a judge
    with pytest.raises(RecipeError, match=r"strategies\.short: score is 'ear'"):
        recipe(files, "mine.strategies.short.score=ear")
    with pytest.raises(RecipeError, match=r"'min_gaps' is no option of StrategySettings\. Did you mean 'min_gap'"):
        recipe(files, "mine.strategies.short.min_gaps=1")
    with pytest.raises(RecipeError, match=r"`strategies\.new\.score` is needed"):
        recipe(files, "mine.strategies.new={min_gap: 1}")
    with pytest.raises(RecipeError, match=r"no candidate has the score 'ear\.second'. Did you mean 'ear\.seconds'"):
        mine(recipe(files, "mine.strategies.short.score=ear.second", "mine.limit=1"), tmp_path / "mined")
    assert len(read_rows(tmp_path / "mined")) == 2 < CANDIDATES  # the first batch
    # Nothing that was sung is lost by that.
    assert mine(recipe(files, "mine.limit=1"), tmp_path / "mined").candidates == CANDIDATES


@pytest.mark.parametrize(
    ("key", "where"),
    [("mine.strategies.bright.score", "mine.strategies.bright"), ("semi_online.score", "semi_online.score")],
)
def test_an_aspect_that_the_reward_model_has_not_is_told_before_a_song_is_sung(
    files: Path, tmp_path: Path, key: str, where: str
) -> None:
    told = rf"^{where}: the reward model has no aspect 'brigthness'\. Did you mean 'brightness'"
    with pytest.raises(RecipeError, match=told):
        mine(recipe(files, f"{key}=reward.brigthness", "mine.limit=1"), tmp_path / "mined")
    assert not read_rows(tmp_path / "mined")


def test_a_pair_needs_two_candidates_and_a_judgement_one() -> None:
    pairing = MineSettings(candidates=1, strategies={"short": StrategySettings(score="ear.seconds")})
    assert pairing.validate() == ["candidates is 1; expected at least 2, the two songs of a pair"]
    assert MineSettings(candidates=0).validate() == ["candidates is 0; expected at least 1"]


@pytest.mark.parametrize("verb", ["mine", "semi-online"])
def test_a_dry_run_refuses_a_device_that_is_not_there(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    words = [verb, str(files / "mine.yaml"), "--out", str(tmp_path / "out"), "--dry-run", "--device", "tpu"]
    assert main(words) == 2
    assert "the device 'tpu' is unknown" in capsys.readouterr().err


def test_songs_are_sung_where_the_recipe_says_unless_the_command_says_otherwise(files: Path, tmp_path: Path) -> None:
    words = ["mine", str(files / "mine.yaml"), "--out", str(tmp_path / "mined"), "mine.limit=1"]
    with pytest.raises(RequestError, match="the device 'cuda:99' is not there"):
        mine(recipe(files, "mine.limit=1", "generate.device=cuda:99"), tmp_path / "mined")
    main([*words, "generate.device=cuda:99", "--device", "cpu"])
    assert plan(recipe(files, "mine.limit=1"), tmp_path / "mined").finished  # it is the same mining


def test_the_command_shows_the_plan_and_what_was_mined(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["mine", str(files / "mine.yaml"), "--out", str(tmp_path / "mined"), "mine.limit=2"]
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "2 requests, 6 songs" in told
    assert "at most 0.8 min" in told
    assert not (tmp_path / "mined").exists()
    assert main(words) in (0, 1)
    assert "2 requests, 6 songs" in capsys.readouterr().out
    assert main([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"]


def test_section_without_words_does_not_count_as_a_short_song() -> None:
    from songkit._mine_inputs import _as_sung

    sections = (Section("intro-short"), Section("verse", ("la",)), Section("chorus", ("li",)))
    assert _as_sung(SongRequest(id="a", sections=sections), 1).sections == sections[:2]
