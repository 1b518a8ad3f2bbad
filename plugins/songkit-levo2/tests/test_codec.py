"""Laws of the music codec on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from songkit.errors import LayoutError
from songkit.types import TRACKS, Alignment, Audio, Codes, Note, Span
from songkit_levo2.codec import MusicCodec, build
from songkit_levo2.configs import MusicCodecConfig
from songkit_levo2.layers import LogPitch
from songkit_levo2.plugin import songkit_components
from songkit_levo2.semantic import Quantizer
from songkit_levo2.tasks import PITCH_OFFSET, frame_labels
from songkit_levo2.vae import SpectralLoss

RATE, FRAME = 24000, 960


@pytest.fixture(scope="module")
def codec() -> MusicCodec:
    torch.manual_seed(0)
    config = next(c.example for c in songkit_components() if c.name == "music-codec")
    return build(config).eval()


def noise(samples: list[int], tracks: tuple[str, ...] = TRACKS) -> Audio:
    generator = torch.Generator().manual_seed(0)
    longest = max(samples)
    waves = {}
    for track in tracks:
        wave = 0.1 * torch.randn(len(samples), 1, longest, generator=generator)
        for b, n in enumerate(samples):
            wave[b, :, n:] = 0
        waves[track] = wave
    return Audio(waves, torch.tensor(samples), RATE)


def test_the_layout_is_true(codec: MusicCodec) -> None:
    codes = codec.encode(noise([24000, 12345]))
    assert codes.layout == codec.layout
    assert codes.layout.frame_rate == 25.0
    assert codes.lengths.tolist() == [25, 13]  # ceil(12345 / 960)
    assert int(codes.ids.max()) < codec.layout.streams[0].size
    decoded = codec.decode(codes)
    assert set(decoded.tracks) == {"vocal", "accompaniment"}
    assert decoded.tracks["vocal"].shape == (2, 1, 25 * FRAME)
    assert decoded.lengths.tolist() == [25 * FRAME, 13 * FRAME]
    assert bool((decoded.tracks["vocal"][1, 0, 13 * FRAME :] == 0).all())


def test_company_and_padding_change_neither_ids_nor_samples(codec: MusicCodec) -> None:
    audio = noise([24000, 12345])
    together = codec.encode(audio)
    alone = codec.encode(Audio({k: v[1:, :, :12345] for k, v in audio.tracks.items()}, audio.lengths[1:], RATE))
    assert torch.equal(alone.ids[0], together.ids[1, :, :13])
    both = codec.decode(together, seeds=[4, 5])
    one = codec.decode(alone, seeds=[5])
    assert torch.equal(one.tracks["vocal"][0], both.tracks["vocal"][1, :, : 13 * FRAME])


def test_the_seed_decides_the_samples(codec: MusicCodec) -> None:
    codes = codec.encode(noise([9600], ("vocal",)))
    first, again, other = (codec.decode(codes, seeds=[s]).tracks["vocal"] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_mixed_stream_is_decoded_when_it_is_alone(codec: MusicCodec) -> None:
    codes = codec.encode(noise([9600]))
    assert set(codec.decode(codes.select(["mix"])).tracks) == {"mix"}


def test_windows_do_not_leave_gaps(codec: MusicCodec) -> None:
    codes = codec.encode(noise([30 * RATE], ("vocal",)))
    latents = codec.latents(codes.ids[:, 0], "vocal", 0)
    assert latents.shape == (1, 750, codec.vae.latent)
    assert bool(torch.isfinite(latents).all())
    assert float(latents.std(1).min()) > 0


def test_a_stream_in_chunks_has_the_samples_of_the_whole(codec: MusicCodec) -> None:
    ids = torch.randint(32, (1, 600), generator=torch.Generator().manual_seed(0))  # windows of 500 frames
    pieces = list(codec.stream_track([ids], "vocal", 1, chunk=50))
    [whole] = codec.stream_track([ids], "vocal", 1)
    assert [piece.shape[2] for piece in pieces] == [50 * FRAME] * 12
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-4 * float(whole.abs().max()))


def test_a_song_that_arrives_in_parts_has_the_samples_of_the_whole(codec: MusicCodec) -> None:
    ids = torch.randint(32, (1, 2, 560), generator=torch.Generator().manual_seed(0))  # a window, and a bit
    layout = codec.layout.select(["vocal", "accompaniment"])
    arriving = (Codes(part, torch.tensor([part.shape[2]]), layout) for part in ids.split(7, 2))
    pieces = list(codec.stream(arriving, layout=layout, seed=1))
    assert len(pieces) > 10
    whole = codec.decode(Codes(ids, torch.tensor([560]), layout), seeds=[1])
    for track, wave in whole.tracks.items():
        streamed = torch.cat([piece[track] for piece in pieces], 2)
        torch.testing.assert_close(streamed, wave, rtol=0, atol=1e-4 * float(wave.abs().max()))


@pytest.mark.parametrize("seconds", [0.01, 0.5, 5.0])
def test_a_prompt_of_any_length_is_no_part_of_the_song(codec: MusicCodec, seconds: float) -> None:
    prompt = noise([round(seconds * RATE)], ("vocal",))
    layout = codec.layout.select(["vocal"])
    codes = Codes(torch.zeros(1, 1, 20, dtype=torch.int64), torch.tensor([20]), layout)
    made = torch.cat([pieces["vocal"] for pieces in codec.stream([codes], layout=layout, seed=1, prompt=prompt)], 2)
    assert made.shape == (1, 1, 20 * FRAME)
    without = codec.decode(codes, seeds=[1]).tracks["vocal"]
    assert torch.allclose(made, without, atol=1e-6) == (seconds < 0.04)  # less than a frame tells nothing


def test_a_light_codec_decodes_nearly_the_same(codec: MusicCodec) -> None:
    ids = torch.randint(32, (1, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = codec.latents(ids, "vocal", 1)
        codec.lighten()
        light = codec.latents(ids, "vocal", 1)
    codec.diffusion.light = False
    assert not torch.equal(light, exact)
    assert light.dtype == torch.float32
    error = (light - exact).square().mean() / exact.square().mean()
    assert 10 * float(error.log10()) < -35  # dB


def test_a_decoded_sample_depends_on_the_latents_within_reach_only(codec: MusicCodec) -> None:
    middle, reach = 30, codec.vae.reach
    latents = torch.randn(1, 2 * middle + 1, codec.vae.latent, generator=torch.Generator().manual_seed(0))
    latents.requires_grad_()
    samples = codec.vae.decode(latents)[0, 0, middle * FRAME : (middle + 1) * FRAME]
    [gradient] = torch.autograd.grad(samples.square().sum(), latents)
    heard = gradient[0].abs().sum(-1).nonzero()[:, 0]
    assert middle - reach <= int(heard.min())
    assert int(heard.max()) <= middle + reach


def test_silence_is_finite(codec: MusicCodec) -> None:
    silent = Audio({t: torch.zeros(1, 1, 4800) for t in TRACKS}, torch.tensor([4800]), RATE)
    decoded = codec.decode(codec.encode(silent))
    assert all(bool(torch.isfinite(wave).all()) for wave in decoded.tracks.values())


def test_wrong_audio_is_refused(codec: MusicCodec) -> None:
    with pytest.raises(LayoutError, match="48000"):
        codec.encode(Audio({"vocal": torch.zeros(1, 1, 4800)}, torch.tensor([4800]), 48000))
    with pytest.raises(LayoutError, match="drums"):
        codec.encode(Audio({"drums": torch.zeros(1, 1, 4800)}, torch.tensor([4800]), RATE))


def test_the_inverse_stft_returns_what_the_analysis_saw(codec: MusicCodec) -> None:
    """The decoder's overlap-add has unit gain: a constant-magnitude, zero-phase spectrum gives impulses of its sum."""
    decoder = codec.vae.decoder
    frames = torch.zeros(1, 8, decoder.n_fft)
    frames[:, :, :] = 1.0
    blocks = (frames * decoder.window).unflatten(-1, (decoder.n_fft // decoder.hop, decoder.hop))
    overlap = decoder.n_fft // decoder.hop
    total = sum(torch.nn.functional.pad(blocks[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap))
    inside = total.flatten(1)[:, decoder.n_fft : -decoder.n_fft] * (2.0 / overlap)
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_spectral_distance_is_zero_for_equals_and_grows_with_noise() -> None:
    loss = SpectralLoss(RATE)
    wave = 0.1 * torch.randn(1, 9600, generator=torch.Generator().manual_seed(0))
    distance = lambda other: float(loss(wave, other, torch.Generator().manual_seed(3)))  # noqa: E731  # three calls
    assert distance(wave) == 0
    assert 0 < distance(wave * 0.9) < distance(wave * 0.5)


def test_a_quantizer_learns_clusters_and_gradients_pass_through() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(8, 4, 3)
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(4, 8, generator=generator)
    for _ in range(600):  # an unused code is moved after some 300 steps
        features = centres[torch.randint(4, (2, 32), generator=generator)]
        features = (features + 0.05 * torch.randn(2, 32, 8, generator=generator)).requires_grad_()
        out = quantizer(features, generator)
    assert float(out.commitment.detach()) < 0.05
    assert len(out.ids.unique()) == 4
    out.features.sum().backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0


def test_the_warm_up_passes_noise_and_then_quantizes() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(8, size=16, dim=4, warmup=2, noise=0.5).train()
    x = torch.randn(2, 10, 8, generator=generator)
    first, second, third = (quantizer(x, generator) for _ in range(3))
    assert not torch.equal(first.features, second.features)  # the noise is drawn anew
    assert first.commitment == 0
    assert third.commitment > 0
    found = quantizer.codes[third.ids.flatten()]
    assert torch.allclose(found.norm(dim=-1), torch.ones(20)), "codes are on the unit sphere"


@pytest.mark.parametrize("pitch", [45, 60, 72, 90])
def test_a_tone_is_strongest_in_its_own_semitone_however_loud(pitch: int) -> None:
    bands = LogPitch(RATE, 4096, FRAME, low=33, high=96)
    seconds = torch.arange(RATE, dtype=torch.float64) / RATE
    tone = (0.5 * torch.sin(2 * torch.pi * 440 * 2 ** ((pitch - 69) / 12) * seconds)).float()[None]
    loud, faint = bands(tone)[0, 5:-5], bands(0.5 * tone)[0, 5:-5]
    assert (loud.argmax(-1) == pitch - 33).all()
    assert (faint.argmax(-1) == pitch - 33).all()
    assert loud.mean().abs() < 1e-5
    assert faint.mean().abs() < 1e-5


def test_frame_labels_say_what_sounds_when() -> None:
    truth = Alignment(
        phones=(Span("s", 0.0, 0.1), Span("ɪ", 0.1, 0.4)),
        notes=(Note(60, 0.0, 0.5),),
        chords=(Span("C:maj", 0.0, 0.2), Span("A:min7", 0.2, 0.4), Span("N", 0.4, 1.0)),
    )
    labels = frame_labels(truth, 50, 50.0)
    assert len(set(labels["phone"][:5])) == 1
    assert labels["phone"][5] != labels["phone"][4]
    assert np.flatnonzero(labels["pitch"]).tolist() == list(range(20))  # a rest within a note is a rest
    assert labels["pitch"][0] == 60 - PITCH_OFFSET
    assert labels["chord"][[0, 12, 25]].tolist() == [1, 22, 0]


def test_the_miniature_keeps_the_names_and_shapes_of_its_weights() -> None:
    """The file was read from the weights of the first trainings; later code has to load them."""
    kept = json.loads((Path(__file__).parent / "data" / "miniature.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        codec = build(MusicCodecConfig())
    assert {name: list(tensor.shape) for name, tensor in codec.state_dict().items()} == kept


def test_the_miniature_keeps_its_numbers(codec: MusicCodec) -> None:
    """They are what the codec's first version decoded of the same random weights, ids and seed."""
    ids = torch.arange(25)[None] % 32
    with torch.no_grad():
        latents = codec.latents(ids, "vocal", 3)
        wave = torch.cat(list(codec.stream_track([ids], "vocal", 3)), 2)
    assert float(latents.abs().mean()) == pytest.approx(0.98623395, rel=1e-5)
    assert float(wave.abs().mean()) == pytest.approx(0.00080142054, rel=1e-5)
