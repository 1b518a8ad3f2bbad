"""The codec's encoder, quantizers and flow transformer give the numbers of the released implementation."""

from __future__ import annotations

from collections import ChainMap
from pathlib import Path

import pytest
import torch
from levo2_golden import Golden, distance
from torch import Tensor

from songkit_levo2.codec import MusicCodec, build_dual_track
from songkit_levo2.codec_configs import ConformerConfig, DualTrackCodecConfig, DualTrackFlowConfig, OobleckConfig
from songkit_levo2.released_codec import DUAL_TRACK, makers, renamed

GOLDEN = ("codec_dual", "encoder_depth")
TRACKS = ("vocal", "accompaniment")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> Golden:
    return Golden.read(golden_folder)


@pytest.fixture(scope="module")
def codec(golden: Golden) -> MusicCodec:
    """The released layout at the golden sizes, filled through the importer."""
    sizes = golden.config
    taps = {"vocal": sizes["vocal_layer"], "accompaniment": sizes["accompaniment_layer"]}
    config = DualTrackCodecConfig(
        vae=OobleckConfig(channels=2),
        semantic=ConformerConfig(
            layers=max(taps.values()),
            taps=taps,
        ),
        diffusion=DualTrackFlowConfig(layers=sizes["dit_layers"], steps=sizes["steps"], guidance=sizes["guidance"]),
    )
    with torch.device("meta"):
        codec = build_dual_track(config)
    weights = ChainMap(_running_sums(golden.numbers), golden.codec_weights())  # type: ignore[arg-type]
    used, _ = renamed(DUAL_TRACK, weights, codec.state_dict())
    state = {name: make() for name, make in makers(DUAL_TRACK, weights, used).items()}
    missing, unexpected = codec.load_state_dict(state, strict=False, assign=True)
    assert unexpected == []
    elsewhere = ("vae.encoder.", "vae.decoder.")  # in the VAE's file
    counters = (".usage", ".seen")  # of training
    assert [name for name in missing if not name.startswith(elsewhere) and not name.endswith(counters)] == []
    return codec.eval()


def test_derived_filters_are_the_released_ones(codec: MusicCodec, golden: Golden) -> None:
    torch.testing.assert_close(
        codec.semantic.spectra.filters, golden.numbers["buffers/mel_filterbank"], atol=1e-4, rtol=0
    )
    kernel = golden.numbers["buffers/resample_48k_to_24k"][0, 0]
    torch.testing.assert_close(codec.semantic.halve.kernel, kernel, atol=1e-6, rtol=0)


@pytest.mark.parametrize("track", TRACKS)
def test_audio_becomes_the_same_ids(codec: MusicCodec, golden: Golden, track: str) -> None:
    with torch.no_grad():
        ids = codec.semantic.ids(golden.numbers[f"audio_{track}"].mean(1), track)
    assert torch.equal(ids, golden.numbers[f"codes_{track}"][:, 0])


@pytest.mark.parametrize("track", TRACKS)
def test_audio_becomes_the_same_features(codec: MusicCodec, golden: Golden, track: str) -> None:
    with torch.no_grad():
        features = codec.semantic.encode(golden.numbers[f"audio_{track}"].mean(1), track)
    assert distance(features.transpose(1, 2), golden.numbers[f"emb_{track}"]) < 1e-3


def test_ids_become_the_same_latents_with_and_without_context(codec: MusicCodec, golden: Golden) -> None:
    numbers, given = golden.numbers, golden.config["in_context_frames"]
    noise = torch.cat([numbers["noise/0"], numbers["noise_no_context/0"]])
    flag = torch.zeros(*noise.shape[:2], 1)
    flag[0, :given] = 1.0
    with torch.no_grad():
        features = {track: codec.semantic.features_of(numbers[f"codes_{track}"][:, 0], track) for track in TRACKS}
        condition = codec.diffusion.condition(features, "mix").expand(2, -1, -1)
        truth = codec.vae.standardise(numbers["latents_in"]) * flag
        latents = codec.vae.restore(codec.diffusion.sample(condition, truth, flag, noise))
    assert distance(latents[:1].transpose(1, 2), numbers["latents_out"]) < 1e-3
    assert distance(latents[1:].transpose(1, 2), numbers["latents_no_context"]) < 1e-3
    torch.testing.assert_close(latents[:1, :given], numbers["latents_in"][:, :given])


def _running_sums(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sums that give the golden mean and standard deviation, by their released names."""
    count, mean, std = numbers["normfeat_counts"], numbers["latent_mean"], numbers["latent_std"]
    sums = {"counts": count, "sum_x": mean * count, "sum_x2": (std.square() + mean.square()) * count}
    return {f"normfeat.{name}": total for name, total in sums.items()}
