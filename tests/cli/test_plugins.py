"""`songkit plugins check`: a row for each check, and an exit status that continuous integration can use."""

from __future__ import annotations

import json

import pytest

from songkit.cli import main

SOURCE = """
from dataclasses import dataclass
from songkit.plugin import Component, hookimpl
from songkit.types import Song

@dataclass(kw_only=True)
class Config:
    "Songs without audio."

    songs: int = 3
    "How many."

class Source:
    def __init__(self, config):
        self.songs = config.songs

    def __len__(self):
        return self.songs

    def __getitem__(self, index):
        if not 0 <= index < self.songs:
            raise IndexError(index)
        return Song(id={id})

@hookimpl
def songkit_components():
    return [Component(kind="source", name="mine", config=Config, factory=f"{{__name__}}:Source", example=Config())]
"""


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a local plugin, whose songs have the ids that an expression gives."""

    def write(id_, **changes):
        file = tmp_path / "mine.py"
        text = SOURCE.format(id=id_)
        for old, new in changes.items():
            text = text.replace(old, new)
        file.write_text(text)
        return str(file)

    return write


def run(capsys, *words):
    status = main(["plugins", "check", *words])
    streams = capsys.readouterr()
    return status, streams.out, streams.err


def test_what_obeys_every_law_gets_a_row_for_each(capsys, write):
    status, out, _ = run(capsys, write("f'song-{index}'"))
    *rows, summary = out.splitlines()
    assert status == 0
    assert "passed   source local/mine  declaration" in rows
    assert all(row.startswith("passed") for row in rows)
    assert summary == f"{len(rows)} passed, 0 failed, 0 skipped"


def test_a_broken_law_is_told_and_the_status_is_1(capsys, write):
    file = write("'always-the-same'")
    status, out, _ = run(capsys, file)
    assert status == 1
    assert "failed   source local/mine  " in out
    assert "what has to hold: " in out
    status, out, _ = run(capsys, file, "--json")
    found = json.loads(out)
    failed = [row for row in found["checks"] if row["status"] == "failed"]
    assert status == 1
    assert found["failed"] == len(failed) >= 1
    assert all(row["reason"] for row in failed)


def test_an_exception_of_the_component_is_told_with_its_line(capsys, write):
    file = write("1 // 0")
    status, out, _ = run(capsys, file)
    assert status == 1
    assert "ZeroDivisionError: integer division or modulo by zero" in out
    assert f"({file}:23)" in out


def test_a_component_that_prints_does_not_spoil_the_json(capsys, write):
    status, out, err = run(capsys, write("print('I am loud') or f'song-{index}'"), "--json")
    assert (status, json.loads(out)["failed"]) == (0, 0)
    assert "I am loud" in err


def test_a_component_that_ends_the_process_fails_its_check(capsys, write):
    status, out, _ = run(capsys, write("exit(0)"))
    assert status == 1
    assert "SystemExit: 0" in out


def test_what_cannot_be_checked_is_skipped_with_a_reason(capsys):
    status, out, _ = run(capsys, "songkit/prepared", "songkit/prepared")
    assert status == 0
    assert "skipped  source songkit/prepared  build\n         its example names files that are not here" in out
    assert out.count("songkit/prepared  build") == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("songkid", "'songkid' is not installed. Did you mean 'songkit'?"),
        ("songkit/prepaired", "'songkit/prepaired' is not installed. Did you mean 'songkit/prepared'?"),
        ("nowhere/mine.py", "there is no such file"),
        ("broken", "'broken' cannot be checked: its plugin is broken: ModuleNotFoundError: No module named 'no_such"),
    ],
)
def test_a_wrong_name_is_a_mistake_of_the_user(capsys, tmp_path, monkeypatch, name, told):
    info = tmp_path / "songkit_broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: songkit-broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[songkit]\nbroken = no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, err = run(capsys, name)
    assert (status, out) == (2, "")
    assert told in err
