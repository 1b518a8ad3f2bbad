"""Packed linear layers and the native decoding step, held to plain torch."""

from __future__ import annotations

import copy
import json
import shutil
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.generate import generate
from songkit.kernels import PackedLinear, library, linear_rows, native, pack
from songkit.kernels.linear import BLOCK, FEW
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.sampling import guide
from songkit.settings import GenerateSettings
from songkit.singing import SongModel
from songkit.types import Section

WAYS = ("native", "onednn", "plain")
CLOSE = {"fp32": 1e-5, "bf16": 6e-3, "int8": 1.2e-2}
"""Largest error as a share of what is summed: rounding of weights and inputs at 24, 8 and 8 bits."""


@pytest.fixture(autouse=True)
def _compiler():
    if library() is None:
        pytest.skip("no C++ compiler: the native kernels cannot be tested here")


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def layer(inputs: int = 36, outputs: int = 50, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", CLOSE)
@settings(max_examples=25)
@given(rows=st.integers(1, 20), inputs=st.integers(1, 20), outputs=st.integers(1, 70), bias=st.booleans())
def test_packed_layers_agree_with_the_layer(way, precision, rows, inputs, outputs, bias):
    plain = layer(4 * inputs, outputs, bias=bias)
    x = torch.randn(rows, 4 * inputs)
    largest = x.abs().sum(1, keepdim=True) * plain.weight.abs().amax(1) + (plain.bias.abs() if bias else 0)
    wrong = (PackedLinear(plain, precision, way)(x) - plain(x)).abs()
    assert bool((wrong <= CLOSE[precision] * largest).all())


@pytest.mark.parametrize("precision", CLOSE)
def test_all_ways_multiply_the_same_weights(precision):
    x = torch.eye(36)  # exact in every precision: what comes out is the weights
    native_way, *others = (PackedLinear(layer(), precision, way) for way in WAYS)
    for other in others:
        torch.testing.assert_close(native_way(x), other(x), rtol=4e-3 if precision == "int8" else 0, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", CLOSE)
def test_a_row_does_not_depend_on_the_rows_beside_it(way, precision):
    packed = PackedLinear(layer(768, 100), precision, way)
    x = torch.randn(2 * BLOCK + 3, 768)
    alone = torch.cat([packed(row[None]) for row in x])
    for count in range(1, len(x) + 1):
        assert torch.equal(packed(x[:count]), alone[:count])


@pytest.mark.parametrize("precision", CLOSE)
def test_many_rows_are_multiplied_as_few_are(precision):
    packed = PackedLinear(layer(), precision)
    x = torch.randn(FEW + 1, 36)
    assert error(packed(x)[:FEW], packed(x[:FEW])) < 5e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [slice(0, 50), slice(3, 33), slice(17, 50), slice(16, 17)])
def test_some_outputs_are_those_of_the_whole(way, rows):
    packed, x = PackedLinear(layer(bias=True), "bf16", way), torch.randn(2, 3, 36)
    torch.testing.assert_close(linear_rows(packed, x, rows), packed(x)[..., rows])
    plain = layer()
    torch.testing.assert_close(linear_rows(plain, x, rows), plain(x)[..., rows])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", CLOSE)
def test_guided_outputs_are_those_of_both_branches(way, precision):
    packed, x = PackedLinear(layer(768, 100), precision, way), torch.randn(9, 2, 768)
    expected = guide(*packed(x)[..., 30:].unbind(1), 1.5)
    guided = packed.rows(x, 30, 100, guidance=1.5)
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-6)
    assert torch.equal(packed.rows(x[4:5], 30, 100, guidance=1.5)[0], guided[4])


def test_what_is_packed_refuses_to_be_trained():
    packed, x = PackedLinear(layer(), "fp32"), torch.randn(2, 36, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"cannot be trained.*build_roles"):
        packed(x)
    with torch.no_grad():
        assert packed(x).shape == (2, 50)


def test_a_model_without_linear_layers_is_packed():
    model = nn.Sequential(nn.Embedding(3, 2))
    pack(model, "bf16")
    assert type(model[0]) is nn.Embedding


def test_layers_that_cannot_be_packed_stay():
    module = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), nn.RMSNorm(4))
    pack(module, "fp32")
    assert [type(one) for one in module] == [nn.Linear, PackedLinear, nn.RMSNorm]


# --- towers ----------------------------------------------------------------------------------------------------


def tower(**options: int) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(TransformerConfig(**{"dim": 48, "layers": 2, "heads": 3, "feed_forward": 100, **options}))
    for parameter in made.parameters():
        parameter.data *= 3 if parameter.dim() == 2 else 1
    return made.eval().requires_grad_(False)


