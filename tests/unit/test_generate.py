"""Tests of singing.py, generate.py and output.py with a fake model."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import fakes
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit import output
from songkit._lockstep import plan_sampling
from songkit._song_audio import mixed
from songkit.errors import LayoutError, OutputError, RecipeError, RequestError
from songkit.generate import generate
from songkit.output import check_folders, read_song_json, song_folder
from songkit.progress import Progress
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.singing import SongModel, SungSong, sing, song_seed
from songkit.types import Section

VERSE = Section("verse", ("the river runs", "beneath the moon"))
CHORUS = Section("chorus", ("sing it again",))
FILES = ["accompaniment.flac", "mix.flac", "song.json", "song.png", "vocal.flac"]


def request(name: str = "song", **fields: object) -> SongRequest:
    return SongRequest(id=name, **{"sections": (Section("intro-short"), VERSE, CHORUS), **fields})


REQUESTS = [request(f"song-{i}", sections=(VERSE,) * (1 + i % 3)) for i in range(5)]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture
def model(tmp_path: Path, registry: Registry) -> SongModel:
    folder = tmp_path / "model"
    folder.mkdir()
    return SongModel.load(load(fakes.write_model(folder), registry=registry))


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts what would be drawn in the picture's place; test_picture.py tests the drawing."""

    def note(tracks: dict[str, np.ndarray], rate: int, **texts: object) -> bytes:
        return repr((texts, rate, {name: track.tobytes() for name, track in tracks.items()})).encode()

    monkeypatch.setattr("songkit.picture.draw_song", note)


def make(model: SongModel, requests: list[SongRequest], out: Path, **options: object) -> list[tuple[Path, SungSong]]:
    return list(generate(model, requests, out=out, **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_all_files_are_written_and_nothing_else(model: SongModel, tmp_path: Path) -> None:
    [(folder, _)] = make(model, [request()], tmp_path / "out")

    assert folder == tmp_path / "out" / "song"
    assert sorted(contents(folder)) == FILES
    assert os.listdir(tmp_path / "out") == ["song"]


def test_same_seed_gives_the_same_bytes_anywhere(model: SongModel, tmp_path: Path) -> None:
    make(model, [request()], tmp_path / "a", seed=3)
    make(model, [request()], tmp_path / "deep" / "b", seed=3)
    make(model, [request()], tmp_path / "c", seed=4)

    first = contents(tmp_path / "a" / "song")
    assert first == contents(tmp_path / "deep" / "b" / "song")
    assert first["vocal.flac"] != contents(tmp_path / "c" / "song")["vocal.flac"]


def test_a_song_alone_equals_the_song_in_a_batch(model: SongModel, tmp_path: Path) -> None:
    make(model, REQUESTS, tmp_path / "batch", batch=4)
    for one in REQUESTS:
        make(model, [one], tmp_path / "alone", batch=1)

    for one in REQUESTS:
        assert contents(tmp_path / "batch" / one.id) == contents(tmp_path / "alone" / one.id)


def test_songs_come_in_the_order_of_the_requests(model: SongModel) -> None:
    assert [song.request.id for song in sing(model, REQUESTS, batch=2)] == [one.id for one in REQUESTS]


@pytest.mark.parametrize("loudness", [0.3, 0.9])
def test_the_mix_is_the_sum_of_its_stems_even_where_it_would_clip(
    tmp_path: Path, registry: Registry, loudness: float
) -> None:
    model = SongModel.load(load(fakes.write_model(tmp_path, loudness=loudness), registry=registry))

    [(folder, _)] = make(model, [request()], tmp_path / "out")

    mix, vocal, accompaniment = (
        soundfile.read(folder / f"{track}.flac", dtype="int16")[0].astype(int)
        for track in ("mix", "vocal", "accompaniment")
    )
    assert np.array_equal(mix, vocal + accompaniment)
    assert np.abs(mix).max() > 0.5 * 32768


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32)), min_size=1, max_size=20))
def test_mixing_is_exact_and_keeps_the_balance(pairs: list[tuple[float, float]]) -> None:
    vocal, accompaniment = np.array(pairs, np.float32).T[:, None]

    made = mixed({"vocal": vocal, "accompaniment": accompaniment})

    assert list(made) == ["mix", "vocal", "accompaniment"]
    total = made["vocal"].astype(int) + made["accompaniment"].astype(int)
    assert np.array_equal(made["mix"].astype(int), total)
    gain = min(1.0, 32766 / 32768 / max(np.abs(x).max() for x in (vocal, accompaniment, vocal + accompaniment, [1e-9])))
    assert np.abs(made["vocal"] / 32768 - gain * vocal).max() < 1 / 32768


