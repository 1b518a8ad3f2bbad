import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import judges
import pytest
import rounds
import safetensors.torch
import torch

from songkit import cli
from songkit._identity import key_of, same_but_for_new_options
from songkit.errors import OutputError, RecipeError, RequestError
from songkit.ladder import climb, plan
from songkit.lineage import find_runs, parents_of
from songkit.recipe import dump, load
from songkit.registry import Registry
from songkit.settings import OptimizerSettings

TOY = Path(__file__).parent.parent / "toy_task.py"
STAGE = f"""format: 1
plugins: [{TOY}]
paths: {{data: none}}
task: {{use: local/toy}}
trainer: {{max_steps: 4, log_every: 2, validate_every: 0, accelerator: cpu, threads: 1}}
"""
LADDER = """format: 1
stages:
  last: {recipe: toy, starts_from: {task.net: middle}, options: {seed: 2}}
  first: {recipe: toy}
  middle: {recipe: toy, starts_from: {task.net: first}, options: {optimizer: {lr: 0.01}}}
"""
REGISTRY = Registry([])


@pytest.fixture
def ladder(tmp_path):
    (tmp_path / "toy.yaml").write_text(STAGE)
    file = tmp_path / "steps.yaml"
    file.write_text(LADDER)
    return lambda *overrides: load(file, overrides, registry=REGISTRY)


def states(ladder, out):
    return {planned.stage.name: planned.state for planned in plan(ladder, out, registry=REGISTRY)}


def run(ladder, out, **options):
    return climb(ladder, out, registry=REGISTRY, progress=False, **options)


def net(folder):
    return safetensors.torch.load_file(folder / "weights" / "task.net.safetensors")


def test_stages_run_in_order_each_from_the_weights_it_names_and_only_once(tmp_path, ladder):
    out = tmp_path / "out"
    assert states(ladder(), out) == {"first": "new", "middle": "waits", "last": "waits"}
    folders = run(ladder(), out)
    assert list(folders) == ["first", "middle", "last"]
    facts = json.loads((folders["last"] / "provenance.json").read_text())
    mark = json.loads((folders["middle"] / "stage.json").read_text())
    assert facts["inputs"] == [
        {
            "key": "task.weights.net",
            "path": str(folders["middle"] / "weights" / "task.net.safetensors"),
            "sha256": mark["outputs"]["task.net"],
        }
    ]
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert states(ladder(), out) == dict.fromkeys(folders, "finished")
    assert run(ladder(), out) == folders
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")} == times


def test_a_stage_is_run_anew_when_its_recipe_or_its_inputs_change_and_the_old_one_is_kept(tmp_path, ladder):
    out = tmp_path / "out"
    before = run(ladder(), out)
    changed = ladder("stages.middle.options.optimizer.lr=0.5")
    planned = {p.stage.name: p for p in plan(changed, out, registry=REGISTRY)}
    assert planned["first"].state == "finished"
    assert planned["middle"].why == "optimizer.lr was 0.01, is 0.5"
    assert planned["last"].state == "waits"
    after = run(changed, out)
    assert after["first"] == before["first"]
    assert not set(list(before.values())[1:]) & set(after.values())
    other = ladder("stages.last.starts_from={task.net: first}")
    [last] = [p for p in plan(other, out, registry=REGISTRY) if p.stage.name == "last"]
    assert last.why.startswith("task.weights.net was sha256:")
    assert states(ladder(), out) == dict.fromkeys(before, "finished")


def test_what_changes_no_numbers_makes_nothing_anew(tmp_path, ladder):
    out = tmp_path / "out"
    run(ladder(), out)
    same = ladder("stages.first.options.trainer={log_every: 1, checkpoint_every: 1, workers: 2}", "vars.x=1")
    assert set(states(same, out).values()) == {"finished"}
    (tmp_path / "moved").mkdir()
    shutil.move(out, tmp_path / "moved" / "out")  # no key holds a path
    assert set(states(ladder(), tmp_path / "moved" / "out").values()) == {"finished"}


def test_an_option_that_came_later_makes_nothing_anew_at_its_default(tmp_path, ladder):
    out = tmp_path / "out"
    folders = run(ladder(), out)
    mark = json.loads((folders["first"] / "stage.json").read_text())
    assert mark["identity"].pop("optimizer.weight_decay") == OptimizerSettings().weight_decay  # as if it were new
    mark["key"] = key_of(mark["identity"])
    (folders["first"] / "stage.json").write_text(json.dumps(mark))
    moved = folders["first"].rename(out / f"first-{mark['key'][:8]}")
    assert states(ladder(), out) == dict.fromkeys(folders, "finished")
    assert run(ladder(), out)["first"] == moved
    used = ladder("stages.first.options.optimizer={weight_decay: 0.5}")
    assert states(used, out)["first"] == "new"
    (moved / "weights" / "task.net.safetensors").unlink()
    with pytest.raises(OutputError, match=r"the weights of task.net changed since the stage was finished"):
        states(ladder(), out)


