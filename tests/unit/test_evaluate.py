import argparse
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from songkit.audio import write_flac
from songkit.cli import evaluate as command
from songkit.errors import AudioError, OutputError, PluginError, RecipeError, RequestError
from songkit.evaluate import evaluate, markdown
from songkit.generated import read_generated
from songkit.interfaces.metric import MetricInfo, SongMetric
from songkit.output import request_record
from songkit.plugin import Component, hookimpl
from songkit.recipe import choose
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.types import Alignment, ArrayTrack, Section, Song, Span


@dataclass(kw_only=True)
class LevelConfig:
    """Mean level."""

    gain: float = 1.0
    """Factor."""


class Level(SongMetric):
    """Mean of |samples|, refusing songs named `odd` and never working where `broken`."""

    info = MetricInfo(needs=frozenset({"vocal"}), unit="level", higher_is_better=True, per_song=True)

    def __init__(self, config=None, broken=False):
        super().__init__()
        self.config, self.broken, self.calls = config or LevelConfig(), broken, 0
        self.add_state("levels", [], dist_reduce_fx="cat")
        self.ids = []

    def update(self, generated, songs, reference=None):
        self.calls += 1
        if self.broken:
            raise PluginError("the ear is not installed: pip install ear")
        if songs[0].id == "odd":
            raise AudioError("odd cannot be heard")
        self.ids.append(songs[0].id)
        self.levels.append(generated.tracks["vocal"].abs().mean() * self.config.gain)

    def compute(self):
        levels = torch.stack(self.levels)
        return {"level": levels.mean(), "level_low": levels.min(), "level_high": levels.max()}

    def per_song(self):
        return [{"id": i, "level": float(v), "note": "x"} for i, v in zip(self.ids, self.levels, strict=True)]


class Plugin:
    @staticmethod
    @hookimpl
    def songkit_components():
        return [
            Component(
                kind="metric", name="level", config=LevelConfig, factory=f"{__name__}:Level", example=LevelConfig()
            )
        ]


def song(name, level, **more):
    return Song(id=name, tracks={"vocal": ArrayTrack(np.full((1, 100), level, np.float32), 8000)}, **more)


def test_every_cell_has_a_status_and_a_reason():
    songs = [song("a", 0.25), Song(id="b"), song("odd", 1), song("c", 0.75)]
    results = evaluate(songs, {"level": Level()})
    assert [(c.song, c.status) for c in results.cells] == [
        ("a", "ok"), ("b", "skipped"), ("odd", "failed"), ("c", "ok")
    ]  # fmt: skip
    assert [c.reason for c in results.cells] == ["", "the song has no vocal track", "odd cannot be heard", ""]
    assert [dict(c.values) for c in results.cells] == [
        {"level": 0.25, "note": "x"},
        {},
        {},
        {"level": 0.75, "note": "x"},
    ]
    assert results.pooled["level"] == {"level": 0.5, "level_low": 0.25, "level_high": 0.75}
    assert not results.complete


def test_missing_judge_fails_on_all_songs_and_the_others_go_on():
    ear, level = Level(broken=True), Level()
    results = evaluate([song("a", 1), song("b", 1)], {"ear": ear, "level": level})
    assert [c.status for c in results.cells] == ["failed", "ok", "failed", "ok"]
    assert ear.calls == 1
    assert results.pooled["ear"] == {}
    assert results.reasons() == ["ear failed on 2 of 2 songs (a, b): the ear is not installed: pip install ear"]
    json.dumps(results.record(), allow_nan=False)


def test_metrics_that_compare_need_a_reference():
    class Compared(Level):
        info = MetricInfo(needs=frozenset({"vocal", "reference"}), unit="", higher_is_better=True, per_song=True)

    songs = [song("a", 1), song("b", 1)]
    results = evaluate(songs, {"m": Compared()}, references={"b": songs[1]})
    assert [(c.status, c.reason) for c in results.cells] == [("skipped", "the song has no reference"), ("ok", "")]


def test_needs_of_the_lyrics_and_times_are_looked_at():
    class Needy(Level):
        info = MetricInfo(
            needs=frozenset({"lyrics", "alignment", "description"}), unit="", higher_is_better=True, per_song=True
        )

    whole = song("a", 1, sections=(Section("verse", ("la",)),), alignment=Alignment(), description="pop")
    results = evaluate([whole, song("b", 1, sections=(Section("intro-short"),))], {"m": Needy()})
    assert [c.reason for c in results.cells] == ["", "the song has no alignment, no description, no lyrics"]


def test_tracks_that_differ_in_length_are_a_failure():
    class Both(Level):
        info = MetricInfo(needs=frozenset({"vocal", "mix"}), unit="", higher_is_better=True, per_song=True)

    tracks = {"vocal": ArrayTrack(np.ones((1, 10)), 8000), "mix": ArrayTrack(np.ones((1, 11)), 8000)}
    (cell,) = evaluate([Song(id="a", tracks=tracks)], {"m": Both()}).cells
    assert cell.status == "failed"
    assert "lengths [10, 11]" in cell.reason