def test_samples_that_are_no_numbers_are_a_defect() -> None:
    with pytest.raises(FloatingPointError, match="vocal"):
        mixed({"vocal": np.array([[np.nan]], np.float32), "accompaniment": np.zeros((1, 1), np.float32)})


def test_only_the_chosen_tracks_are_written(model: SongModel, tmp_path: Path) -> None:
    [(folder, _)] = make(model, [request()], tmp_path / "out", tracks=["vocal"])

    assert sorted(contents(folder)) == ["song.json", "song.png", "vocal.flac"]


def test_a_track_the_model_does_not_make_is_refused(model: SongModel, tmp_path: Path) -> None:
    model.codec.decoded_tracks = ("vocal",)

    with pytest.raises(LayoutError, match="makes vocal, not mix"):
        make(model, [request()], tmp_path / "out", tracks=["mix", "vocal"])
    assert not (tmp_path / "out").exists()


def test_without_a_refiner_the_plan_is_decoded_and_all_that_it_makes_is_written(
    model: SongModel, tmp_path: Path
) -> None:
    alone = dataclasses.replace(model, refiner=None)
    with pytest.raises(LayoutError, match=r"cannot decode what the planner gives(.|\n)*Add a refiner"):
        make(alone, [request()], tmp_path / "out")
    alone.codec.decoded_tracks = ("mix",)

    [(folder, song)] = make(alone, [request()], tmp_path / "out")

    assert sorted(contents(folder)) == ["mix.flac", "song.json", "song.png"]
    assert song.codes.layout.tracks == ("mix",)
    assert "refine" not in song.wall_seconds


def test_song_json_tells_all_and_reads_as_the_same_request(model: SongModel, tmp_path: Path) -> None:
    asked = request(description='female, pop, "loud"; the bpm is 96', tier="medium", sections=(VERSE, CHORUS, VERSE))

    [(folder, song)] = make(model, [asked], tmp_path / "out", seed=7)

    assert read_song_json(folder / "song.json") == asked
    values = json.loads((folder / "song.json").read_text())
    assert values["format"] == 1
    assert (values["seed"], values["song_seed"]) == (7, song_seed(7, "song"))
    assert values["finished"] is True
    assert [span["label"] for span in values["sections"]] == ["verse", "chorus", "verse"]
    assert values["sections"][-1]["end"] == pytest.approx(values["seconds"], abs=0.05)
    assert values["model"]["components"]["planner"]["use"] == "local/fake"
    assert len(values["model"]["components"]["codec"]["weights"][""]["sha256"]) == 64
    assert "--seed 7" in values["command"]
    assert "--max-seconds 8" in values["command"]
    assert song.seconds == pytest.approx(values["seconds"])
    assert not {"wall_seconds", "rtf", "date"} & set(values)


def test_a_song_keeps_its_plan_and_its_place_in_the_lyrics(model: SongModel) -> None:
    for song in sing(model, REQUESTS[:3]):
        frames = song.codes.ids.shape[2]
        assert song.planned.layout == model.planner.layout
        assert song.planned.ids.shape == (1, len(model.planner.layout), frames)
        assert song.cursor is not None
        assert song.cursor.shape == (frames,)
        assert (np.diff(song.cursor) >= 0).all()


def test_a_planner_that_does_not_follow_the_lyrics_gives_no_times(tmp_path: Path, registry: Registry) -> None:
    model = SongModel.load(load(fakes.write_model(tmp_path, follow=False), registry=registry))

    [(folder, _)] = make(model, [request()], tmp_path / "out")

    assert json.loads((folder / "song.json").read_text())["sections"] is None


def test_a_song_that_is_too_long_is_cut_and_says_so(model: SongModel) -> None:
    long = request(sections=(VERSE,) * 30)

    [song] = sing(model, [long], settings=GenerateSettings(max_seconds=2.0))

    assert song.seconds == pytest.approx(2.0)
    assert not song.finished


