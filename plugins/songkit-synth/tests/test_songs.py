import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from songkit.phonemes import phonemize
from songkit.types import TIERS, ArrayTrack, Song
from songkit_synth.folders import write_song
from songkit_synth.source import SynthSongs
from songkit_synth.styles import MODES, style_words

Make = Callable[..., SynthSongs]
NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the sound out: times, notes and words are made without it."""
    monkeypatch.setattr("songkit_synth.sing.render", lambda *_, **__: np.zeros(1, np.float32))


def data(song: Song, role: str) -> np.ndarray:
    track = song.tracks[role]
    assert isinstance(track, ArrayTrack)
    return track.data


def digest(song: Song) -> str:
    parts = [json.dumps(song.record(), sort_keys=True).encode(), *(data(song, role).tobytes() for role in song.tracks)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_mix_is_vocal_plus_accompaniment_to_the_last_bit(song: Song) -> None:
    total = data(song, "vocal").astype(np.int32) + data(song, "accompaniment")
    assert data(song, "mix").dtype == np.int16
    np.testing.assert_array_equal(data(song, "mix"), total)
    assert np.abs(data(song, "vocal")).max() > 1000
    assert np.abs(data(song, "accompaniment")).max() > 1000


def test_tracks_share_rate_channels_and_length(song: Song) -> None:
    assert list(song.tracks) == ["mix", "vocal", "accompaniment"]
    assert {(t.sample_rate, t.channels, t.samples) for t in song.tracks.values()} == {
        (48000, 2, round(song.seconds * 48000))
    }


def test_song_is_the_same_in_another_process_and_another_order(source: Make, words: Path) -> None:
    songs = source(tracks=["vocal", "accompaniment"])
    script = (
        "import sys; sys.path[:0] = [sys.argv[2]]\n"
        "from test_songs import digest\n"
        "from songkit_synth import SynthSongsConfig\n"
        "from songkit_synth.source import SynthSongs\n"
        "s = SynthSongs(SynthSongsConfig(songs=4, seconds_min=8.0, seconds_max=14.0, sample_rate=24000, channels=1,\n"
        "    tracks=['vocal', 'accompaniment'], words=sys.argv[1]))\n"
        "print(digest(s[2]))"
    )
    command = [sys.executable, "-c", script, str(words), str(Path(__file__).parent)]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    assert digest(songs[1]) != digest(songs[2])
    assert there.stdout.strip() == digest(songs[2])


def test_vocal_does_not_depend_on_what_else_is_rendered(source: Make) -> None:
    alone, together = source()[3], source(tracks=["mix", "vocal", "accompaniment"])[3]
    np.testing.assert_array_equal(data(alone, "vocal"), data(together, "vocal"))
    assert alone.record() == together.record()


def test_without_tracks_a_song_is_its_words_and_truth(source: Make) -> None:
    silent = source(tracks=[])[3]
    assert not silent.tracks
    assert silent.record() == source()[3].record()


@pytest.mark.parametrize(("low", "high"), [(8.0, 12.0), (20.0, 24.0), (200.0, 206.0)])
def test_times_follow_the_laws_of_an_alignment(source: Make, low: float, high: float, silent: None) -> None:
    songs = source(seconds_min=low, seconds_max=high, tiers=dict.fromkeys(TIERS, 1.0))
    for song in (songs[i] for i in range(4)):
        truth = song.alignment
        assert truth is not None
        assert low <= song.seconds <= high
        assert song.seconds * 25 == pytest.approx(round(song.seconds * 25))
        assert [s.label for s in truth.sections] == [s.tag for s in song.sections]
        assert (truth.sections[0].start, truth.sections[-1].end) == (0.0, song.seconds)
        assert all(a.end == b.start for a, b in itertools.pairwise(truth.sections))
        lines = [
            (section, line) for section, part in zip(truth.sections, song.sections, strict=True) for line in part.lines
        ]
        assert [line.label for line in truth.lines] == [text for _, text in lines]
        phones = iter(truth.phones)
        for line, (section, text) in zip(truth.lines, lines, strict=True):
            assert section.start <= line.start
            assert line.end <= section.end
            own = [next(phones) for _ in phonemize(text)]
            assert [p.label for p in own] == [p.symbol for p in phonemize(text)]
            assert (own[0].start, own[-1].end) == (line.start, line.end)
            assert all(a.end == b.start for a, b in itertools.pairwise(own))
            assert min(p.end - p.start for p in own) >= 0.05 - 1e-4
        assert next(phones, None) is None
        for spans in (truth.lines, truth.notes, truth.chords):
            assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(spans))
        for section in truth.sections:
            if section.label.endswith("-short"):
                assert section.end - section.start <= 10.0


def out_of_key(song: Song) -> int:
    assert song.key is not None
    assert song.alignment is not None
    name, mode = song.key.split(":")
    scale = {(NAMES.index(name) + step) % 12 for step in MODES[mode]}
    return sum(note.pitch % 12 not in scale for note in song.alignment.notes)


def test_worse_tiers_have_more_notes_out_of_key_and_the_same_words(source: Make, silent: None) -> None:
    wrong = {}
    for tier in ("very-high", "medium", "very-low"):
        songs = source(tiers={tier: 1.0}, songs=8)
        made = [songs[i] for i in range(8)]
        wrong[tier] = sum(map(out_of_key, made))
        assert {song.tier for song in made} == {tier}
        assert [s.sections for s in made] == [source(songs=8)[i].sections for i in range(8)]
    assert wrong["very-high"] == 0
    assert 0 < wrong["medium"] < wrong["very-low"]


def test_balance_of_a_worse_tier_is_off_by_what_provenance_says(source: Make) -> None:
    both = ["vocal", "accompaniment"]
    good, bad = source(tracks=both)[1], source(tracks=both, tiers={"low": 1.0})[1]
    level = [20 * np.log10(np.sqrt(np.mean(np.square(data(s, "accompaniment") / 32768.0)))) for s in (good, bad)]
    assert level[1] - level[0] == pytest.approx(bad.provenance["faults"]["balance"], abs=1.5)


def test_sung_pitch_is_the_written_one(source: Make) -> None:
    songs = source(voices=["male", "female"], seconds_min=8.0, seconds_max=12.0)
    errors = []
    for song in (songs[0], songs[1]):
        assert song.alignment is not None
        sound = song.tracks["vocal"].read()[0].astype(np.float64)
        for note in song.alignment.notes:
            if note.end - note.start > 0.2:
                middle = (note.start + note.end) / 2
                part = sound[int((middle - 0.06) * 24000) : int((middle + 0.06) * 24000)]
                errors.append(12 * np.log2(autocorrelation_pitch(part, near=440 * 2 ** ((note.pitch - 69) / 12))))
    assert len(errors) > 10
    assert np.mean(np.abs(errors) < 0.5) >= 0.85


def autocorrelation_pitch(part: np.ndarray, near: float) -> float:
    """Returns the pitch within a fifth of `near`, as a factor of it."""
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 14)) ** 2
    echo = np.fft.irfft(spectrum)[: len(part)]
    lags = np.arange(int(24000 / near / 1.5), int(24000 / near * 1.5))
    return float(24000 / lags[np.argmax(echo[lags])] / near)


def test_voices_sing_while_phones_last_and_nobody_else_does(source: Make) -> None:
    song = source(seconds_min=20.0, seconds_max=24.0)[0]
    assert song.alignment is not None
    sound = song.tracks["vocal"].read()[0]
    sung = np.zeros(len(sound), bool)
    for line in song.alignment.lines:
        sung[int((line.start - 0.05) * 24000) : int((line.end + 0.6) * 24000)] = True  # the room rings on
    assert np.sqrt(np.mean(sound[sung] ** 2)) > 0.03
    assert np.sqrt(np.mean(sound[~sung] ** 2)) < 0.002


def test_descriptions_use_the_closed_vocabulary_and_tell_the_truth(source: Make, silent: None) -> None:
    known = set(style_words())
    songs = source(songs=12)
    for song in (songs[i] for i in range(12)):
        words = song.description.replace(",", " ").split()
        assert set(words) <= known
        assert song.tempo is not None
        assert words[-1] == f"{song.tempo:.0f}"
        assert song.provenance["genre"] in words
    assert len(known) == len(style_words())


def test_named_singer_or_kind_of_singer_sings(source: Make, silent: None) -> None:
    assert source(voices=["otto"])[0].provenance["singer"] == "otto"
    assert source(voices=["child"])[0].description.startswith("child, ")


def test_song_is_written_to_a_folder_and_read_back(song: Song, tmp_path: Path) -> None:
    folder = write_song(song, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["accompaniment.flac", "mix.flac", "song.json", "vocal.flac"]
    audio, rate = soundfile.read(folder / "vocal.flac", dtype="int16", always_2d=True)
    assert rate == 48000
    np.testing.assert_array_equal(audio.T, data(song, "vocal"))
    again = Song.from_record(json.loads((folder / "song.json").read_text(encoding="utf-8")))
    assert again.record() == song.record()
    assert again.alignment == song.alignment