def test_an_option_of_settings_by_name_makes_nothing_anew_at_its_default_either():
    recipe = load("levo2/mini/mine-lyrics", registry=Registry.discover())
    before = {"mine.strategies.lyrics.min_gap": 0.05}
    for value, same in ((False, True), (True, False)):
        now = {**before, "mine.strategies.lyrics.chosen_ended": value}
        assert same_but_for_new_options(before, now, recipe) == same
    assert not same_but_for_new_options(before, {**before, "mine.strategies.other.chosen_ended": False}, recipe)


def test_one_stage_runs_alone_once_what_it_starts_from_is_there(tmp_path, ladder):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"'middle' starts from 'first', which is not finished.*--stage first"):
        run(ladder(), out, only="middle")
    with pytest.raises(OutputError, match=r"no stage 'midle'. Did you mean 'middle'"):
        run(ladder(), out, only="midle")
    assert list(run(ladder(), out, only="first")) == ["first"]
    assert list(run(ladder(), out, only="middle")) == ["first", "middle"]
    assert states(ladder(), out)["last"] == "new"


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("name", "told"), [("midle", "Did you mean 'middle'"), ("", "Its stages: first, middle, last")]
)
def test_a_stage_that_is_not_there_is_refused_by_run_and_dry_run(tmp_path, ladder, capsys, name, told, more):
    words = ["train", str(tmp_path / "steps.yaml"), "--out", str(tmp_path / "out"), f"--stage={name}", *more]
    assert cli.main(words) == 2
    assert f"has no stage '{name}'. {told}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_killed_ladder_goes_on_with_the_same_bits(tmp_path, ladder, monkeypatch):
    whole = run(ladder(), tmp_path / "whole")
    killing = "stages.middle.options.task.kill_step=3"
    every = "stages.middle.options.trainer.checkpoint_every=2"
    out = tmp_path / "out"
    work = lambda: run(ladder(killing, every), out)  # noqa: E731
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert states(ladder(killing, every), out) == {"first": "finished", "middle": "interrupted", "last": "waits"}
    with pytest.raises(OutputError, match=r"'middle' was interrupted.*--resume"):
        run(ladder(killing, every), out)
    monkeypatch.setenv("TOY_SPARED", "1")
    resumed = run(ladder(killing, every), out, resume=True)
    for name, folder in resumed.items():
        for key, value in net(folder).items():
            assert torch.equal(value, net(whole[name])[key]), (name, key)


def test_a_stage_counts_its_seconds_over_interruptions_without_the_time_between(tmp_path, ladder, monkeypatch):
    out = tmp_path / "out"
    killed = ladder("stages.first.options.task.kill_step=3", "stages.first.options.trainer.checkpoint_every=2")
    process = multiprocessing.get_context("fork").Process(target=lambda: run(killed, out))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    [clock] = out.glob(".first-*.clock")
    told = json.loads(clock.read_text())
    clock.write_text(json.dumps({**told, "began": told["began"] - 5000}))  # it was begun 5000 s ago
    for file in out.rglob("first-*/**/*"):  # and killed 2000 s ago
        os.utime(file, (told["began"] - 2000, told["began"] - 2000))
    monkeypatch.setenv("TOY_SPARED", "1")
    folders = run(killed, out, resume=True)
    assert 3000 <= json.loads((folders["first"] / "stage.json").read_text())["seconds"] < 3100
    assert not list(out.glob(".*"))


def test_a_frozen_part_stays_bit_for_bit(tmp_path, ladder):
    folders = run(
        ladder("stages.middle.freeze=[net.0]", "stages.middle.options.trainer.ema_decay=0.9"), tmp_path / "out"
    )
    before, after = net(folders["first"]), net(folders["middle"])
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])
    with pytest.raises(RecipeError, match=r"has no part 'nett'. Did you mean 'net'"):
        run(ladder("stages.first.freeze=[nett]"), tmp_path / "other")


def test_a_finished_stage_whose_weights_changed_is_not_reused(tmp_path, ladder):
    out = tmp_path / "out"
    folders = run(ladder(), out)
    shutil.copy(folders["last"] / "weights/task.net.safetensors", folders["first"] / "weights/task.net.safetensors")
    with pytest.raises(OutputError, match=r"weights of task.net changed since the stage was finished"):
        states(ladder(), out)


