"""The codec gives the ids and samples of the package's own model, whole bit for bit and in parts without seams."""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from songkit.errors import CheckpointError
from songkit.published import load_published
from songkit.types import Audio
from songkit_dac.codec import DescriptCodec, dac, extent
from songkit_dac.configs import Dac16Config, Dac24Config, Dac44Config

CONFIGS = [Dac16Config, Dac24Config, Dac44Config]
TINY: dict[str, Any] = {"encoder_dim": 2, "latent_dim": 8, "decoder_dim": 32}


def noise(samples: int, seed: int = 0) -> Tensor:
    """Noise [1, 1, T] that swells and fades, as music does."""
    generator = torch.Generator().manual_seed(seed)
    return (0.01 + 0.2 * torch.sin(torch.linspace(0, 9, samples)) ** 2) * torch.randn(
        1, 1, samples, generator=generator
    )


def varied(codec: DescriptCodec) -> DescriptCodec:
    """Raises the gain of the random encoder, so that ids depend on the audio."""
    with torch.no_grad():
        for name, parameter in codec.model.encoder.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(3)
    return codec


def audio_of(wave: Tensor, codec: DescriptCodec) -> Audio:
    return Audio({"mix": wave}, torch.tensor([wave.shape[-1]]), codec.sample_rate)


