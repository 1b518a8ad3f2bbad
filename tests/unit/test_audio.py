"""Audio files are read through a process that may die, and every bad file gives one clear error."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from songkit._decoder import Decoder
from songkit.audio import SumTrack, convert, open_audio, read_audio, write_flac
from songkit.errors import AudioError, OutputError
from songkit.types import ArrayTrack


def tone(seconds: float = 1.0, rate: int = 44_100, channels: int = 2) -> np.ndarray:
    """float32 [C, T], a tone of its own frequency in each channel."""
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (c + 1) * times) for c in range(channels)]).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 44_100, **options: str) -> Path:
    soundfile.write(path, audio.T, rate, **options)
    return path


@pytest.mark.parametrize(("suffix", "error"), [("wav", 2**-14), ("flac", 2**-14), ("mp3", 0.05), ("ogg", 0.05)])
def test_a_file_is_read_as_it_was_written_whole_or_in_part(tmp_path: Path, suffix: str, error: float) -> None:
    audio = tone(2.0)  # longer than a block of the decoder
    path = write(tmp_path / f"tone.{suffix}", audio)
    track = open_audio(path)
    assert (track.sample_rate, track.channels, track.samples) == (44_100, 2, 88_200)
    whole = track.read()
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, soundfile.read(path, dtype="float32")[0].T)
    assert np.abs(whole - audio)[:, 2000:-2000].max() < error
    # An MP3 that is entered in the middle differs by the rounding of float32.
    np.testing.assert_allclose(track.read(10_000, 30_000), whole[:, 10_000:30_000], rtol=0, atol=1e-6)
    np.testing.assert_allclose(track.read(70_000, 80_000), whole[:, 70_000:80_000], rtol=0, atol=1e-6)
    np.testing.assert_allclose(track.read(-100), whole[:, -100:], rtol=0, atol=1e-6)
    assert track.read(5, 5).shape == (2, 0)


def test_mono_at_8_khz_becomes_what_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "telephone.wav", tone(2.0, 8000, 1), 8000)
    audio, rate = read_audio(path, 48_000, 2, start=0.5, stop=1.5)
    assert (audio.shape, rate) == ((2, 48_000), 48_000)
    expected = 0.5 * np.sin(2 * np.pi * 220 * (0.5 + np.arange(48_000) / 48_000))
    assert np.abs(audio - expected)[:, 1000:-1000].max() < 0.01


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 3000), st.sampled_from([8000, 22_050, 44_100, 48_000]), st.sampled_from([16_000, 24_000, 48_000]))
def test_resampled_audio_has_exactly_the_length_of_its_duration(samples: int, rate: int, to_rate: int) -> None:
    out = convert(np.zeros((1, samples), np.float32), rate, to_rate, 2)
    assert out.shape == (2, round(samples * to_rate / rate))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)


def header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def text(path: Path) -> None:
    path.write_text("These are words and not music. " * 200)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("wav", cut, "cut short"),
        ("flac", cut, "lost sync"),
        ("mp3", cut, "ends or is damaged after"),
        ("flac", overwrite, "lost sync"),
        *((suffix, header_only, "cannot be read") for suffix in ("wav", "flac", "mp3", "ogg")),
        *((suffix, text, "not WAV, FLAC, MP3 or OGG") for suffix in ("wav", "flac", "mp3", "ogg")),
        *((suffix, empty, "is empty") for suffix in ("wav", "flac", "mp3", "ogg")),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None], message: str
) -> None:
    generator = np.random.default_rng(0)
    path = write(tmp_path / f"song.{suffix}", generator.uniform(-0.5, 0.5, (2, 44_100)))
    damage(path)
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    good = write(tmp_path / "good.wav", tone(0.1))
    assert read_audio(good)[0].shape == (2, 4410)


def test_a_file_without_samples_or_with_other_things_than_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(write(tmp_path / "nothing.wav", np.zeros((1, 0))))
    audio = tone(0.1)
    audio[0, 7] = np.nan
    with pytest.raises(AudioError, match="no numbers"):
        read_audio(write(tmp_path / "nan.wav", audio, subtype="FLOAT"))
    with pytest.raises(AudioError, match="1000 Hz and 1 channels"):
        read_audio(write(tmp_path / "slow.wav", tone(1.0, 1000, 1), 1000))


def test_what_is_no_readable_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for ever
    for name, message in [("absent.wav", "No such file"), ("pipe.wav", "regular file"), (".", "regular file")]:
        with pytest.raises(AudioError, match=message):
            read_audio(tmp_path / name)


def test_eleven_hours_are_refused_but_any_part_of_them_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "night.wav", np.zeros((1, 1)), 8000)
    header, size = path.read_bytes()[:36], 11 * 3600 * 8000 * 2
    with path.open("wb") as file:  # a sparse file: the silence takes no room
        file.write(header[:4] + (size + 16_036).to_bytes(4, "little") + header[8:])
        file.write(b"data" + (size + 16_000).to_bytes(4, "little"))
        file.seek(44 + size)
        file.write(np.full(8000, 8192, "<i2").tobytes())
    with pytest.raises(AudioError, match=r"11\.0 hours long; at most 30 min 0 s"):
        read_audio(path)
    audio, _ = read_audio(path, start=11 * 3600 + 0.25, stop=11 * 3600 + 0.5)
    np.testing.assert_array_equal(audio, np.full((1, 2000), 0.25, np.float32))
    with pytest.raises(AudioError, match="Choose a part inside it"):
        read_audio(path, start=12 * 3600)


CHILD = "import sys, os, time, json; line = json.loads(sys.stdin.buffer.readline()); {}"


@pytest.mark.parametrize(
    ("behaviour", "timeout", "message"),
    [
        ("os.kill(os.getpid(), 11)", 60, r"died of it \(signal 11\)"),
        ("sys.exit(3)", 60, r"died of it \(status 3\)"),
        ("time.sleep(60)", 0.2, "did not get on for"),
        ("print('nonsense', flush=True); time.sleep(60)", 60, "nonsense"),
        ("sys.stdout.write('x' * 9000); sys.stdout.flush(); time.sleep(60)", 60, "nonsense"),
    ],
)
def test_a_decoder_that_crashes_hangs_or_lies_takes_nothing_down(
    tmp_path: Path, behaviour: str, timeout: float, message: str
) -> None:
    path = write(tmp_path / "evil.wav", tone(0.1))
    decoder = Decoder((sys.executable, "-c", CHILD.format(behaviour)), timeout=timeout)
    for _ in range(2):  # the second time by a new child
        with pytest.raises(AudioError, match=message) as caught:
            decoder.properties(path)
        assert str(path) in str(caught.value)
    decoder.close()


def test_a_killed_decoder_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "tone.wav", tone(0.1))
    decoder = Decoder()
    assert decoder.properties(path)["samples"] == 4410
    assert decoder._child is not None
    decoder._child.kill()
    decoder._child.wait()
    assert decoder.read(path, 0, None).shape == (4410, 2)
    decoder.close()


def test_threads_share_the_decoder(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.wav", np.full((1, 100_000), i / 16, np.float32)) for i in range(6)]
    found: dict[int, np.ndarray] = {}

    def read(i: int) -> None:
        found[i] = read_audio(paths[i])[0]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        np.testing.assert_array_equal(found[i], np.full((1, 100_000), i / 16, np.float32))


def test_flac_is_exact_and_replaces_only_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, (2, 5000)).astype(np.int16)
    path = tmp_path / "song.flac"
    write_flac(path, samples, 48_000)
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0].T, samples)
    write_flac(path, np.array([[0.5, -2.0, 2.0]], np.float32), 48_000)
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], [16384, -32768, 32767])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_flac(path, samples, 48_000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["song.flac"]
    with pytest.raises(AudioError, match="no numbers"):
        write_flac(path, np.full((1, 4), math.inf, np.float32), 48_000)


def test_a_sum_of_tracks_reads_ranges() -> None:
    first, second = tone(0.1), tone(0.1)[::-1]
    track = SumTrack((ArrayTrack(first, 44_100), ArrayTrack(second, 44_100)), (1.0, -0.5))
    assert (track.sample_rate, track.channels, track.samples) == (44_100, 2, 4410)
    np.testing.assert_allclose(track.read(10, 20), first[:, 10:20] - 0.5 * second[:, 10:20])