def test_a_folder_that_is_no_ladder_is_left_alone(tmp_path, ladder):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "song.flac").write_text("")
    with pytest.raises(OutputError, match="is no ladder"):
        run(ladder(), tmp_path / "songs")
    (tmp_path / "songs" / "song.json").write_text('{"stages": "of life"}')
    with pytest.raises(OutputError, match="is no ladder"):
        run(ladder(), tmp_path / "songs")
    with pytest.raises(OutputError, match=r"toy.yaml is a file; .*Choose another --out"):
        states(ladder(), tmp_path / "toy.yaml")


def test_what_a_stage_cannot_read_is_told_with_its_name(tmp_path):
    (tmp_path / "read.yaml").write_text("format: 1\ndata: {use: songkit/prepared, root: ./none}\n")
    (tmp_path / "steps.yaml").write_text("format: 1\nstages: {codes: {verb: prepare, recipe: read}}\n")
    registry = Registry.discover()
    with pytest.raises(OutputError, match=r"(?s)^stage 'codes': .*data.root.*there is no .*/none"):
        list(plan(load(tmp_path / "steps.yaml", registry=registry), tmp_path / "out", registry=registry))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("stages.middle.starts_from={task.net: frist}", r"it starts from 'frist', no stage. Did you mean 'first'"),
        ("stages.first.starts_from={task.net: last}", r"last -> middle -> first -> last: .*circle"),
        ("stages.middle.recipe=toi", r"stages.middle.recipe.*unknown recipe 'toi'"),
        ("stages.middle.verb=trian", r"stages.middle.verb.*Did you mean 'train'"),
        ("stages.middle.options.trainer.max_step=3", r"stage 'middle': .*'max_step' is no option.*'max_steps'"),
        ("stages.a/b={recipe: toy}", r"names of stages"),
        ("trainer.max_steps=3", r"the stages do not read this.*`stages.NAME.options.trainer.max_steps=3`"),
        (
            "stages.midle.options.seed=3",
            r"there is no stage 'midle', and a new one needs `recipe`. Did you mean 'middle'",
        ),
        ("stages.middle.paths={dta: first}", r"stages.middle.paths.dta.*toy has no path 'dta'. Did you mean 'data'"),
        ("stages.middle.verb=mine", r"has no conditioner, no planner, no codec, so 'mine' can do nothing with it"),
        ("stages.middle.verb=merge", r"has no merge.models, so 'merge'"),
        ("stages.middle.starts=first", r"'starts' is no option of StageSettings. Did you mean 'starts_from'"),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused_when_it_is_loaded(ladder, changed, told):
    with pytest.raises(RecipeError, match=told):
        ladder(changed)


