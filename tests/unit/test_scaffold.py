"""What `songkit plugins new` writes: packages that work as they are, for every kind."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from songkit import scaffold
from songkit.cli import main
from songkit.errors import OutputError, PluginError
from songkit.plugin import KINDS
from songkit.registry import Registry
from songkit.scaffold import FACTORIES, write_plugin

PATIENT = ("planner", "task")
"""Kinds whose checks take long."""


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Returns a function that writes a plugin and imports what it declares."""
    before = set(sys.modules)

    def use(kind, name):
        write_plugin(kind, name, tmp_path / name)
        monkeypatch.syspath_prepend(tmp_path / name / "src")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / name / "src"))  # the kit imports it in a process of its own
        return importlib.import_module(f"songkit_{name.replace('-', '_')}.plugin")

    yield use
    for name in set(sys.modules) - before:
        if name.startswith("songkit_"):
            del sys.modules[name]


def test_there_is_a_template_for_every_kind():
    assert set(FACTORIES) == set(KINDS)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in PATIENT else ()) for kind in FACTORIES]
)
def test_what_is_written_obeys_every_law_of_its_kind(use, kind):
    from songkit.testing import checks_for

    registry = Registry([]).with_modules({"my-own": use(kind, "my-own")})
    [entry] = registry.list()
    assert entry.id == f"my-own/{kind}"
    checks = checks_for(entry)
    for check in checks:
        check()
    assert len(checks) >= 12
    assert not any(check.skip for check in checks)


def test_a_written_plugin_is_a_wheel_that_is_installed_and_passes_its_checks(tmp_path):
    assert find_spec("hatchling"), "building a wheel without a network needs hatchling: pip install -e '.[dev]'"
    write_plugin("codec", "my-codec", tmp_path / "plugin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-index", "--no-deps"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, tmp_path / "plugin"])
    [wheel] = tmp_path.glob("songkit_my_codec-*.whl")
    shutil.rmtree(tmp_path / "plugin")
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"])
    python = tmp_path / "venv" / "bin" / "python"
    # A new environment but for songkit and what it needs, which are those of this one.
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "songkit.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    run([*pip, "--python", python, "install", *offline, wheel])
    listed = json.loads(run([python, "-m", "songkit", "plugins", "list", "--json"]))
    assert ("my-codec", None) in [(plugin["name"], plugin["error"]) for plugin in listed["plugins"]]
    checked = json.loads(run([python, "-m", "songkit", "plugins", "check", "my-codec", "--json"]))
    assert (checked["failed"], checked["skipped"]) == (0, 0)
    assert {(row["component"], row["status"]) for row in checked["checks"]} == {("my-codec/codec", "passed")}


def run(command):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MyCodec", "for example 'my-codec'"),
        ("my_codec", "for example 'my-codec'"),
        ("-codec", "for example 'codec'"),
        ("my--codec", "for example 'my-codec'"),
        ("../codec", "expected kebab-case"),
        ("8bit", "expected kebab-case (a-z, 0-9, single hyphens)."),
        ("", "expected kebab-case"),
        ("songkit-mine", "leave out 'songkit-' and write 'mine'"),
        ("songkit", "that namespace is taken"),
        ("local", "that namespace is taken"),
    ],
)
def test_a_wrong_name_is_told_with_a_right_one(tmp_path, name, told):
    with pytest.raises(PluginError) as caught:
        write_plugin("codec", name, tmp_path / "new")
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_written_over(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(OutputError, match=f"{name} is there already"):
            write_plugin("codec", "mine", tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "folder").iterdir()) == []


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    written = []

    def write(path, text, **settings):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        path.touch()

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(OutputError, match=r"cannot write .*/mine \(No space left on device\)"):
        write_plugin("codec", "mine", tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*/file"):
        write_plugin("codec", "mine", tmp_path / "file" / "mine")


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("0.1.0.dev0", ">=0.1.0.dev0,<0.2"), ("0.12.3", ">=0.12.3,<0.13"), ("2.4.1", ">=2.4.1,<3")],
)
def test_a_plugin_accepts_songkit_up_to_the_next_breaking_version(tmp_path, monkeypatch, version, accepted):
    monkeypatch.setattr(scaffold, "__version__", version)
    write_plugin("source", "mine", tmp_path / "mine")
    assert f'dependencies = ["songkit{accepted}"]' in (tmp_path / "mine" / "pyproject.toml").read_text()


def test_the_command_writes_and_says_what_is_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "--kind", "metric", "mine"]) == 0
    assert "pip install -e songkit-mine, then songkit plugins check mine" in capsys.readouterr().out
    assert main(["plugins", "new", "--kind", "metric", "mine"]) == 2
    assert "songkit-mine is there already" in capsys.readouterr().err
    assert main(["plugins", "new", "--kind", "metric", "other", "--out", "deep/down", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["id"] == "other/metric"
    assert all(Path(file).is_file() for file in made["files"])
    assert main(["plugins", "new", "--kind", "metrik", "mine"]) == 2
    assert "unknown kind 'metrik'. Did you mean 'metric'?" in capsys.readouterr().err
    assert main(["plugins", "new", "--kind", "metric", "songkit"]) == 2
    assert "a plugin 'songkit' is installed already" in capsys.readouterr().err
