"""The command line: quick, without torch, with one clear message for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from songkit.cli import COMMANDS, main
from songkit.errors import SongkitError

TORCH_FREE = [
    ["--help"],
    ["--version"],
    ["plugins", "list"],
    ["plugins", "list", "--json", "--kind", "source"],
    ["plugins", "show", "songkit/prepared"],
    ["recipes", "ls"],
    ["recipes", "validate", "levo2/mini/vae"],
    ["recipes", "show", "levo2/mini/vae", "--origins"],
    ["recipes", "cat", "levo2/mini/vae"],
    ["recipes", "diff", "levo2/mini/vae", "levo2/mini/tokens"],
    *([command, "--help"] for command in COMMANDS),
]


def run_python(code, **env):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})


def run(capsys, *words):
    status = main(words)
    streams = capsys.readouterr()
    return status, streams.out, streams.err


def test_listings_and_help_import_no_torch():
    code = f"""
import contextlib, io, sys
from songkit.cli import main
for words in {TORCH_FREE}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        status = main(words)
        assert status == 0, (words, status)
    slow = {{"torch", "numpy", "lightning"}} & set(sys.modules)
    assert not slow, (words, slow)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "COMMAND"),
        (["plguins"], "unknown command 'plguins'. Did you mean 'plugins'?"),
        (["plugins"], "ACTION"),
        (
            ["plugins", "list", "--jsn"],
            "unknown argument '--jsn'. Did you mean '--json'? See `songkit plugins list --help`",
        ),
        (["plugins", "list", "--kin", "codec"], "unknown argument '--kin'. Did you mean '--kind'?"),
        (["plugins", "list", "--kind", "codek"], "unknown kind 'codek'. Did you mean 'codec'?"),
        (["plugins", "show", "songkit/preprd"], "unknown component 'songkit/preprd'. Did you mean 'songkit/prepared'?"),
        (["plugins", "show", "songkit/prepared", "--kind", "codec"], "'songkit/prepared' is a source, not a codec."),
        (["recipes", "show", "levo2/mini/vea"], "unknown recipe 'levo2/mini/vea'. Did you mean 'levo2/mini/vae'?"),
        (["recipes", "validate", "levo2/mini/vae", "trainer.max_stps=3"], "Did you mean 'max_steps'?"),
        (
            ["recipes", "validate", "levo2/mini/vae", "--trainer.max_steps=3"],
            "unknown argument '--trainer.max_steps=3'",
        ),
    ],
)
def test_a_mistake_is_one_message_and_status_2(capsys, words, told):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err


def test_plugins_are_listed_and_shown_as_json(capsys):
    status, out, _ = run(capsys, "plugins", "list", "--json")
    listed = json.loads(out)
    assert status == 0
    assert "songkit" in [plugin["name"] for plugin in listed["plugins"]]
    assert ("source", "songkit/prepared") in [(row["kind"], row["id"]) for row in listed["components"]]
    _, out, _ = run(capsys, "plugins", "show", "songkit/prepared", "--json")
    assert all(option["meaning"] for option in json.loads(out)[0]["options"])


