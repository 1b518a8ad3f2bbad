"""Prepared sets: the same bytes however they are made, resumable, and read back as written."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import shutil
from pathlib import Path

import noise
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit._lock import locked
from songkit._prepare_audio import _Journal
from songkit.audio import convert
from songkit.checkpoint import save_weights
from songkit.cli import main
from songkit.components.prepared import PreparedSource, layout_from_json, layout_to_json, offsets
from songkit.errors import AudioError, CheckpointError, LayoutError, OutputError, RecipeError
from songkit.prepare import _files, prepare
from songkit.recipe import Recipe, load
from songkit.registry import Registry

PLUGIN = Path(__file__).parents[1] / "noise.py"
SONGS = 5


def recipe(folder: Path, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
format: 1
plugins: [{PLUGIN}]
data: {{use: local/noise, log: {folder}/log, bad: {folder}/bad}}
tokenizer: {{use: local/loudness, weights: random}}
prepare: {{sample_rate: 8000, codes: true}}
"""
    )
    return load(path, overrides, registry=Registry.discover())


def own(folder: Path, root: Path, *overrides: str) -> Recipe:
    """A recipe that adds codes to a prepared set, which takes no worker processes."""
    return recipe(folder, "data.use=songkit/prepared", f"data.root={root}", *overrides)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def made(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "log").read_text().split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `two`, made by two workers, and `one`, made by one worker that was stopped by the fourth song."""
    folder = tmp_path_factory.mktemp("prepare")
    prepare(recipe(folder), folder / "two", workers=2)
    assert sorted(made(folder)) == list(range(SONGS))
    (folder / "log").write_text("")
    (folder / "bad").touch()
    with pytest.raises(RuntimeError, match="fourth song"):
        prepare(recipe(folder), folder / "one", workers=1)
    assert not list((folder / "one").glob("audio-*"))
    (folder / "bad").unlink()
    (folder / "log").write_text("")
    summary = prepare(recipe(folder), folder / "one", workers=1)
    assert summary.songs == SONGS
    return folder


@pytest.fixture
def root(folder: Path, tmp_path: Path) -> Path:
    """A prepared set that a test may change."""
    return Path(shutil.copytree(folder / "two", tmp_path / "set"))


@pytest.fixture
def source(folder: Path) -> PreparedSource:
    return PreparedSource(folder / "two")


def test_any_number_of_workers_gives_the_same_bytes_and_leaves_nothing_else(folder: Path) -> None:
    one, two = content(folder / "one"), content(folder / "two")
    assert one == two
    assert not [name for name in one if "partial" in name]


def test_an_interrupted_run_goes_on_after_the_last_whole_song(folder: Path) -> None:
    assert made(folder) == [3, 4]


def test_missing_weights_are_told_before_any_song_is_made(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        prepare(recipe(tmp_path, f"tokenizer.weights={tmp_path}/none.safetensors"), tmp_path / "set")
    assert not (tmp_path / "log").exists()


def test_songs_are_read_back_as_they_were_written(source: PreparedSource) -> None:
    assert len(source) == SONGS
    for i in range(SONGS):
        song, original = source[i], noise.make_song(i)
        assert dataclasses.replace(song, tracks={}) == dataclasses.replace(original, tracks={})
        assert (source.sample_rate, source.channels) == (8000, 1)
        for track in ("vocal", "accompaniment"):
            expected = convert(original.tracks[track].read(), noise.RATE, 8000, 1)
            np.testing.assert_allclose(song.tracks[track].read(), np.clip(expected, -1, 1 - 2**-15), atol=2**-16)
        assert song.tracks["vocal"].samples == source.samples[i]


def test_a_mix_that_was_not_written_is_the_sum(source: PreparedSource) -> None:
    tracks = source[1].tracks
    stems = tracks["vocal"].read(100, 200) + tracks["accompaniment"].read(100, 200)
    np.testing.assert_array_equal(tracks["mix"].read(100, 200), stems)


def test_codes_are_those_of_the_tokenizer_song_by_song(folder: Path, source: PreparedSource) -> None:
    assert [stream.track for stream in source.layout.streams] == ["mix", "vocal"]
    # The tokenizer's weights are random; what counts is that louder frames have higher ids.
    for i in range(len(source)):
        ids, samples = source.codes(i), source[i].tracks["vocal"].read()[0]
        assert ids.shape == (2, math.ceil(len(samples) * 12.5 / 8000)) == (2, source.frames[i])
        padded = np.pad(samples, (0, -len(samples) % 640)).reshape(-1, 640)
        order = np.argsort(np.square(padded).mean(-1), kind="stable")
        assert (np.diff(ids[1][order].astype(int)) >= 0).all()
        assert ids.max() > 0


def test_a_source_survives_pickling_without_its_audio(source: PreparedSource) -> None:
    source.codes(0)
    source[0].tracks["mix"].read()
    data = pickle.dumps(source)
    assert len(data) < 20_000
    np.testing.assert_array_equal(pickle.loads(data).codes(2), source.codes(2))


def test_start_stop_and_length_choose_songs(folder: Path, source: PreparedSource) -> None:
    last = PreparedSource(folder / "two", start=-2)
    assert [song.id for song in last] == ["noise-3", "noise-4"]
    np.testing.assert_array_equal(last.codes(1), source.codes(4))
    limit = sorted(source.samples)[2] / 8000
    short = PreparedSource(folder / "two", max_seconds=limit)
    long = PreparedSource(folder / "two", min_seconds=limit)
    assert (len(short), len(long)) == (3, 3)
    assert {song.id for song in short} | {song.id for song in long} == {song.id for song in source}
    with pytest.raises(IndexError):
        source[SONGS]


def test_codes_of_other_weights_or_options_get_another_key_and_do_not_mix(root: Path, tmp_path: Path) -> None:
    first = prepare(own(tmp_path, root), root)
    again = prepare(own(tmp_path, root), root)
    other_weights = prepare(own(tmp_path, root, "seed=1"), root)
    other_options = prepare(own(tmp_path, root, "tokenizer.size=200"), root)
    assert first.audio == again.audio == other_weights.audio
    assert len({first.codes, other_weights.codes, other_options.codes}) == 3
    assert again.codes == first.codes
    with pytest.raises(LayoutError, match="several sets of codes"):
        PreparedSource(root).codes(0)
    chosen = PreparedSource(root, codes=other_options.codes or "")
    assert chosen.layout.streams[0].size == 200


def test_without_audio_codes_are_added_to_what_is_in_the_folder(
    root: Path, source: PreparedSource, tmp_path: Path
) -> None:
    away = "data.root=/somewhere/else"
    summary = prepare(own(tmp_path, root, away, "prepare.audio=false", "tokenizer.size=200"), root)
    assert summary.codes != source.codes_info["key"]
    assert summary.audio == source.audio_key
    with pytest.raises(LayoutError, match="holds no prepared set to add codes to"):
        prepare(own(tmp_path, root, "prepare.audio=false"), tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_training_other_parts_of_a_codec_leaves_its_codes_valid(root: Path, tmp_path: Path) -> None:
    tokenizer = noise.build_tokenizer(noise.LoudnessConfig())
    keys = []
    for changed in ("nothing", "decoder", "encoder"):
        for name, parameter in tokenizer.named_parameters():
            parameter.data += name.startswith(changed)
        save_weights(tmp_path / changed, tokenizer, {"component": "local/loudness", "revision": 1})
        keys.append(prepare(own(tmp_path, root, f"tokenizer.weights={tmp_path / changed}"), root).codes)
    assert keys[0] == keys[1] != keys[2]


def test_encoding_goes_on_where_it_was_interrupted(
    root: Path, source: PreparedSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from songkit import _prepare_codes

    monkeypatch.setattr(_prepare_codes, "_BATCH", 2)
    encode, calls = _prepare_codes._encode, []

    def fail_at_the_second(*args: object) -> np.ndarray:
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("interrupted")
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_prepare_codes, "_encode", fail_at_the_second)
    with pytest.raises(RuntimeError, match="interrupted"):
        prepare(own(tmp_path, root, "tokenizer.size=250"), root)
    summary = prepare(own(tmp_path, root, "tokenizer.size=250"), root)
    assert len(calls) == 4  # three batches, of which the second was tried twice
    monkeypatch.undo()
    resumed = PreparedSource(root, codes=summary.codes or "")
    for i in range(SONGS):
        np.testing.assert_array_equal(resumed.codes(i), np.minimum(source.codes(i), 249))


def test_a_full_disk_costs_nothing_that_is_finished(tmp_path: Path) -> None:
    root, song = tmp_path / "set", {"vocal": np.arange(8, dtype=np.int16)}
    partial = root / ".partial-audio-x"
    with _Journal(partial, ("vocal",)) as journal:
        journal.append(b"{}\n", song)

    def fill_the_disk() -> None:
        with _Journal(partial, ("vocal",)) as journal:
            journal._files["vocal.i16"].close()
            journal._files["vocal.i16"] = Path("/dev/full").open("ab")  # noqa: SIM115 - the journal closes it
            journal.append(b"{}\n", song)

    with pytest.raises(OutputError, match=f"cannot write to {root}: No space left.*run the same command again"):
        fill_the_disk()
    with _Journal(partial, ("vocal",)) as journal:
        assert journal.songs == 1
        journal.append(b"[]\n", song)
        assert [list(lengths) for lengths in journal.lengths()] == [[8, 8], [3, 3]]
    assert (partial / "vocal.i16").read_bytes() == song["vocal"].tobytes() * 2
    assert (partial / "songs.jsonl").read_bytes() == b"{}\n[]\n"


def test_missing_codes_say_how_to_make_them(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "audio-only"
    (copy).mkdir()
    (copy / "songs.jsonl").symlink_to(folder / "two" / "songs.jsonl")
    audio = next((folder / "two").glob("audio-*"))
    (copy / audio.name).symlink_to(audio)
    with pytest.raises(LayoutError, match=r"holds no codes.*songkit prepare"):
        PreparedSource(copy).codes(0)
    with pytest.raises(LayoutError, match="not 'levo2/music-codec'"):
        PreparedSource(folder / "two", codes="levo2/music-codec").codes(0)


@pytest.mark.parametrize("lie", ["ids", "frames"])
def test_a_tokenizer_that_breaks_its_promise_is_refused(root: Path, tmp_path: Path, lie: str) -> None:
    with pytest.raises(LayoutError, match="defect of the tokenizer"):
        prepare(own(tmp_path, root, f"tokenizer.lie={lie}"), root)


def test_a_tokenizer_that_does_not_fit_the_audio_or_has_no_weights_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        prepare(own(tmp_path, root, "tokenizer.weights=null"), root)
    index = json.loads((next(root.glob("audio-*")) / "index.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "songs.jsonl").symlink_to(root / "songs.jsonl")
    (other / "audio-x").mkdir()
    (other / "audio-x" / "index.json").write_text(json.dumps({**index, "sample_rate": 48000, "tracks": ["vocal"]}))
    (other / "audio-x" / "vocal.i16").symlink_to(next(root.glob("audio-*")) / "vocal.i16")
    with pytest.raises(LayoutError, match=r"needs 8000 Hz.*48000 Hz.*lacks mix"):
        prepare(own(tmp_path, other), other)


def test_other_songs_a_missing_role_and_a_busy_folder_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="already holds songs of another source"):
        prepare(recipe(tmp_path, "data.songs=4"), root)
    with pytest.raises(LayoutError, match="Leave out start"):
        prepare(own(tmp_path, root, "data.start=1"), root)
    (tmp_path / "empty.yaml").write_text("format: 1\n")
    with pytest.raises(RecipeError, match="needs 'data'"):
        prepare(load(tmp_path / "empty.yaml", registry=Registry.discover()), tmp_path / "out")
    with locked(root, "songkit prepare"), pytest.raises(OutputError, match="another 'songkit prepare'"):
        prepare(own(tmp_path, root), root)


def test_what_fails_before_anything_is_made_leaves_nothing(folder: Path, root: Path, tmp_path: Path) -> None:
    before = content(root)
    absent = own(tmp_path, tmp_path / "absent")
    with pytest.raises(LayoutError, match="absent holds no prepared set"):
        prepare(absent, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(AudioError, match="has no track 'mix'"):
        prepare(recipe(tmp_path, "prepare.tracks=[mix]"), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(LayoutError, match="defect of the tokenizer"):
        prepare(own(tmp_path, root, "tokenizer.lie=ids"), root)
    assert content(root) == before


def test_a_folder_with_other_files_is_another_source(tmp_path: Path) -> None:
    songs, path = tmp_path / "songs", tmp_path / "recipe.yaml"
    path.write_text("format: 1\ndata: {use: songkit/song-folder, root: ./songs}\nprepare: {tracks: [mix]}\n")
    node = load(path, registry=Registry.discover()).roles["data"]
    (songs / "b").mkdir(parents=True)
    (songs / "b" / "mix.wav").write_bytes(b"one")
    first = _files(node)
    (songs / ".hidden").touch()
    assert _files(node) == first
    (songs / "a.wav").touch()
    assert _files(node) != first
    (songs / "a.wav").unlink()
    (songs / "b" / "mix.wav").write_bytes(b"other")
    assert _files(node) != first


def test_a_damaged_or_absent_set_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="holds no prepared set"):
        PreparedSource(tmp_path)
    audio = next((folder / "two").glob("audio-*"))
    (tmp_path / audio.name).mkdir()
    (tmp_path / audio.name / "index.json").write_bytes((audio / "index.json").read_bytes())
    with pytest.raises(LayoutError, match=r"songs\.jsonl is missing"):
        PreparedSource(tmp_path)
    (tmp_path / "songs.jsonl").write_bytes((folder / "two" / "songs.jsonl").read_bytes())
    (tmp_path / audio.name / "vocal.i16").write_bytes(b"short")
    with pytest.raises(LayoutError, match="has 5 bytes"):
        PreparedSource(tmp_path)


def test_the_command_prints_a_summary_or_one_message(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own(tmp_path, root)
    command = ["prepare", str(tmp_path / "recipe.yaml"), "--out", str(root)]
    assert main([*command, "--json", "data.use=songkit/prepared", f"data.root={root}"]) == 0
    summary = json.loads(capsys.readouterr().out)
    source = PreparedSource(root)
    files = [file for file in root.rglob("*") if file.is_file()]
    assert summary["songs"] == SONGS
    assert summary["seconds"] == source.samples.sum() / 8000
    assert summary["bytes"] == sum(file.stat().st_size for file in files)
    assert (summary["audio"], summary["codes"]) == (source.audio_key, source.codes_info["key"])
    assert main([*command, "--workers", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --workers is 0")
    assert main([*command, "data.songs=4"]) == 2
    assert "already holds songs of another source" in capsys.readouterr().err


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 3))
def test_pieces_laid_end_to_end_are_found_again(lengths: list[int], width: int) -> None:
    pieces = [np.full(n * width, i) for i, n in enumerate(lengths)]
    flat = np.concatenate([*pieces, np.zeros(0)])
    ends = offsets(np.asarray(lengths, np.int64) * width)
    assert ends[-1] == len(flat)
    for i, piece in enumerate(pieces):
        np.testing.assert_array_equal(flat[ends[i] : ends[i + 1]], piece)


def test_a_layout_survives_json(source: PreparedSource) -> None:
    assert layout_from_json(json.loads(json.dumps(layout_to_json(source.layout)))) == source.layout
