"""Tests of devices.py, and of whether all that makes songs can be elsewhere than on the CPU."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import soundfile
import torch
from elsewhere import DEVICE, pretended
from hypothesis import given
from hypothesis import strategies as st

from songkit import song_model
from songkit.build import build_roles
from songkit.checkpoint import save_weights
from songkit.cli import main
from songkit.devices import devices, find_device
from songkit.errors import RecipeError, RequestError
from songkit.generate import generate
from songkit.kernels import PackedLinear
from songkit.recipe import Recipe, load
from songkit.registry import Entry, Registry
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.singing import SongModel, SungSong, sing
from songkit.streaming import stream
from songkit.testing.exercise import exercise
from songkit.testing.subject import Subject
from songkit.types import Section

REGISTRY = Registry.discover()
COMPONENTS = [
    entry
    for entry in REGISTRY.list()
    if entry.component.kind in ("backbone", "tokenizer", "codec", "conditioner", "planner", "refiner")
    and not entry.id.startswith("encodec/")  # outside the CPU torch has its LSTM in one operator, which is not here
]
REQUESTS = [
    SongRequest(id="short", sections=(Section("verse", ("sing to me",)),)),
    SongRequest(id="long", sections=(Section("verse", ("sing to me", "the night is long")), Section("inst-short"))),
]
GREEDY = GenerateSettings(temperature=0.0, refiner_temperature=0.0, max_seconds=0.5, min_seconds=0.4)


# --- names -----------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices() == ["cuda:0", "cuda:1", "cpu"]
    assert [str(find_device(name)) for name in ("cuda", "cuda:1", "auto", "cpu")] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    with pytest.raises(RequestError, match=r"'cuda:2' is not there.*There is cuda:0, cuda:1, cpu: choose one"):
        find_device("cuda:2")
    with pytest.raises(RequestError, match=r"'mps' is not there.*There is cuda:0"):
        find_device("mps")


@given(st.text(max_size=8).filter(lambda text: text not in ("auto", "cpu", "cuda", "mps")))
def test_other_names_are_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(RequestError, match=r"auto, cpu, cuda, cuda:N|is not there"):
        find_device(name)


def test_a_song_is_sung_where_the_recipe_says_unless_the_command_says_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.write_model(tmp_path)
    (tmp_path / "there.yaml").write_text("format: 1\ndefaults: [./model.yaml]\ngenerate: {device: 'cuda:99'}\n")
    (tmp_path / "lyrics.txt").write_text("[verse]\nla\n")
    words = ["generate", str(tmp_path / "lyrics.txt"), "--out", str(tmp_path), "--model", str(tmp_path / "there.yaml")]
    assert main(words) == 2
    assert "the device 'cuda:99' is not there" in capsys.readouterr().err
    assert main([*words, "--device", "cpu"]) == 0
    song = json.loads((tmp_path / "lyrics" / "song.json").read_text())
    assert song["device"] == "cpu"
    assert "device" not in song["sampling"]
    with pytest.raises(RecipeError, match="device is 'gpu'; expected auto, cpu, cuda"):
        load(tmp_path / "model.yaml", ["generate.device=gpu"], registry=REGISTRY)


# --- elsewhere -------------------------------------------------------------------------------------------------


def test_pretending_finds_what_was_made_on_the_wrong_side() -> None:
    with pretended():
        there = torch.ones(3, device=DEVICE)
        assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a GPU takes numbers of the CPU, too
        assert there[torch.tensor([0, 1])].device.type == DEVICE  # and indices
        with pytest.raises(RuntimeError, match=r"tensors \[3\] are on the CPU"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="CPU"):
            torch.where(there > 0, there, torch.arange(3.0))
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.component.kind} {entry.id}")
def test_every_component_computes_elsewhere_what_it_computes_here(entry: Entry) -> None:
    kind, subject = entry.component.kind, Subject(entry, entry.component.example)
    if "needs-files" in entry.component.tags:
        pytest.skip("its example names files that are not there")
    expected = exercise(kind, subject.build())
    built = subject.build()
    with pretended():
        found = exercise(kind, built.to(DEVICE), DEVICE)
        assert {name for name, value in found.items() if value.device.type != DEVICE} == set()
        here = {name: value.cpu() for name, value in found.items()}
    assert here.keys() == expected.keys()
    for name, value in expected.items():  # torch may compose an operator of others elsewhere
        assert torch.allclose(here[name].double(), value.double(), rtol=1e-4, atol=1e-5, equal_nan=True), name


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recipe]:
    """LeVo 2 with all parts, tiny, with weights: as the miniature is, and as released."""
    return functools.cache(lambda kind: write_model(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A device that `SongModel.load` takes."""
    monkeypatch.setattr(song_model, "find_device", torch.device)
    with pretended():
        yield f"{DEVICE}:0"