def test_a_broken_plugin_is_listed_with_its_error(capsys, tmp_path, monkeypatch):
    (tmp_path / "songkit_broken-1.dist-info").mkdir()
    (tmp_path / "songkit_broken-1.dist-info" / "METADATA").write_text("Name: songkit-broken\nVersion: 1\n")
    (tmp_path / "songkit_broken-1.dist-info" / "entry_points.txt").write_text("[songkit]\nbroken = no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, _ = run(capsys, "plugins", "list")
    assert status == 0
    assert "broken is broken: ModuleNotFoundError: No module named 'no_such_module'" in out


def test_a_shown_recipe_is_a_recipe(capsys, tmp_path):
    _, out, _ = run(capsys, "recipes", "show", "levo2/mini/vae", "trainer.max_steps=7")
    (tmp_path / "again.yaml").write_text(out)
    _, again, _ = run(capsys, "recipes", "show", str(tmp_path / "again.yaml"))
    assert "max_steps: 7" in again
    assert again == out


def test_a_recipe_is_printed_as_it_is(capsys, tmp_path):
    (tmp_path / "r.yaml").write_text("# Mine.\nformat: 1\nseed:   3  # odd\n")
    assert run(capsys, "recipes", "cat", str(tmp_path / "r.yaml"))[1] == (tmp_path / "r.yaml").read_text()
    _, out, _ = run(capsys, "recipes", "cat", str(tmp_path / "r.yaml"), "--json")
    assert json.loads(out)["text"] == (tmp_path / "r.yaml").read_text()


def test_every_shown_value_has_an_origin(capsys):
    words = ["recipes", "show", "levo2/mini/vae", "trainer.threads=3", "--origins"]
    lines = {line.split(":")[0]: line for line in run(capsys, *words)[1].splitlines()}
    assert lines["codec.use"].endswith("_codec.yaml:4:14")
    assert lines["trainer.threads"].endswith("command line `trainer.threads=3`")
    assert lines["trainer.log_every"].endswith("_codec.yaml:7:117")
    assert lines["codec.vae.n_fft"].endswith("default of levo2/music-codec")
    assert lines["generate.top_k"].endswith("default of generate")
    assert json.loads(run(capsys, *words, "--json")[1])["origins"].keys() == lines.keys()


def test_recipes_are_compared_in_what_they_amount_to(capsys, tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("format: 1\nseed: 1\ntrainer: {max_steps: 10000}\nvars: {x: 1}\n")
    b.write_text("format: 1\nseed: 2\n")
    assert run(capsys, "recipes", "diff", str(a), str(a)) == (0, "no differences\n", "")
    _, out, _ = run(capsys, "recipes", "diff", str(a), str(b), "trainer.threads=2")
    assert [line.split() for line in out.splitlines()] == [
        ["seed", "1", "->", "2"],
        ["vars.x", "1", "->", "(none)"],
        ["trainer.threads", "null", "->", "2"],
    ]
    _, out, _ = run(capsys, "recipes", "diff", str(a), "seed=5", "--json")
    assert json.loads(out) == {
        "seed": {"a": {"value": 1, "origin": f"{a}:2:7"}, "b": {"value": 5, "origin": "command line `seed=5`"}}
    }


def test_all_faults_of_all_recipes_are_told(capsys, tmp_path):
    (tmp_path / "bad.yaml").write_text("format: 1\nseed: x\ntrainer: {max_stepz: 3}\n")
    status, out, err = run(capsys, "recipes", "validate", str(tmp_path / "bad.yaml"), "--json")
    assert status == 2
    assert len(json.loads(out)[0]["problems"]) == 2
    status, out, err = run(capsys, "recipes", "validate", str(tmp_path / "bad.yaml"))
    assert (status, out) == (2, "")
    assert err.count("bad.yaml") == 2


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (SongkitError("it is wrong"), 2, "error: it is wrong\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_exit_statuses(capfd, monkeypatch, error, status, told):
    def fail(args):
        raise error

    monkeypatch.setattr("songkit.cli.plugins.run", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert main(["plugins", "list"]) == status
    assert capfd.readouterr().err == told


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr("songkit.cli.plugins.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["plugins", "list"])


def test_a_reader_that_has_seen_enough_is_no_error():
    done = run_python(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'songkit', 'plugins', 'list'], stdout=-1, stderr=-1)\n"
        "p.stdout.close()\nprint(p.stderr.read().decode(), p.wait())"
    )
    assert done.stdout.split() == ["0"]


def test_songkit_says_what_it_does_and_other_libraries_only_what_is_wrong():
    code = """
import argparse, logging, types
import songkit.cli as cli
def run(args):
    for name in ("songkit.mine", "faster_whisper"):
        logging.getLogger(name).info("%s is busy", name)
        logging.getLogger(name).warning("%s complains", name)
    return 0
cli._parser = lambda words: (argparse.ArgumentParser(), types.SimpleNamespace(run=run))
raise SystemExit(cli.main([]))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "INFO: songkit.mine is busy",
        "WARNING: songkit.mine complains",
        "WARNING: faster_whisper complains",
    ]