def test_a_failure_in_the_middle_leaves_complete_songs_only(tmp_path: Path, registry: Registry) -> None:
    model = SongModel.load(load(fakes.write_model(tmp_path, fail_at=2), registry=registry))

    with pytest.raises(RuntimeError, match="breaks"):
        make(model, REQUESTS[:3], tmp_path / "out", batch=1)

    assert sorted(os.listdir(tmp_path / "out")) == ["song-0", "song-1"]
    assert sorted(contents(tmp_path / "out" / "song-1")) == FILES


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError("broken")])
def test_an_interruption_while_writing_leaves_nothing(
    model: SongModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        assert any(name.endswith(".partial") for name in os.listdir(tmp_path / "out"))
        raise failure

    monkeypatch.setattr("songkit.picture.draw_song", fail)

    with pytest.raises(BaseException, match=r"broken|^$"):
        make(model, [request()], tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_a_full_disk_is_told_with_what_to_do(model: SongModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output, "_flush", full)

    with pytest.raises(OutputError, match=r"No space left on device.*Free some space"):
        make(model, [request()], tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_that_appears_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="left as it is"), song_folder(tmp_path, "song") as folder:  # noqa: PT012
        (folder / "mix.flac").write_bytes(b"new")
        (tmp_path / "song").mkdir()
        (tmp_path / "song" / "mine").write_text("old")

    assert os.listdir(tmp_path) == ["song"]
    assert os.listdir(tmp_path / "song") == ["mine"]


def test_an_empty_folder_is_filled(model: SongModel, tmp_path: Path) -> None:
    (tmp_path / "song").mkdir()

    [(folder, _)] = make(model, [request()], tmp_path)

    assert sorted(contents(folder)) == FILES


def test_every_occupied_folder_is_named_before_any_work(tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "d").write_text("a file")

    with pytest.raises(OutputError) as error:
        check_folders(tmp_path, ["a", "b", "c", "d", "b"])

    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "'b' is that of 2 requests" in lines[0]
    assert [Path(line.split()[0]).name for line in lines[1:]] == ["a", "c", "d"]


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folders(tmp_path / "not" / "yet", ["song"])

    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_the_output_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match="file is not a folder"):
        check_folders(tmp_path / "file" / "out", ["song"])


def test_every_fault_of_every_request_is_told_at_once(model: SongModel, tmp_path: Path) -> None:
    requests = [
        request("one", sections=(Section("verse", ("река течёт", "ночь")),)),
        request("two", prompt_audio=tmp_path / "absent.wav"),
        request("three"),
    ]

    with pytest.raises(RequestError) as error:
        make(model, requests, tmp_path / "out")

    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["request 'one'", "request 'one'", "request 'two'"]
    assert not (tmp_path / "out").exists()


def test_pure_music_has_a_silent_voice_and_is_refused_by_models_that_always_sing(
    model: SongModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pure = SongRequest(id="pure", sections=(), pure_music=True)
    with pytest.raises(RequestError, match="'pure': this model makes no pure music"):
        make(model, [pure], tmp_path / "out")
    monkeypatch.setattr(model.conditioner, "pure_music", True)
    [(folder, song)] = make(model, [pure], tmp_path / "out")
    assert not song.tracks["vocal"].any()
    assert song.tracks["accompaniment"].any()
    assert np.array_equal(song.tracks["mix"], song.tracks["accompaniment"])
    assert read_song_json(folder / "song.json") == pure


def test_a_song_does_not_end_before_its_shortest_length(model: SongModel) -> None:
    with pytest.raises(RequestError, match="min_seconds is 9"):
        list(sing(model, [request("a")], settings=GenerateSettings(min_seconds=9, max_seconds=3)))
    with pytest.raises(RequestError, match="last_seconds is -1"):
        list(sing(model, [request("a")], settings=GenerateSettings(last_seconds=-1)))


def test_a_planner_is_told_in_frames_before_when_a_song_does_not_end() -> None:
    sampling = plan_sampling(GenerateSettings(min_seconds=2, last_seconds=0.5), 25.0)
    assert (sampling.min_frames, sampling.last_frames) == (50, 13)


def test_a_prompt_changes_the_song_and_only_its_start_counts(model: SongModel, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (40000, 2))
    soundfile.write(tmp_path / "long.wav", noise, 22050)
    soundfile.write(tmp_path / "short.wav", noise[:22050], 22050)

    def vocal(prompt: Path | None) -> bytes:
        [song] = sing(model, [request(prompt_audio=prompt)], settings=GenerateSettings(prompt_seconds=1.0))
        return song.tracks["vocal"].tobytes()

    assert vocal(tmp_path / "long.wav") == vocal(tmp_path / "short.wav") != vocal(None)


def test_the_prompt_of_a_songkit_folder_brings_its_stems(
    model: SongModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(folder, _)] = make(model, [request()], tmp_path / "out")
    heard = []
    encode = fakes.FakeCodec.encode
    monkeypatch.setattr(
        type(model.codec), "encode", lambda s, audio: heard.append(set(audio.tracks)) or encode(s, audio)
    )

    list(sing(model, [request(prompt_audio=folder / "mix.flac"), request("b", prompt_audio=folder / "vocal.flac")]))

    assert heard == [{"mix", "vocal", "accompaniment"}, {"mix"}]


def test_progress_reaches_the_end_of_every_stage(model: SongModel) -> None:
    reports: list[Progress] = []

    songs = list(sing(model, REQUESTS, batch=3, progress=reports.append))

    frames = [song.codes.ids.shape[2] for song in songs]
    last = {(report.first, report.stage): report for report in reports}
    assert [last[first, "decode"].frames for first in (1, 4)] == [sum(frames[:3]), sum(frames[3:])]
    assert last[4, "refine"].songs == 2
    assert all(0 <= report.frames <= report.most for report in reports)


def test_the_songs_own_seed_depends_on_nothing_else() -> None:
    assert song_seed(0, "a") == song_seed(0, "a")
    assert len({song_seed(seed, name) for seed in range(3) for name in ("a", "b", "1a")}) == 9
    assert 0 <= song_seed(-5, "a") < 2**63


def test_a_recipe_without_a_planner_cannot_generate(tmp_path: Path, registry: Registry) -> None:
    path = fakes.write_model(tmp_path)
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if not line.startswith("planner")))

    with pytest.raises(RecipeError, match="has no planner"):
        SongModel.load(load(path, registry=registry))