def decode(model: Transformer, lengths: list[int], steps: int = 6, *, empty: int = 0) -> torch.Tensor:
    """States [songs, steps, G, D] of songs with prefixes of different lengths, two guidance rows each."""
    generator, device = torch.Generator().manual_seed(1), model.norm.weight.device
    caches, inputs = [], []
    for length in lengths:
        mask = torch.ones(2, length, dtype=torch.bool)
        mask[1, : length // 2] = False
        prefix = torch.randn(2, length, 48, generator=generator).to(device)
        caches.append(model.start(prefix, mask.to(device), steps)[1])
        inputs.append(torch.randn(steps, 2, 48, generator=generator))
    caches += [None] * empty
    rows = [torch.cat([*(x[s] for x in inputs), torch.zeros(2 * empty, 48)]) for s in range(steps)]
    states = torch.stack([model.step(x.to(device), caches).cpu() for x in rows], 1)
    return states.unflatten(0, (-1, 2)).transpose(1, 2)[: len(lengths)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", CLOSE)
def test_a_packed_tower_steps_as_the_plain_one(way, precision):
    packed = copy.deepcopy(plain := tower())
    pack(packed, precision, way)
    assert error(decode(packed, [5, 9]), decode(plain, [5, 9])) < 2 * CLOSE[precision]


@pytest.mark.parametrize("precision", CLOSE)
def test_a_song_does_not_depend_on_its_company(precision):
    pack(packed := tower(), precision)
    together = decode(packed, [5, 9, 7])
    assert torch.equal(decode(packed, [5])[0], together[0])
    assert torch.equal(decode(packed, [5], empty=7)[0], together[0])


def test_a_copy_of_a_tower_keeps_stepping_when_the_first_is_gone():
    pack(packed := tower(), "bf16")
    expected = decode(packed, [5])
    other = copy.deepcopy(packed)
    for layer_ in packed.modules():
        if isinstance(layer_, PackedLinear):
            layer_.packed.zero_()
    assert torch.equal(decode(other, [5]), expected)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_cache_grows_with_its_song(precision):
    packed = copy.deepcopy(plain := tower())
    pack(packed, precision)
    mask = torch.ones(2, 3, dtype=torch.bool)
    _, cache = packed.start(torch.zeros(2, 3, 48), mask, 200)
    begun = copy.deepcopy(cache)
    assert cache.nbytes < packed.start(torch.zeros(2, 150, 48), mask.repeat(1, 50), 200)[1].nbytes / 2
    x = torch.randn(200, 2, 48)
    ours, again = (torch.stack([packed.step(row, [one]) for row in x]) for one in (cache, begun))
    _, other = plain.start(torch.zeros(2, 3, 48), mask, 200)
    assert error(ours, torch.stack([plain.step(row, [other]) for row in x])) < 2 * CLOSE[precision]
    assert torch.equal(ours, again)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_positions_before_the_prefix_are_not_attended(precision):
    pack(packed := tower(), precision)
    x, mask = torch.randn(2, 8, 48), torch.ones(2, 8, dtype=torch.bool)
    mask[:, :3] = False
    step = torch.randn(2, 48)
    _, padded = packed.start(x, mask, 1)
    _, bare = packed.start(x[:, 3:], mask[:, 3:], 1)
    torch.testing.assert_close(packed.step(step, [padded]), packed.step(step, [bare]), rtol=0, atol=1e-4)


def test_keys_and_values_of_int8_take_a_quarter_of_those_of_fp32():
    sizes = {}
    for precision in ("fp32", "int8"):
        pack(packed := tower(), precision)
        _, cache = packed.start(torch.randn(2, 8, 48), torch.ones(2, 8, dtype=torch.bool), 4)
        sizes[precision] = cache.nbytes
    assert sizes["int8"] * 4 == sizes["fp32"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steps_of_tensors_that_stay_are_the_same(device):
    """With prefixes that end on both sides of where a captured step is made anew."""
    model = tower().to(device)
    expected = decode(model, [5, 250, 300], 12, empty=1)
    model.static = True
    torch.testing.assert_close(decode(model, [5, 250, 300], 12, empty=1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_a_full_cache_is_an_error(packed):
    model = tower()
    if packed:
        pack(model, "bf16")
    _, cache = model.start(torch.randn(2, 3, 48), torch.ones(2, 3, dtype=torch.bool), 1)
    model.step(torch.randn(2, 48), [cache])
    with pytest.raises(IndexError, match="full after 4 positions"):
        model.step(torch.randn(2, 48), [cache])


# --- the library -----------------------------------------------------------------------------------------------


@pytest.fixture
def _fresh():
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_that_fails_is_told_once_and_decoding_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.warns(UserWarning, match="without its native kernels.*false could not compile"):
        assert library() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed, x = PackedLinear(layer(), "bf16"), torch.randn(2, 36)
        assert packed.way in ("onednn", "plain")
        assert error(packed(x), layer()(x)) < CLOSE["bf16"]


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_without_openmp_makes_kernels_of_one_thread_and_that_is_told(monkeypatch, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to take OpenMP away from")
    (tmp_path / "plain").write_text(
        f'#!/bin/sh\nfor word; do [ "$word" = -fopenmp ] && exit 1; done\nexec {compiler} "$@"\n'
    )
    (tmp_path / "plain").chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "plain"))
    with pytest.warns(UserWarning, match="use one thread: OpenMP could not be linked"):
        assert library() is not None
    packed, x = PackedLinear(layer(), "bf16", "native"), torch.randn(2, 36)
    assert error(packed(x), layer()(x)) < CLOSE["bf16"]


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_that_never_ends_is_given_up_and_told(monkeypatch, tmp_path):
    (tmp_path / "slow").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "slow"))
    monkeypatch.setattr(native, "_SECONDS", 0.2)
    with pytest.warns(UserWarning, match=r"without its native kernels.*did not compile .* within 0\.2 s"):
        assert library() is None


@pytest.mark.usefixtures("_fresh")
def test_the_library_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("SONGKIT_NATIVE", "0")
    assert library() is None
    assert PackedLinear(layer(), "bf16").way != "native"


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "step.cpp").write_text('extern "C" int one() { return 1; }')
    monkeypatch.setattr(native, "_FOLDER", tmp_path / "cpp")
    first = native.compile_library()
    made = first.stat().st_mtime_ns
    assert native.compile_library() == first
    assert first.stat().st_mtime_ns == made
    assert list(first.parent.iterdir()) == [first]


def test_the_library_computes_the_same_without_special_instructions(monkeypatch, tmp_path):
    """Built for a processor without bfloat16 and dot products of bytes, as most laptops are."""
    x, packed = torch.randn(3, 36), [PackedLinear(layer(), precision, "native") for precision in CLOSE]
    expected, towers = [one(x) for one in packed], [tower() for _ in CLOSE]
    for one, precision in zip(towers, CLOSE, strict=True):
        pack(one, precision)
    states = [decode(one, [5, 9]) for one in towers]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_FLAGS", ("-O1", "-Wno-psabi", *native._FLAGS[2:]))
    library.cache_clear()
    try:
        for one, way in zip(packed, expected, strict=True):
            torch.testing.assert_close(one(x), way, rtol=0, atol=2e-6)
        for one, way in zip(towers, states, strict=True):
            assert error(decode(one, [5, 9]), way) < 3e-3  # sums in another order, then rounded to 8 bits
    finally:
        library.cache_clear()


# --- the setting -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_model_is_packed_in_the_precision_that_is_asked_for(registry, precision):
    recipe = load("mini/song", registry=registry)
    model = SongModel.load(recipe, precision=precision)
    for part in (model.planner, model.refiner):
        kinds = {module.precision for module in part.modules() if isinstance(module, PackedLinear)}
        assert kinds == {precision}
    assert not any(isinstance(module, PackedLinear) for module in model.codec.modules())
    assert recipe.generate.precision == "fp32"


def test_an_unknown_precision_is_told():
    assert GenerateSettings(precision="fp8").validate() == ["precision is 'fp8'; expected fp32, bf16 or int8"]


@pytest.mark.parametrize("way", WAYS)
def test_a_tower_in_bf16_steps_as_well(way):
    """As large models are loaded: without a float32 copy; and torch warns of no mixed types."""
    plain = tower()
    pack(half := copy.deepcopy(plain).bfloat16(), "bf16", way)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states = decode(half, [5, 9])
    assert error(states, decode(plain, [5, 9])) < 3 * CLOSE["bf16"]


def test_what_song_json_records_is_the_precision_that_was_loaded(registry, tmp_path):
    model = SongModel.load(load("mini/song", registry=registry), precision="bf16")
    request = SongRequest(id="song", sections=(Section("verse", ("la",)),))
    settings = GenerateSettings(precision="int8", max_seconds=0.2)
    [(folder, _)] = generate(model, [request], out=tmp_path, settings=settings)
    record = json.loads((folder / "song.json").read_text())
    assert record["sampling"]["precision"] == "bf16"
    assert "--precision bf16" in record["command"]
    assert model.settings().precision == "bf16"