def package(config: Dac44Config) -> Any:
    """The package's own model, as its users make it."""
    names = ("encoder_rates", "decoder_rates", "n_codebooks", "sample_rate")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        model = dac.DAC(**TINY, **{name: getattr(config, name) for name in names}).eval()
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(3)
    return model


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_whole_songs_are_the_package_bit_for_bit(config: type[Dac44Config], levels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    chosen = config(levels=levels, **TINY)
    model = package(chosen)
    model.save(tmp_path / "weights.pth", package=False)
    codec = DescriptCodec(chosen)
    load_published(tmp_path / "weights.pth", codec)
    wave = noise(30001)  # no multiple of the hop
    codes = codec.encode(audio_of(wave, codec))
    with torch.no_grad():
        _, expected, *_ = model.encode(model.preprocess(wave, chosen.sample_rate), levels or None)
        samples = model.decode(model.quantizer.from_codes(expected)[0])
    assert codes.ids.shape == (1, levels or chosen.n_codebooks, math.ceil(30001 / model.hop_length))
    assert torch.equal(codes.ids, expected)
    assert len(codes.ids.unique()) > 30
    made = codec.decode(codes)
    assert torch.equal(made.tracks["mix"], samples)
    assert made.lengths.tolist() == [samples.shape[2]]


def test_the_published_size_is_the_packages_default() -> None:
    defaults = {name: p.default for name, p in inspect.signature(dac.DAC).parameters.items()}
    config = Dac44Config()
    assert defaults.pop("latent_dim") is None  # the width of the encoder's end
    assert config.latent_dim == config.encoder_dim * 2 ** len(config.encoder_rates)
    assert not defaults.pop("quantizer_dropout")
    assert {name: getattr(config, name) for name in defaults} == defaults


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
@pytest.mark.parametrize("seconds", [2.0, 2.999, 3.3])
def test_parts_are_the_whole(config: type[Dac44Config], seconds: float) -> None:
    torch.manual_seed(0)
    whole = varied(DescriptCodec(config(chunk_seconds=0.0, n_codebooks=4, **TINY)))
    parts = DescriptCodec(config(chunk_seconds=1.0, n_codebooks=4, **TINY))
    parts.load_state_dict(whole.state_dict())
    audio = audio_of(noise(round(seconds * whole.sample_rate) + 7), whole)
    codes = whole.encode(audio)
    assert torch.equal(parts.encode(audio).ids, codes.ids)
    assert len(codes.ids.unique()) > 100
    expected = whole.decode(codes).tracks["mix"]
    torch.testing.assert_close(parts.decode(codes).tracks["mix"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_a_part_reaches_exactly_as_far_as_the_network_sees(config: type[Dac44Config]) -> None:
    """What gradients say about both networks in the middle of a long signal."""
    torch.manual_seed(0)
    codec = varied(DescriptCodec(config(**TINY)))
    hop = math.prod(config().encoder_rates)
    assert (codec.encoder_reach, codec.decoder_reach) == (8, 10)
    wave = noise(41 * hop).requires_grad_()
    codec.model.encoder(wave)[0, :, 20].sum().backward()
    seen = wave.grad[0, 0].nonzero()[:, 0]
    first, last = extent(codec.model.encoder, 20, 20)
    assert (int(seen.min()), int(seen.max())) == (first, last)
    latents = torch.randn(1, 8, 41).requires_grad_()
    codec.model.decoder(latents)[0, 0, 20 * hop : 21 * hop].sum().backward()
    seen = latents.grad[0].abs().sum(0).nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == extent(codec.model.decoder, 20 * hop, 21 * hop - 1)


def test_a_published_file_says_what_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "weights_24khz.pth"
    package(Dac24Config(n_codebooks=3)).save(path, metadata={"logs": {"loss": [1.0, 0.5]}}, package=False)
    load_published(path, DescriptCodec(Dac24Config(n_codebooks=3, **TINY)))
    codec = DescriptCodec(Dac44Config(**TINY))
    with pytest.raises(CheckpointError, match=r"sample_rate is 24000 in the file, 44100 here.*n_codebooks is 3"):
        load_published(path, codec)
    torch.save({"encoder.block.0.bias": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="expected the mapping of `state_dict` and `metadata`"):
        load_published(path, codec)


def test_numbers_below_the_normal_are_as_before_afterwards() -> None:
    codec = DescriptCodec(Dac44Config(n_codebooks=2, **TINY))
    tiny = torch.tensor(1e-40)
    assert float(tiny * 1.0) > 0
    codec.decode(codec.encode(audio_of(noise(2000), codec)))
    assert float(tiny * 1.0) > 0


def test_training_mode_does_not_drop_levels() -> None:
    torch.manual_seed(0)
    codec = varied(DescriptCodec(Dac44Config(levels=2, **TINY)))
    audio = audio_of(noise(3000), codec)
    before = codec.encode(audio).ids
    assert torch.equal(codec.train().encode(audio).ids, before)


def test_stereo_is_averaged_and_stems_are_tracks_of_levels() -> None:
    torch.manual_seed(0)
    config = Dac44Config(levels=2, tracks=["vocal", "accompaniment"], **TINY)
    codec = varied(DescriptCodec(config))
    assert [(stream.track, stream.level) for stream in codec.layout.streams] == [
        ("vocal", 0),
        ("vocal", 1),
        ("accompaniment", 0),
        ("accompaniment", 1),
    ]
    vocal, band = noise(3000, 1), noise(3000, 2)
    codes = codec.encode(Audio({"vocal": vocal.expand(1, 2, -1), "accompaniment": band}, torch.tensor([3000]), 44100))
    alone = DescriptCodec(dataclasses.replace(config, tracks=["mix"]))
    alone.load_state_dict(codec.state_dict())
    assert torch.equal(codes.select(["vocal"]).ids, alone.encode(audio_of(vocal, alone)).ids)
    assert torch.equal(codes.select(["accompaniment"]).ids, alone.encode(audio_of(band, alone)).ids)
    made = codec.decode(codes)
    assert torch.equal(made.tracks["vocal"], alone.decode(alone.encode(audio_of(vocal, alone))).tracks["mix"])


def test_impossible_options_are_refused() -> None:
    problems = Dac44Config(levels=10, tracks=["mix", "mix"], chunk_seconds=0.5, decoder_rates=[8, 8, 4]).validate()
    assert len(problems) == 4
    assert problems[0] == "levels is 10; the model has 9"