@pytest.mark.parametrize(
    ("recipe", "given", "told"),
    [
        ("toy", "paths.dta=x", "nothing in 'toy' reads `paths.dta`. Did you mean 'data'"),
        ("toy", "vars.width=x", "nothing in 'toy' reads `vars.width`. It has: none"),
        ("steps", "vars.wide=x", "nothing in 'steps' reads `vars.wide`"),
    ],
)
def test_the_command_refuses_paths_and_variables_that_nothing_reads(tmp_path, ladder, capsys, recipe, given, told):
    words = ["train", str(tmp_path / f"{recipe}.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert cli.main([*words, given]) == 2
    assert f"error: command line `{given}`: {told}" in capsys.readouterr().err
    assert cli.main([*words, "paths.data=x"] if recipe == "toy" else words) == 0


def test_a_ladder_is_no_stage_not_even_of_itself(tmp_path, ladder):
    file = tmp_path / "round.yaml"
    file.write_text("format: 1\nstages: {one: {recipe: round}}\n")
    with pytest.raises(RecipeError, match=r"stage 'one': .*round.yaml:2:1.*no stages of its own"):
        load(file, registry=REGISTRY)


def test_a_ladder_resolves_to_itself_and_a_child_can_take_stages_away(tmp_path, ladder):
    (tmp_path / "again.yaml").write_text(dump(ladder()))
    assert load(tmp_path / "again.yaml", registry=REGISTRY).resolved == ladder().resolved
    child = tmp_path / "child.yaml"
    child.write_text("format: 1\ndefaults: [steps]\nstages: {middle: null, last: {starts_from: {task.net: first}}}\n")
    assert list(load(child, registry=REGISTRY).stages) == ["first", "last"]


def test_variables_of_a_ladder_reach_all_its_stages(tmp_path, ladder):
    stage = tmp_path / "toy.yaml"
    stage.write_text(STAGE.replace("use: local/toy", 'use: local/toy, width: "${vars.width}"') + "vars: {width: 8}\n")
    planned = next(plan(ladder("vars.width=5"), tmp_path / "out", registry=REGISTRY))
    assert planned.recipe.roles["task"].config.width == 5


SINGING = f"""format: 1
plugins: ['{Path(rounds.__file__)}', '{Path(judges.__file__)}']
metrics: {{ear: local/loudness}}
task: {{use: songkit/train-preference}}
objective: {{use: songkit/dpo}}
generate: {{threads: 1, max_seconds: 0.6}}
mine: {{requests: ./requests.jsonl, limit: 1, candidates: 2, strategies: {{long: {{score: ear.seconds}}}}}}
semi_online: {{rounds: 1}}
"""


@pytest.mark.parametrize("verb", ["mine", "semi-online"])
def test_stages_sing_where_their_recipe_says_which_makes_nothing_anew(tmp_path, verb):
    lines = [json.dumps({"idx": name, "gt_lyric": "[verse] la."}) + "\n" for name in "ab"]
    (tmp_path / "requests.jsonl").write_text("".join(lines))
    (tmp_path / "sing.yaml").write_text(SINGING + rounds.write_model(tmp_path))
    (tmp_path / "sung.yaml").write_text(f"format: 1\nstages: {{sung: {{verb: {verb}, recipe: sing}}}}\n")
    registry = Registry.discover()
    there = load(tmp_path / "sung.yaml", ["stages.sung.options.generate.device=cuda:99"], registry=registry)
    with pytest.raises(RequestError, match="the device 'cuda:99' is not there"):
        climb(there, tmp_path / "out", registry=registry, progress=False)
    here = load(tmp_path / "sung.yaml", registry=registry)
    keys = [key_of(next(plan(ladder, tmp_path / "out", registry=registry)).identity) for ladder in (here, there)]
    assert keys[0] == keys[1]


def test_the_lineage_is_found_by_hash_wherever_the_folders_are(tmp_path, ladder, capsys):
    folders = run(ladder(), tmp_path / "out")
    shutil.move(folders["first"], tmp_path / "elsewhere")
    runs = find_runs(tmp_path)
    by_name = {found.folder.name.split("-")[0]: found for found in runs}
    assert [parent.folder.name for parent, _ in parents_of(by_name["middle"], runs)] == ["elsewhere"]
    assert cli.main(["runs", "tree", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("elsewhere")
    assert lines[1].startswith("└─ out/middle-")
    assert lines[2].startswith("   └─ out/last-")
    assert "(task.weights.net)" in lines[2]
    assert cli.main(["runs", "ls", str(tmp_path), "--json"]) == 0
    assert [row["steps"] for row in json.loads(capsys.readouterr().out)] == [4, 4, 4]
    assert cli.main(["runs", "show", str(folders["last"])]) == 0
    shown = capsys.readouterr().out
    assert by_name["middle"].outputs["task.net"] in shown
    assert "4 steps" in shown
    shutil.rmtree(tmp_path / "elsewhere")
    assert cli.main(["runs", "tree", str(tmp_path)]) == 0
    assert "task.weights.net from " in capsys.readouterr().out  # what is not known any more is told by path and hash


def test_a_dry_run_shows_plan_and_cost_and_writes_nothing(tmp_path, ladder, capsys):
    words = ["train", str(tmp_path / "steps.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert cli.main(words) == 0
    assert "3 of 3 stages to do: 3 of unknown cost\n" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    run(ladder(), tmp_path / "out", only="first")
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in told["stages"]] == ["finished", "new", "waits"]
    assert [row["steps"] for row in told["stages"]] == [4, 4, 4]
    assert 0 < told["stages"][1]["minutes"] < 1
    assert told["stages_of_unknown_cost"] == 0
    assert cli.main(words) == 0
    assert "2 of 3 stages to do: about 0 min as far as known\n" in capsys.readouterr().out


def test_a_dry_run_tells_the_last_time_that_a_stage_took(tmp_path, capsys):
    (tmp_path / "given.yaml").write_text("format: 1\n")
    (tmp_path / "steps.yaml").write_text("format: 1\nstages: {given: {verb: model, recipe: given}}\n")
    out = tmp_path / "out"
    for folder, seconds, ended in (("aaaaaaaa", 60, 2), ("bbbbbbbb", 120, 3), ("cccccccc", 180, 1)):
        mark = out / f"given-{folder}" / "stage.json"
        mark.parent.mkdir(parents=True)
        mark.write_text(json.dumps({"seconds": seconds, "identity": {"seed": seconds}}))
        os.utime(mark, (ended, ended))
    (out / "steps.json").write_text('{"ladder": "steps.yaml", "stages": {}}')
    assert cli.main(["train", str(tmp_path / "steps.yaml"), "--out", str(out), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["minutes"] == 2
