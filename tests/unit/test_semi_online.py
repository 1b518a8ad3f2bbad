"""The semi-online loop: policies from their own songs, round by round, and reasons to stop."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import disk
import judges
import numpy as np
import pytest
import rounds

from songkit._mine_inputs import score_of
from songkit.checkpoint import read_metadata
from songkit.cli import main
from songkit.collapse import collapsed, entropy, repetition
from songkit.errors import OutputError, RecipeError
from songkit.lineage import ancestry
from songkit.pairs import CANDIDATE_COLUMNS, MinedCandidates, write_table
from songkit.preference_settings import SemiOnlineSettings
from songkit.recipe import Recipe, load
from songkit.registry import Registry
from songkit.run_folder import open_run
from songkit.semi_online import _judged, semi_online


def write(
    folder: Path, *, reward: str = "brightness, weights: ./reward.safetensors", requests: int = 8, **model: Any
) -> Path:
    """Writes a model, judges, requests and a recipe into a folder, and returns it."""
    judges.write_reward(folder / "reward.safetensors")
    lines = [{"idx": f"r{i}", "gt_lyric": f"[verse] la {'la ' * (i % 3)}la."} for i in range(requests)]
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "loop.yaml").write_text(
        f"""
format: 1
seed: 3
plugins: ['{Path(rounds.__file__)}', '{Path(judges.__file__)}']
{rounds.write_model(folder, **model)}
reward: {{use: local/{reward}}}
metrics: {{ear: local/loudness}}
task: {{use: songkit/train-preference}}
objective: {{use: songkit/dpo, beta: 0.1}}
generate: {{threads: 1, max_seconds: 0.6, temperature: 1.0}}
trainer: {{batch_size: 2, accelerator: cpu, threads: 1, validate_every: 0}}
optimizer: {{lr: 1.0e-3, warmup_steps: 0}}
mine:
  requests: ./requests.jsonl
  limit: 2
  candidates: 2
  strategies: {{bright: {{score: reward.brightness}}}}
semi_online: {{rounds: 2, steps: 2, patience: 9, length_range: [0.0, 1.0e3], least_entropy: 0.0, most_repetition: 9}}
"""
    )
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe."""
    return write(tmp_path_factory.mktemp("rounds"))


def recipe(files: Path, *overrides: str) -> Recipe:
    return load(files / "loop.yaml", overrides, registry=Registry.discover())


@pytest.fixture(scope="module")
def loop(files: Path) -> Path:
    semi_online(recipe(files), files / "loop")
    return files / "loop"