@pytest.mark.parametrize(
    ("kind", "static"), [("miniature", True), pytest.param("released", False, marks=pytest.mark.slow)]
)
def test_songs_are_the_same_elsewhere_and_say_where_they_were_made(
    recipes: Callable[[str], Recipe],
    kind: str,
    static: bool,
    elsewhere: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("songkit.picture.draw_song", lambda *_, **__: b"")
    requests, made = asked(kind, tmp_path), {}
    for device in ("cpu", elsewhere):
        model = SongModel.load(recipes(kind), device=device)
        assert str(model.device) == device
        model.planner.tower.static = model.refiner.tower.static = static and device != "cpu"
        made[device] = list(generate(model, requests, out=tmp_path / device, settings=GREEDY))
        for folder, song in made[device]:
            told = json.loads((folder / "song.json").read_text("utf-8"))
            assert told["device"] == device
            assert f"--device {device}" in told["command"]
            assert song.codes.ids.shape[2] >= 8
    for (_, one), (_, two) in zip(*made.values(), strict=True):
        alike(one, two)


@pytest.mark.slow
def test_a_stream_comes_from_elsewhere(recipes: Callable[[str], Recipe], elsewhere: str) -> None:
    model, settings = recipes("miniature"), dataclasses.replace(GREEDY, max_seconds=2.4)
    pieces = list(stream(SongModel.load(model, device=elsewhere), REQUESTS[1], settings=settings, tracks=["vocal"]))
    [song] = sing(SongModel.load(model), REQUESTS[1:], settings=settings)
    heard = np.concatenate([piece["vocal"] for piece in pieces], 1)
    assert heard.shape == song.tracks["vocal"].shape
    assert np.corrcoef(heard.ravel(), song.tracks["vocal"].ravel().astype(float))[0, 1] > 0.999


def test_bf16_elsewhere_is_weights_of_bf16_and_int8_is_refused(
    recipes: Callable[[str], Recipe], elsewhere: str
) -> None:
    recipe = recipes("miniature")
    model = SongModel.load(recipe, precision="bf16", device=elsewhere)
    layers = [layer for layer in model.planner.tower.modules() if isinstance(layer, PackedLinear)]
    assert len(layers) == 4  # of its one block
    assert {(layer.packed.device.type, layer.packed.dtype) for layer in layers} == {(DEVICE, torch.bfloat16)}
    [song] = sing(model, REQUESTS[:1], settings=GREEDY)
    assert np.any(song.tracks["mix"])
    with pytest.raises(RequestError, match=r"int8 is for the CPU.*bf16 or fp32 on elsewhere"):
        SongModel.load(recipe, precision="int8", device=elsewhere)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["miniature", "released"])
def test_greedy_songs_have_the_same_codes_on_a_gpu(recipes: Callable[[str], Recipe], kind: str, tmp_path: Path) -> None:
    requests = asked(kind, tmp_path)
    here = sing(SongModel.load(recipes(kind)), requests, settings=GREEDY)
    there = sing(SongModel.load(recipes(kind), device="cuda"), requests, settings=GREEDY)
    for one, two in zip(here, there, strict=True):
        alike(one, two)


def asked(kind: str, folder: Path) -> list[SongRequest]:
    """Returns a request with an audio prompt, and one without."""
    rate = {"miniature": 24000, "released": 48000}[kind]
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, rate // 2)
    for track in ("mix", "vocal", "accompaniment"):
        soundfile.write(folder / f"{track}.wav", noise, rate)
    return [dataclasses.replace(REQUESTS[0], prompt_audio=folder / "mix.wav"), REQUESTS[1]]


def alike(one: SungSong, two: SungSong) -> None:
    """Asserts that two songs have the same codes, and audio that differs by rounding."""
    assert torch.equal(one.codes.ids, two.codes.ids)
    assert torch.equal(one.planned.ids, two.planned.ids)
    assert one.finished == two.finished
    for track, samples in one.tracks.items():
        other = two.tracks[track]
        assert np.abs(samples.astype(int) - other).max() <= 2e-3 * np.abs(samples.astype(int)).max()


def write_model(kind: str, folder: Path) -> Recipe:
    """Writes a recipe with files of lively weights: with initial ones, all ids would be about as likely."""
    values: dict[str, Any] = {"format": 1, **_ROLES[kind]}
    path = folder / "song.yaml"
    for role in _ROLES[kind]:
        values[role]["weights"] = "random"
    path.write_text(json.dumps(values))
    for role, module in build_roles(load(path, registry=REGISTRY)).items():
        draw = torch.Generator().manual_seed(0)
        for parameter in module.parameters() if role != "codec" else ():
            torch.nn.init.normal_(parameter, std=0.3, generator=draw)
        node = load(path, registry=REGISTRY).roles[role]
        save_weights(folder / f"{role}.safetensors", module, {"component": node.id, "revision": node.revision})
        values[role]["weights"] = str(folder / f"{role}.safetensors")
    path.write_text(json.dumps(values))
    return load(path, registry=REGISTRY)


def _example(name: str) -> dict[str, Any]:
    component = next(entry.component for entry in COMPONENTS if entry.id == f"levo2/{name}")
    return {"use": f"levo2/{name}", **dataclasses.asdict(component.example)}


_TOWER = {"use": "songkit/transformer", "dim": 16, "layers": 1, "heads": 2, "feed_forward": 32}
_SIZES = {"codebook_size": 32, "source_codebook_size": 32, "source_width": 16, "delay": 3}
_ROLES: dict[str, dict[str, dict[str, Any]]] = {
    "miniature": {
        "conditioner": _example("lelm-conditioner"),
        "planner": {"use": "levo2/mixed-lm", "codebook_size": 32, "tower": _TOWER},
        "refiner": {"use": "levo2/track-lm", **_SIZES, "tower": _TOWER},
        "codec": _example("music-codec"),
    },
    "released": {
        "conditioner": _example("qwen-conditioner"),
        "planner": {"use": "levo2/mixed-lm", "codebook_size": 32, "cursor": False, "tail": 3, "tower": _TOWER},
        "refiner": {"use": "levo2/track-lm", **_SIZES, "after": "planner", "ends": True, "tower": _TOWER},
        "codec": _example("dual-track-codec"),
    },
}