def test_no_songs_or_metrics_are_refused():
    with pytest.raises(RequestError, match="0 songs and 1 metrics"):
        evaluate([], {"level": Level()})
    with pytest.raises(RequestError, match="1 songs and 0 metrics"):
        evaluate([song("a", 1)], {})


def test_table_has_a_row_for_each_song_and_the_interval():
    table = evaluate([song("a", 0.25), Song(id="b")], {"level": Level()}).table().splitlines()
    assert [[c.strip() for c in line.split("|")[1:-1]] for line in table[:1] + table[2:5]] == [
        ["song", "level level"],
        ["a", "0.25"],
        ["b", "skipped"],
        ["pooled", "0.25 [0.25, 0.25]"],
    ]
    assert table[5] == "level skipped on 1 of 2 songs (b): the song has no vocal track"


def test_markdown_is_aligned():
    lines = markdown(["x", "long head"], [["a long cell", "1"]]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_metrics_are_chosen_by_id_with_options():
    registry = Registry([]).with_modules({"unit": Plugin})
    nodes = choose("metric", {"level": "unit/level"}, ["level.gain=2"], registry=registry)
    assert nodes["level"].config == LevelConfig(gain=2.0)
    with pytest.raises(RecipeError, match=r"Did you mean") as info:
        choose("metric", {"level": "unit/level", "x": "unit/levl"}, ["level.gian=2"], registry=registry)
    assert len(info.value.problems) == 2


@pytest.fixture
def generated(tmp_path):
    request = SongRequest(id="tune", sections=(Section("intro-short"), Section("verse", ("la la",))), tier="low")
    values = {
        "format": 1,
        "request": request_record(request),
        "sections": [{"label": "intro-short", "start": 0, "end": 1}, {"label": "verse", "start": 1, "end": 2}],
        "lines": None,
        "finished": True,
    }
    folder = tmp_path / "songs" / "tune"
    folder.mkdir(parents=True)
    (folder / "song.json").write_text(json.dumps(values))
    write_flac(folder / "vocal.flac", np.full((1, 16000), 0.5, np.float32), 8000)
    return folder


@pytest.mark.parametrize("deep", [False, True])
def test_generated_songs_are_read_back(generated, deep):
    (found,) = read_generated(generated if deep else generated.parent)
    assert (found.id, found.tier, found.seconds) == ("tune", "low", 2.0)
    assert [s.tag for s in found.sections] == ["intro-short", "verse"]
    assert found.alignment is not None
    assert found.alignment.sections == (Span("intro-short", 0, 1), Span("verse", 1, 2))
    assert set(found.tracks) == {"vocal"}
    assert evaluate([found], {"level": Level()}).pooled["level"]["level"] == pytest.approx(0.5, abs=1e-4)


def test_a_damaged_file_is_a_failed_cell(generated):
    (generated / "vocal.flac").write_bytes(b"no audio")
    (cell,) = evaluate(read_generated(generated), {"level": Level()}).cells
    assert cell.status == "failed"
    assert "vocal.flac" in cell.reason


def test_folders_without_songs_and_damaged_song_json_are_refused(generated, tmp_path):
    with pytest.raises(RequestError, match="no generated songs"):
        read_generated(tmp_path / "nothing")
    (generated / "song.json").write_text("{}")
    with pytest.raises(RequestError, match="is not a song"):
        read_generated(generated)


def arguments(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_command_prints_json_and_writes_it(generated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Registry, "discover", lambda: Registry([]).with_modules({"unit": Plugin}))
    out = tmp_path / "results.json"
    words = [str(generated.parent), "--metrics", "unit/level", "--set", "level.gain=2", "--json", "--out", str(out)]
    assert command.run(arguments(*words)) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(out.read_text())
    assert json.loads(printed)["pooled"]["level"]["level"] == pytest.approx(1, abs=1e-4)
    assert json.loads(printed)["metrics"]["level"]["options"] == {"gain": 2.0}
    with pytest.raises(OutputError, match="exists already"):
        command.run(arguments(*words))


def test_command_fails_when_a_judge_does(generated, monkeypatch, capsys):
    monkeypatch.setattr(Registry, "discover", lambda: Registry([]).with_modules({"unit": Plugin}))
    (generated / "vocal.flac").write_bytes(b"no audio")
    assert command.run(arguments(str(generated), "--metrics", "unit/level")) == 1
    assert "level failed on 1 of 1 songs (tune)" in capsys.readouterr().out


def test_command_refuses_bad_limits_and_outputs_before_any_work(generated, tmp_path):
    with pytest.raises(RequestError, match="--limit is 0"):
        command.run(arguments(str(generated), "--limit", "0"))
    with pytest.raises(OutputError, match="is a folder"):
        command.run(arguments(str(generated), "--out", str(tmp_path)))