def content(root: Path) -> dict[str, bytes]:
    """What has to be the same however often the loop was interrupted: songs, pairs and weights."""
    found = [*root.rglob("*.parquet"), *root.rglob("*.safetensors"), *root.glob("round-*/mined/codes/*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_each_round_sings_new_requests_with_the_policy_of_the_last(files: Path, loop: Path) -> None:
    rows = [json.loads(line) for line in (loop / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2]
    mined = [MinedCandidates(loop / f"round-{i:02d}" / "mined") for i in range(3)]
    assert [row["request"] for m in mined for row in m.rows[::2]] == [f"r{i}" for i in range(6)]
    assert len({m.policies for m in mined}) == 3
    # Each training starts from the weights that sang its pairs.
    start = ancestry(files / "planner.safetensors")
    first = ancestry(loop / "round-00" / "run" / "weights" / "planner.safetensors")
    second = ancestry(loop / "round-01" / "run" / "weights" / "planner.safetensors")
    assert first[1:] == start
    assert second[1:] == first
    assert not (loop / "round-02" / "run").exists()
    for row in rows[:2]:
        assert row["training"]["step"] == 2
        assert row["training"]["preference"] > 0
    assert "training" not in rows[2]


def test_the_best_policy_is_kept(files: Path, loop: Path) -> None:
    outcome = semi_online(recipe(files), loop)  # all there: answers from what was written
    scores = [row["score"] for row in outcome.rounds]
    assert outcome.best == int(np.argmax(scores))
    assert outcome.reason == "2 rounds are over"
    kept = ancestry(loop / "weights" / "planner.safetensors")[0]
    policies = [files / "planner.safetensors"]
    policies += [loop / f"round-{i:02d}" / "run" / "weights" / "planner.safetensors" for i in range(2)]
    assert kept == ancestry(policies[outcome.best])[0]
    assert read_metadata(loop / "weights" / "planner.safetensors")["component"] == "local/tiny"


def test_a_song_that_cannot_be_judged_counts_as_the_worst(files: Path, loop: Path, tmp_path: Path) -> None:
    shutil.copytree(loop / "round-00" / "mined", tmp_path / "mined")
    whole = MinedCandidates(tmp_path / "mined").rows
    score = score_of(recipe(files))
    values = [row[score] for row in whole]
    best, worst = int(np.argmax(values)), min(values)
    before = json.loads((loop / "rounds.jsonl").read_text().splitlines()[0])
    assert before["score"] == pytest.approx(np.mean(values))
    means = np.mean(np.reshape(values, (2, 2)), 1)  # two requests of two songs
    assert before["score_error"] == pytest.approx(abs(means[0] - means[1]) / 2)

    rows = [{**row, score: None} if i == best else row for i, row in enumerate(whole)]
    write_table(tmp_path / "mined" / "candidates.parquet", rows, CANDIDATE_COLUMNS)
    found = _judged(MinedCandidates(tmp_path / "mined"), score, higher=True)
    assert found["score"] == pytest.approx((sum(values) - max(values) + worst) / len(values))


def test_a_training_on_the_songs_of_another_policy_says_so(
    files: Path, loop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = f"data={{use: songkit/pairs, root: {loop / 'round-01' / 'mined'}}}"
    same = recipe(files, pairs, f"planner.weights={loop / 'round-00' / 'run' / 'weights' / 'planner.safetensors'}")
    open_run(same, tmp_path / "same", resume=False)
    assert "other weights" not in caplog.text
    open_run(recipe(files, pairs), tmp_path / "other", resume=False)
    assert "were sung with other weights than planner starts from" in caplog.text


@pytest.mark.slow  # trains again after each kill
def test_killed_anywhere_it_ends_with_the_same_songs_and_weights(files: Path, loop: Path, tmp_path: Path) -> None:
    root = tmp_path / "killed"
    kills = 0
    for attempt in range(40):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                semi_online(recipe(files), root)
                status = 0
            finally:
                os._exit(status)
        deadline = time.monotonic() + 0.1 * 1.25**attempt
        done, status = 0, 0
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.02)
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        else:
            assert os.waitstatus_to_exitcode(status) == 0
            break
    assert kills >= 2
    semi_online(recipe(files), root)
    whole, again = content(loop), content(root)
    assert [name for name in sorted({*whole, *again}) if whole.get(name) != again.get(name)] == []


def test_it_goes_on_wherever_the_disk_was_full(files: Path, loop: Path, tmp_path: Path) -> None:
    root = tmp_path / "full"
    made: dict[Path, int] = {}
    for name in ("resolved.yaml", "round-00/round.json", "rounds.jsonl", "weights/planner.safetensors"):
        disk.fill(root / name)
        with pytest.raises(OutputError, match=disk.told(root / name)):
            semi_online(recipe(files), root)
        assert not (root / name).exists()
        finished = {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.suffix in (".parquet", ".pt")}
        assert made.items() <= finished.items()  # nothing was sung or trained again
        made = finished
    semi_online(recipe(files), root)
    assert content(root) == content(loop)
    assert (root / "rounds.jsonl").read_bytes() == (loop / "rounds.jsonl").read_bytes()
    assert not list(root.rglob(".*.partial"))


@pytest.mark.slow  # three more trainings
def test_it_stops_without_gain_and_when_songs_collapse(files: Path, tmp_path: Path) -> None:
    outcome = semi_online(recipe(files, "semi_online.patience=0", "semi_online.least_gain=1"), tmp_path / "gain")
    assert outcome.reason == "no gain in 1 rounds"
    assert (outcome.best, len(outcome.rounds)) == (int(outcome.rounds[1]["score"] > outcome.rounds[0]["score"]), 2)
    strict = ["semi_online.length_range=[0.9999,1.0001]", "semi_online.rounds=1"]
    outcome = semi_online(recipe(files, *strict), tmp_path / "collapse")
    assert outcome.reason.startswith("the policy collapses in round 1: songs last")
    assert outcome.best == 0
    kept = ancestry(tmp_path / "collapse" / "weights" / "planner.safetensors")
    assert kept == ancestry(files / "planner.safetensors")


def test_a_refiner_that_is_trained_is_kept_whichever_round_is_the_best(tmp_path: Path) -> None:
    write(tmp_path, refiner=True)
    changes = ["semi_online.rounds=1", "semi_online.refiner=true"]
    outcome = semi_online(recipe(tmp_path, *changes, "mine.strategies.bright.min_gap=9"), tmp_path / "first")
    assert (outcome.best, outcome.reason) == (0, "no pairs were found")
    kept = {file.name: file.read_bytes() for file in (tmp_path / "first" / "weights").iterdir()}
    roles = [f"{role}.safetensors" for role in ("conditioner", "planner", "refiner")]
    assert kept == {name: (tmp_path / name).read_bytes() for name in roles}

    lower = "mine.strategies.bright.higher_is_better=false"  # so that the second round happens to be better
    outcome = semi_online(recipe(tmp_path, *changes, lower), tmp_path / "second")
    assert outcome.best == 1
    for name in roles:
        trained = tmp_path / "second" / "round-00" / "run" / "weights" / name
        assert (tmp_path / "second" / "weights" / name).read_bytes() == trained.read_bytes()
        assert ancestry(trained)[1:] == ancestry(tmp_path / name)

    frozen = recipe(tmp_path, "semi_online.rounds=1", "mine.strategies.bright.min_gap=9")
    semi_online(frozen, tmp_path / "third")
    assert not (tmp_path / "third" / "weights" / "refiner.safetensors").exists()


LIMITS = [
    "semi_online.least_entropy=0.8",
    "semi_online.length_range=[0.6,1.6]",
    "semi_online.most_repetition=0.15",
]
"""All as they are by default: a habit passes its own one alone."""


@pytest.mark.parametrize(
    ("habit", "score", "lr", "measure", "told"),
    [
        ("taste", "reward.brightness", 0.1, "entropy", r"the entropy is N bits, below N \(least_entropy; N in"),
        ("taste", "ear.seconds", 0.03, "seconds", r"songs last N s, outside N to N s \(length_range; N s in"),
        ("echo", "reward.steadiness", 0.2, "repetition", r"N% of the frames repeat, above N% \(most_repetition; N% in"),
    ],
)
def test_a_policy_that_learns_a_bad_habit_is_stopped_and_the_last_good_one_kept(
    tmp_path: Path, habit: str, score: str, lr: float, measure: str, told: str
) -> None:
    """It sings ever fewer ids, ends ever earlier, or repeats itself with as many ids as before; its judge is glad."""
    steady = {"reward": "steadiness"} if score == "reward.steadiness" else {}
    write(tmp_path, planner=habit, requests=28, **steady)
    asked = [
        *LIMITS,
        "semi_online.rounds=6",
        "semi_online.steps=8",
        "mine={limit: 4, candidates: 4}",
        f"mine.strategies.bright.score={score}",
        # Where the length is not the habit, it is given.
        f"generate={{guidance: 1, {'max_seconds: 2' if measure == 'seconds' else 'min_seconds: 1, max_seconds: 1'}}}",
        "trainer.batch_size=4",
        f"optimizer={{lr: {lr}, decay_fraction: 0}}",
    ]
    outcome = semi_online(recipe(tmp_path, *asked), tmp_path / "loop")
    *good, last = outcome.rounds
    number = len(good)
    assert number >= 2
    assert [row["collapse"] for row in good] == [""] * number
    said = re.fullmatch(
        rf"the policy collapses in round {number}: {told} the first round\)".replace("N", r"([\d.]+)"), outcome.reason
    )
    assert said is not None, outcome.reason
    value, *limits, first = (float(text) / (100 if measure == "repetition" else 1) for text in said.groups())
    assert (value, first) == pytest.approx((last[measure], good[0][measure]), abs=1e-3)
    expected = {"entropy": [0.8 * first], "seconds": [0.6 * first, 1.6 * first], "repetition": [first + 0.15]}[measure]
    assert limits == pytest.approx(expected, abs=2e-3)
    written = [json.loads(line) for line in (tmp_path / "loop" / "rounds.jsonl").read_text().splitlines()]
    assert written == list(outcome.rounds)
    assert outcome.reason.endswith(f": {last['collapse']}")
    # The judge is pleased most by the round that is not kept.
    scores = [row["score"] if measure != "seconds" else -row["score"] for row in outcome.rounds]
    assert scores[-1] == max(scores)
    assert outcome.best == number - 1
    weights = Path("weights") / "planner.safetensors"
    trained = tmp_path / "loop" / f"round-{number - 2:02d}" / "run" / weights
    assert (tmp_path / "loop" / weights).read_bytes() == trained.read_bytes()


def test_another_recipe_is_refused(files: Path, loop: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"generate\.temperature was 1\.0, is 0\.5"):
        semi_online(recipe(files, "generate.temperature=0.5"), loop)
    with pytest.raises(OutputError, match="optimizer differ"):
        semi_online(recipe(files, "optimizer.lr=1"), loop)
    with pytest.raises(RecipeError, match=r"has 8 requests from mine\.start on; 10 are needed"):
        semi_online(recipe(files, "semi_online.rounds=4"), tmp_path / "long")
    with pytest.raises(RecipeError, match=r"(?s)has no objective.*`mine\.limit`"):
        semi_online(recipe(files, "objective=null", "mine.limit=null"), tmp_path / "none")
    with pytest.raises(RecipeError, match="it has no refiner that could be trained"):
        semi_online(recipe(files, "semi_online.refiner=true"), tmp_path / "none")


def test_the_command_tells_the_rounds(files: Path, loop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["semi-online", str(files / "loop.yaml"), "--out", str(loop)]) == 0
    told = capsys.readouterr().out
    assert "reward.brightness" in told
    assert "2 rounds are over" in told


def test_collapse_is_seen_in_ids() -> None:
    rng = np.random.default_rng(0)
    lively, looped = rng.integers(0, 64, 4000), np.tile(rng.integers(0, 64, 25), 160)
    assert entropy(lively) == pytest.approx(6, abs=0.05)
    assert entropy(np.zeros(9)) == 0
    assert repetition(lively) < 0.01
    assert repetition(looped) > 0.9
    assert repetition(np.zeros(3)) == 0
    settings = SemiOnlineSettings()
    first = {"entropy": 6.0, "seconds": 10.0, "repetition": 0.1, "finished": 1.0}
    assert collapsed(first, first, settings) == ""
    entropy_fell = "the entropy is 4 bits, below 4.8 (least_entropy; 6 in the first round)"
    repeated = "30.0% of the frames repeat, above 25.0% (most_repetition; 10.0% in the first round)"
    for name, value, reason in (
        ("entropy", 4.0, entropy_fell),
        ("seconds", 17.0, "songs last 17 s, outside 6 to 16 s (length_range; 10 s in the first round)"),
        ("seconds", 5.0, "songs last 5 s, outside 6 to 16 s (length_range; 10 s in the first round)"),
        ("repetition", 0.3, repeated),
    ):
        assert collapsed({**first, name: value}, first, settings) == reason
    assert collapsed({**first, "entropy": 4.0, "repetition": 0.3}, first, settings) == f"{entropy_fell}; {repeated}"


def test_the_page_about_rounds_names_the_defaults_of_all_that_stops_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "mine-preferences.md").read_text()
    for name, value in vars(SemiOnlineSettings()).items():
        if name not in ("refiner", "score"):  # what is trained, and by what it is judged
            said = list(value) if isinstance(value, tuple) else f"{value:g}"
            assert f"`{name}: {said}`" in page