@pytest.mark.parametrize(
    ("tracks", "decoded"),
    [
        (["vocal"], {"vocal"}),
        (["accompaniment"], {"accompaniment"}),
        (["mix"], {"vocal", "accompaniment"}),
        (["vocal", "accompaniment"], {"vocal", "accompaniment"}),
        (None, {"vocal", "accompaniment"}),
    ],
)
def test_only_what_the_tracks_are_made_of_is_decoded(
    model: SongModel, monkeypatch: pytest.MonkeyPatch, tracks: list[str] | None, decoded: set[str]
) -> None:
    heard: list[set[str]] = []
    decode = type(model.codec).decode
    monkeypatch.setattr(
        type(model.codec),
        "decode",
        lambda s, codes, **o: heard.append(set(codes.layout.tracks)) or decode(s, codes, **o),
    )

    [song] = sing(model, [request()], tracks=tracks)

    assert heard == [decoded]
    assert set(song.tracks) == decoded | ({"mix"} if len(decoded) == 2 else set())
    assert song.codes.layout.tracks == ("vocal", "accompaniment")  # what was drawn is kept all the same


@pytest.mark.parametrize("loudness", [0.3, 0.9])
def test_a_stem_that_is_made_alone_is_the_same_unless_the_mix_would_clip(
    tmp_path: Path, registry: Registry, loudness: float
) -> None:
    model = SongModel.load(load(fakes.write_model(tmp_path, loudness=loudness), registry=registry))
    [whole], [alone] = (list(sing(model, [request()], tracks=tracks)) for tracks in (None, ["vocal"]))

    one, other = whole.tracks["vocal"].astype(float), alone.tracks["vocal"].astype(float)
    assert np.array_equal(one, other) == (loudness == 0.3)
    assert np.abs(one * np.abs(other).max() / np.abs(one).max() - other).max() <= 2  # louder by one factor
