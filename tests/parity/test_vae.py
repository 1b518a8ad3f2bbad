"""The VAE gives the numbers of the released implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from levo2_golden import Golden, distance

from songkit_levo2.codec_configs import OobleckConfig
from songkit_levo2.oobleck import OobleckVAE
from songkit_levo2.released_codec import VAE, makers, renamed

GOLDEN = ("vae", "strides")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> Golden:
    return Golden.read(golden_folder)


@pytest.fixture(scope="module")
def vae(golden: Golden) -> OobleckVAE:
    """The released layout at the golden sizes, filled through the importer."""
    sizes = golden.config
    vae = OobleckVAE(
        OobleckConfig(
            sample_rate=sizes["sample_rate"],
            channels=sizes["channels"],
            multiples=sizes["c_mults"],
            strides=sizes["strides"],
            latent=sizes["latent_dim"],
        )
    )
    weights = golden.codec_weights()
    used, _ = renamed(VAE, weights, ())
    state = {name.removeprefix("vae."): make() for name, make in makers(VAE, weights, used).items()}
    missing, unexpected = vae.load_state_dict(state, strict=False)
    assert sorted(missing) == ["mean", "std"]  # these lie in the dual-track model's file
    assert unexpected == []
    return vae.eval()


def test_audio_becomes_the_same_posterior(vae: OobleckVAE, golden: Golden) -> None:
    with torch.no_grad():
        mean, log_variance = vae.posterior(golden.numbers["audio"])
    assert distance(mean.transpose(1, 2), golden.numbers["mean"]) < 1e-3
    assert distance((0.5 * log_variance).exp().transpose(1, 2), golden.numbers["std"]) < 1e-3


def test_latents_become_the_same_audio(vae: OobleckVAE, golden: Golden) -> None:
    with torch.no_grad():
        wave = vae.decode(golden.numbers["latents"].transpose(1, 2))
    assert distance(wave, golden.numbers["decoded"]) < 1e-3
