"""Folders and manifests of real music become songs; what is wrong is named with its file."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from songkit.components.song_folder import SongFolder
from songkit.errors import AudioError, RequestError
from songkit.types import Alignment, Note, Section, Song, Span

RATE = 16_000
LYRICS = "[verse]\nThe river runs\nbeneath the moon\n\n[chorus]\nSing it again\n"
SECTIONS = (Section("verse", ("The river runs", "beneath the moon")), Section("chorus", ("Sing it again",)))


def write(path: Path, seed: int = 0, *, samples: int = 800, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Writes noise; returns it as it is read back, [C, T]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.random.default_rng(seed).integers(-9000, 9000, (channels, samples)).astype(np.int16)
    soundfile.write(path, audio.T, rate)
    return audio.astype(np.float32) / 32768


def test_a_folder_with_everything_is_a_song(tmp_path: Path) -> None:
    mix = write(tmp_path / "river" / "mix.wav", channels=2)
    (tmp_path / "river" / "lyrics.txt").write_text(LYRICS)
    (tmp_path / "river" / "description.txt").write_text("female, folk,\nguitar\n")
    songs = SongFolder(tmp_path)
    assert len(songs) == 1
    song = songs[0]
    assert (song.id, song.sections, song.description) == ("river", SECTIONS, "female, folk, guitar")
    assert song.tier is None
    assert list(song.tracks) == ["mix"]
    np.testing.assert_array_equal(song.tracks["mix"].read(100, 300), mix[:, 100:300])


@pytest.mark.parametrize("missing", ["mix", "vocal", "accompaniment"])
def test_the_third_track_follows_from_two(tmp_path: Path, missing: str) -> None:
    vocal, accompaniment = (np.random.default_rng(i).integers(-9000, 9000, 500).astype(np.int16) for i in range(2))
    tracks = {"mix": vocal + accompaniment, "vocal": vocal, "accompaniment": accompaniment}
    (tmp_path / "song").mkdir()
    for name in tracks.keys() - {missing}:
        soundfile.write(tmp_path / "song" / f"{name}.flac", tracks[name], RATE)
    song = SongFolder(tmp_path)[0]
    assert list(song.tracks) == ["mix", "vocal", "accompaniment"]
    for name, samples in tracks.items():
        np.testing.assert_array_equal(song.tracks[name].read(7, 400)[0] * 32768, samples[7:400])


def test_loose_files_are_mixes_with_the_lyrics_beside_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.OGG", "a.mp3", "c.wav"):
        write(tmp_path / name, samples=8000)
    (tmp_path / "c.lrc").write_text("[00:01.00][verse]\n[00:01.00]The river runs\n[00:02.50]beneath the moon\n")
    (tmp_path / "cover.jpg").write_bytes(b"")
    (tmp_path / ".hidden.wav").write_bytes(b"")
    (tmp_path / "d.m4a").write_bytes(b"")
    (tmp_path / "notes").mkdir()
    with caplog.at_level(logging.WARNING):
        songs = SongFolder(tmp_path)
    assert "d.m4a is left out" in caplog.text
    assert [song.id for song in songs] == ["a", "b", "c"]
    assert [list(song.tracks) for song in songs] == [["mix"]] * 3
    assert [line for section in songs[2].sections for line in section.lines] == list(SECTIONS[0].lines)


def test_a_song_record_is_read_with_its_truth(tmp_path: Path) -> None:
    alignment = Alignment(sections=(Span("verse", 0.0, 0.05),), notes=(Note(69, 0.01, 0.04),))
    original = Song(id="other", sections=SECTIONS, description="pop", tier="low", key="A:min", alignment=alignment)
    write(tmp_path / "song" / "vocal.wav")
    (tmp_path / "song" / "song.json").write_text(json.dumps(original.record()))
    song = SongFolder(tmp_path)[0]
    assert song.id == "song"
    assert (song.sections, song.tier, song.key, song.alignment) == (SECTIONS, "low", "A:min", alignment)


def test_what_generate_writes_is_read(tmp_path: Path) -> None:
    write(tmp_path / "song" / "mix.flac")
    request = {
        "id": "song",
        "sections": [{"tag": section.tag, "lines": list(section.lines)} for section in SECTIONS],
        "description": "male, rock",
        "tier": "medium",
        "prompt_audio": None,
    }
    values = {
        "format": 1,
        "request": request,
        "sections": [{"label": "verse", "start": 0.0, "end": 0.03}],
        "lines": None,
    }
    (tmp_path / "song" / "song.json").write_text(json.dumps(values))
    song = SongFolder(tmp_path)[0]
    assert (song.sections, song.description, song.tier) == (SECTIONS, "male, rock", "medium")
    assert song.alignment == Alignment(sections=(Span("verse", 0.0, 0.03),))


def test_a_manifest_names_files_from_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "audio" / "one.wav")
    write(tmp_path / "two.flac", 2)
    (tmp_path / "one.txt").write_text(LYRICS)
    lines = [
        {"id": "one", "vocal": "audio/one.wav", "lyrics": "one.txt", "description": "female"},
        {"id": "two", "mix": str(tmp_path / "two.flac"), "lyrics": LYRICS},
    ]
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    one, two = SongFolder(tmp_path / "songs.jsonl")
    assert (one.id, one.sections, one.description, list(one.tracks)) == ("one", SECTIONS, "female", ["vocal"])
    assert (two.id, two.sections, list(two.tracks)) == ("two", SECTIONS, ["mix"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object"),
        ('{"id": "a", "mix": 3}', "values are strings"),
        ('{"id": "a", "mixx": "a.wav"}', "unknown field 'mixx'. Did you mean 'mix'"),
        ('{"mix": "a.wav"}', "expected 'id'"),
        ('{"id": "a", "lyrics": "a.txt"}', "at least one of mix"),
    ],
)
def test_a_wrong_line_of_a_manifest_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "songs.jsonl").write_text('{"id": "z", "mix": "z.wav"}\n' + line)
    with pytest.raises(AudioError, match=message) as caught:
        SongFolder(tmp_path / "songs.jsonl")
    assert f"{tmp_path / 'songs.jsonl'}:2" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "found"),
    [({"samples": 801}, "801 samples"), ({"rate": 8000}, "8000 Hz"), ({"channels": 2}, "2 channels")],
)
def test_tracks_that_differ_are_refused(tmp_path: Path, options: dict[str, int], found: str) -> None:
    write(tmp_path / "song" / "mix.wav")
    write(tmp_path / "song" / "vocal.wav", **options)
    songs = SongFolder(tmp_path)
    with pytest.raises(AudioError, match=f"its tracks differ.*vocal.wav: .*{found}"):
        songs[0]


def test_a_bad_file_is_named_when_its_song_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "good.wav")
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "long").mkdir()
    write(tmp_path / "long" / "mix.wav", samples=RATE * 3)
    songs = SongFolder(tmp_path, max_seconds=2.5)
    with pytest.raises(AudioError, match=r"bad\.wav cannot be read"):
        songs[0]
    assert songs[1].id == "good"
    with pytest.raises(AudioError, match=r"long.mix\.wav is 0 min 3 s long; at most"):
        songs[2]


def test_lyrics_of_several_songs_or_of_none_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "song" / "mix.wav")
    two = [{"idx": str(i), "gt_lyric": "[verse] The river runs", "descriptions": "pop"} for i in range(2)]
    (tmp_path / "song" / "lyrics.jsonl").write_text("\n".join(map(json.dumps, two)))
    with pytest.raises(RequestError, match="lyrics of 2 songs"):
        SongFolder(tmp_path)[0]
    (tmp_path / "song" / "lyrics.jsonl").write_text("")
    with pytest.raises(RequestError, match=r"lyrics\.jsonl"):
        SongFolder(tmp_path)[0]
    (tmp_path / "song" / "song.json").write_text('{"title": "x"}')
    with pytest.raises(RequestError, match=r"song\.json holds no song"):
        SongFolder(tmp_path)[0]


def test_what_is_ambiguous_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="holds no songs"):
        SongFolder(tmp_path)
    with pytest.raises(AudioError, match="neither a folder"):
        SongFolder(tmp_path / "absent")
    write(tmp_path / "song" / "Song.wav")
    with pytest.raises(AudioError, match=r"holds Song\.wav but none of mix"):
        SongFolder(tmp_path)
    write(tmp_path / "song" / "mix.wav")
    write(tmp_path / "song" / "mix.flac")
    with pytest.raises(AudioError, match=r"mix\.wav and mix\.flac. Keep one"):
        SongFolder(tmp_path)
    (tmp_path / "song" / "mix.flac").unlink()
    write(tmp_path / "song.wav")
    with pytest.raises(AudioError, match="two songs are named 'song'"):
        SongFolder(tmp_path)


def test_the_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    assert pickle.loads(pickle.dumps(SongFolder(tmp_path)))[0].id == "a"
