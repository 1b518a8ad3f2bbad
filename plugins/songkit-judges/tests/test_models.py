"""Networks that come inside packages give here what they give there; `data/make_golden.py` wrote what that is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from songkit.errors import AudioError, CheckpointError, PluginError
from songkit_judges import musicnn, quality
from songkit_judges.mel import mel_spectrogram
from songkit_judges.musicnn import TAGS, listen, network
from songkit_judges.quality import opinions
from songkit_judges.tensor_bundle import read_bundle

GOLDEN = np.load(Path(__file__).parent / "data" / "golden.npz")
needs_musicnn = pytest.mark.skipif(
    importlib.util.find_spec("musicnn") is None, reason="pip install --no-deps musicnn==0.1.0"
)
needs_speechmos = pytest.mark.skipif(
    importlib.util.find_spec("speechmos") is None, reason="pip install songkit-judges[voice-quality]"
)


@pytest.mark.parametrize(("name", "settings"), [("mel", (512, 256, 96)), ("mel_odd", (321, 160, 120))])
def test_mel_spectra_are_those_of_librosa(name, settings):
    size, hop, bands = settings
    noise = np.random.default_rng(3).standard_normal(64000).astype(np.float32) * 0.1
    found = mel_spectrogram(noise, 16000, size=size, hop=hop, bands=bands)[::10]
    np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-4, atol=1e-6)


@needs_musicnn
@pytest.mark.parametrize("model", ["msd", "mtt"])
def test_musicnn_hears_what_it_hears_in_tensorflow(model):
    patches = (np.abs(np.random.default_rng(0).standard_normal((2, 187, 96))) * 2).astype(np.float32)
    logits, penultimate = network(musicnn._load(model), torch.from_numpy(patches))
    np.testing.assert_allclose(logits, GOLDEN[f"{model.upper()}_musicnn_logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(penultimate, GOLDEN[f"{model.upper()}_musicnn_penultimate"], rtol=1e-4, atol=1e-4)
    assert len(TAGS[model]) == len(set(TAGS[model])) == logits.shape[1]


@needs_musicnn
def test_what_is_heard_is_the_mean_of_whole_patches():
    rng = np.random.default_rng(1)
    parts = [0.1 * rng.standard_normal(16 * 187 * 16) for _ in range(2)]  # 187 frames of 256 samples each
    whole = listen(np.concatenate([*parts, parts[0][:4000]]), 16000)
    assert whole.logits.shape == (50,)
    assert whole.embedding.shape == (200,)
    each = np.mean([listen(part, 16000).embedding for part in parts], axis=0)
    np.testing.assert_allclose(whole.embedding, each, atol=0.15 * np.abs(each).max())  # frames at the seams differ
    assert np.isfinite(listen(parts[0][:900], 16000).embedding).all()  # shorter than a patch
    with pytest.raises(AudioError, match="not finite"):
        listen(np.full(16000, np.nan), 16000)


def test_a_missing_musicnn_says_what_to_install(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    musicnn._load.cache_clear()
    with pytest.raises(PluginError, match=r"pip install --no-deps musicnn==0\.1\.0"):
        listen(np.zeros(16000), 16000)


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_files_of_another_musicnn_are_refused(monkeypatch, tmp_path, fault):
    class Package:
        def locate_file(self, name):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if fault == "damaged":
                path.write_bytes(b"other weights")
            return path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Package())
    musicnn._load.cache_clear()
    with pytest.raises(CheckpointError, match=r"musicnn.*0\.1\.0"):
        listen(np.zeros(16000), 16000)


@needs_speechmos
def test_opinions_are_those_of_speechmos():
    times = np.arange(12 * 16000) / 16000
    tones = (0.2 * np.sin(2 * np.pi * 220 * times) * (np.sin(2 * np.pi * times) > 0)).astype(np.float32)
    found = opinions(tones, 16000)
    np.testing.assert_allclose(list(found.values()), GOLDEN["dnsmos"], atol=2e-3)


def test_missing_speechmos_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "speechmos" else find(name))
    quality._session.cache_clear()
    with pytest.raises(PluginError, match=r"pip install songkit-judges\[voice-quality\]"):
        opinions(np.zeros(16000), 16000)


def bundle(tensor, *, compressed=False, end=None):
    """A checkpoint with one tensor, written by hand."""
    data = tensor.astype("<f4").tobytes()
    dims = b"".join(b"\x12\x02\x08" + bytes([n]) for n in tensor.shape)
    entry = b"\x08\x01\x12" + bytes([len(dims)]) + dims + b"\x28" + bytes([end or len(data)]) + b"\x35" + bytes(4)
    block = block_of([(b"", b"\x08\x01"), (b"kernel", entry)])
    index = block + (b"\x01" if compressed else b"\0") + bytes(4)
    handles = block_of([(b"x", bytes([0, len(block)]))])
    at = len(index)
    index += handles + b"\0" + bytes(4)
    footer = bytes([0, 0, at, len(handles)]).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    return index + footer, data


def block_of(entries):
    body = b"".join(bytes([0, len(key), len(value)]) + key + value for key, value in entries)
    return body + bytes(4) + b"\x01\0\0\0"


def test_a_checkpoint_written_by_hand_is_read():
    tensor = np.arange(6.0).reshape(2, 3)
    (name, found), *others = read_bundle(*bundle(tensor)).items()
    assert name == "kernel"
    assert others == []
    np.testing.assert_array_equal(found, tensor)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((b"", b""), "does not end as"),
        ((bytes(100), b""), "does not end as"),
        (bundle(np.ones((2, 2)), compressed=True), "compressed"),
        (bundle(np.ones((2, 2)), end=99), "ends at byte 99 of 16"),
        (bundle(np.ones((2, 2)), end=12), "no TensorFlow checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused(files, told):
    with pytest.raises(CheckpointError, match=told):
        read_bundle(*files)
