"""The codecs give the ids and samples of the package's own models, whole bit for bit and in parts without seams."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from songkit.errors import CheckpointError, LayoutError
from songkit.published import load_published
from songkit.types import Audio, Codes
from songkit_encodec.causal import CausalEncodec
from songkit_encodec.configs import Encodec24Config, Encodec48Config
from songkit_encodec.model import encodec
from songkit_encodec.segments import SegmentedEncodec, loudness_id, loudness_of

TINY: dict[str, Any] = {"filters": 2, "dimension": 8}


def noise(samples: int, channels: int, seed: int = 0) -> Tensor:
    """Noise [1, C, T] that swells and fades, as music does."""
    generator = torch.Generator().manual_seed(seed)
    swell = 0.01 + 0.2 * torch.sin(torch.linspace(0, 9, samples)) ** 2
    return swell * torch.randn(1, channels, samples, generator=generator)


def varied(model: encodec.EncodecModel) -> encodec.EncodecModel:
    """Gives a random model gains and codes such that noise is coded with many ids, as a trained one does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("weight_g", "conv.weight", "convtr.weight")):
                parameter.mul_(2)
        residual = model.encoder(noise(60 * 320, model.channels, seed=2))[0].T
        for layer in model.quantizer.vq.layers:
            codes = residual.mean(0) + residual.std(0) * torch.randn(1024, residual.shape[1], generator=generator)
            layer._codebook.embed.copy_(codes)
            residual = residual - layer.decode(layer.encode(residual.T[None]))[0].T
    return model


def audio_of(wave: Tensor, rate: int, track: str = "mix") -> Audio:
    return Audio({track: wave}, torch.tensor([wave.shape[-1]]), rate)


def tiny_24(**options: Any) -> CausalEncodec:
    torch.manual_seed(0)
    codec = CausalEncodec(Encodec24Config(**{"bandwidth": 6.0, **TINY, **options}))
    varied(codec.model)
    return codec


@pytest.fixture(scope="module")
def package_24(tmp_path_factory: pytest.TempPathFactory) -> tuple[encodec.EncodecModel, Path]:
    """The package's own 24 kHz model as its users make it, in its full size, and a file as it publishes them."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        model = varied(encodec.EncodecModel.encodec_model_24khz(pretrained=False))
    path = tmp_path_factory.mktemp("published") / "encodec_24khz.th"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.fixture(scope="module")
def tiny_48() -> SegmentedEncodec:
    torch.manual_seed(0)
    codec = SegmentedEncodec(Encodec48Config(bandwidth=24.0, **TINY))
    varied(codec.model)
    return codec


@pytest.mark.parametrize(("bandwidth", "levels"), [(1.5, 2), (3.0, 4), (6.0, 8), (12.0, 16), (24.0, 32)])
def test_24_khz_is_the_package_bit_for_bit(
    package_24: tuple[encodec.EncodecModel, Path], bandwidth: float, levels: int
) -> None:
    package, path = package_24
    codec = CausalEncodec(Encodec24Config(bandwidth=bandwidth))
    load_published(path, codec)
    package.set_target_bandwidth(bandwidth)
    wave = noise(5000, 1)  # no multiple of the hop
    codes = codec.encode(audio_of(wave, 24000))
    with torch.no_grad():
        [(expected, _)] = package.encode(wave)
        samples = package.decode([(expected, None)])
    assert codes.ids.shape == (1, levels, math.ceil(5000 / 320))
    assert torch.equal(codes.ids, expected)
    assert len(codes.ids.unique()) > 20
    assert torch.equal(codec.decode(codes).tracks["mix"], samples)


@pytest.mark.parametrize("samples", [24000 * 3, 24000 * 4 + 1, 24000 * 5 - 1, 24000 * 2 + 319, 24000 * 2 + 160])
def test_24_khz_in_parts_is_the_whole(samples: int) -> None:
    whole, parts = tiny_24(chunk_seconds=0.0), tiny_24(chunk_seconds=1.0)
    audio = audio_of(noise(samples, 1), 24000)
    codes = whole.encode(audio)
    assert torch.equal(parts.encode(audio).ids, codes.ids)
    assert len(codes.ids.unique()) > 100
    expected = whole.decode(codes).tracks["mix"]
    torch.testing.assert_close(parts.decode(codes).tracks["mix"], expected, rtol=0, atol=1e-5)


def test_24_khz_without_its_past_would_be_another() -> None:
    """The test above can fail: seconds that are coded by themselves differ where they meet, in ids and in samples."""
    codec = tiny_24()
    wave = noise(48000, 1)
    codes = codec.encode(audio_of(wave, 24000))
    alone = [codec.encode(audio_of(second, 24000)) for second in wave.split(24000, 2)]
    assert not torch.equal(torch.cat([part.ids for part in alone], 2), codes.ids)
    with torch.no_grad():
        halves = [codec.decode_track(half) for half in codes.ids[0].split(75, 1)]
        assert float((torch.cat(halves, 1) - codec.decode_track(codes.ids[0])).abs().max()) > 1e-3


def padded(wave: Tensor) -> Tensor:
    """Continues samples by silence up to where their last frame's segment ends."""
    frames = math.ceil(wave.shape[-1] * 150 / 47520)
    segments = -(-frames // 150)
    return functional.pad(wave, (0, (segments - 1) * 47520 + (frames - (segments - 1) * 150) * 320 - wave.shape[-1]))


@pytest.mark.parametrize(("bandwidth", "levels"), [(3.0, 2), (6.0, 4), (12.0, 8), (24.0, 16)])
@pytest.mark.parametrize("samples", [20000, 47520, 120000])
def test_48_khz_is_the_package_bit_for_bit(
    tiny_48: SegmentedEncodec, bandwidth: float, levels: int, samples: int
) -> None:
    codec = SegmentedEncodec(Encodec48Config(bandwidth=bandwidth, **TINY))
    codec.load_state_dict(tiny_48.state_dict())
    package = codec.model
    wave = noise(samples, 2)
    codes = codec.encode(audio_of(wave, 48000))
    with torch.no_grad():
        segments = package.encode(padded(wave))[: -(-codes.ids.shape[2] // 150)]
        # The package keeps each segment's loudness as a float, the codec as the nearest of 1024.
        rounded = [(ids, torch.tensor([[loudness_of(loudness_id(float(scale)))]])) for ids, scale in segments]
        expected = package.decode(rounded)
    assert codes.ids.shape == (1, levels + 1, math.ceil(samples * codec.layout.frame_rate / 48000))
    assert torch.equal(codes.ids[:, :-1], torch.cat([ids for ids, _ in segments], 2))
    assert len(codes.ids[:, :-1].unique()) > 100
    made = codec.decode(codes).tracks["mix"]
    assert samples <= made.shape[2] < samples + 317
    assert torch.equal(made, expected[..., : made.shape[2]])


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_48_khz_has_the_published_architecture() -> None:
    codec = SegmentedEncodec(Encodec48Config())
    package = encodec.EncodecModel.encodec_model_48khz(pretrained=False)
    package.load_state_dict(codec.model.state_dict())
    for name in ("sample_rate", "channels", "normalize", "segment", "overlap", "frame_rate", "target_bandwidths"):
        assert getattr(package, name) == getattr(codec.model, name), name


def test_48_khz_keeps_loudness_within_a_sixteenth_of_a_decibel() -> None:
    for decibels in (-119.0, -60.03, -12.34, -0.06, 0.0, 7.8):
        scale = 10 ** (decibels / 20)
        assert abs(20 * math.log10(loudness_of(loudness_id(scale)) / scale)) <= 1 / 16 + 1e-9
    assert loudness_id(1e-8) == 0  # what the package makes of silence


def test_48_khz_decodes_a_segment_at_its_median_loudness(tiny_48: SegmentedEncodec) -> None:
    """A planner may write another loudness into some frames of a segment."""
    ids = tiny_48.encode(audio_of(noise(60000, 2), 48000)).ids[0]
    changed = ids.clone()
    changed[-1, 10:20] = 3
    assert torch.equal(tiny_48.decode_track(changed), tiny_48.decode_track(ids))
    changed[-1, :150] += 48  # 6 dB
    louder, plain = (tiny_48.decode(Codes(x[None], torch.tensor([x.shape[1]]), tiny_48.layout)) for x in (changed, ids))
    assert float((louder.tracks["mix"] / plain.tracks["mix"])[..., :47520].median()) == pytest.approx(
        10 ** (6 / 20), rel=1e-4
    )


def test_two_stems_are_two_tracks_of_levels() -> None:
    codec = tiny_24(bandwidth=1.5, tracks=["vocal", "accompaniment"])
    assert str(codec.layout) == "75 Hz [vocal.0×1024, vocal.1×1024, accompaniment.0×1024, accompaniment.1×1024]"
    stems = {"vocal": noise(5000, 1, seed=3), "accompaniment": noise(5000, 1, seed=4)}
    codes = codec.encode(Audio(stems, torch.tensor([5000]), 24000))
    alone = tiny_24(bandwidth=1.5)
    for track in stems:
        single = alone.encode(audio_of(stems[track], 24000))
        assert torch.equal(codes.select([track]).ids, single.ids)
        assert torch.equal(codec.decode(codes).tracks[track], alone.decode(single).tracks["mix"])
    assert set(codec.decode(codes.select(["vocal"])).tracks) == {"vocal"}


def test_what_does_not_fit_is_refused(tiny_48: SegmentedEncodec) -> None:
    with pytest.raises(LayoutError, match="48000 Hz, this is at 24000"):
        tiny_48.encode(audio_of(noise(100, 2), 24000))
    with pytest.raises(LayoutError, match="encodes mix; the audio has vocal"):
        tiny_48.encode(audio_of(noise(100, 2), 48000, "vocal"))
    with pytest.raises(LayoutError, match="2 channels, and the track 'mix' has 3"):
        tiny_48.encode(audio_of(noise(100, 3), 48000))
    assert torch.equal(
        tiny_48.encode(audio_of(noise(100, 1), 48000)).ids,
        tiny_48.encode(audio_of(noise(100, 1).expand(1, 2, -1), 48000)).ids,
    )
    assert "offers 3, 6, 12, 24" in Encodec48Config(bandwidth=1.5).validate()[0]
    assert "tracks is ['drums']" in Encodec24Config(tracks=["drums"]).validate()[0]


def test_a_published_file_of_another_model_is_refused(tmp_path: Path, tiny_48: SegmentedEncodec) -> None:
    path = tmp_path / "encodec_24khz.th"
    torch.save(tiny_24().model.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"encodec_24khz\.th does not fit SegmentedEncodec.*missing"):
        load_published(path, tiny_48)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="expected the state dict of encodec_48khz, found list"):
        load_published(path, tiny_48)


def test_a_song_without_frames_is_silence(tiny_48: SegmentedEncodec) -> None:
    empty = Codes(torch.zeros(1, len(tiny_48.layout), 0, dtype=torch.int64), torch.tensor([0]), tiny_48.layout)
    made = tiny_48.decode(empty)
    assert made.tracks["mix"].shape == (1, 2, 0)
    assert made.lengths.tolist() == [0]


def test_torchaudio_is_left_to_others_as_it_was() -> None:
    """Where it cannot be loaded, what stands in for it is gone once the package is imported."""
    code = (
        "import songkit_encodec.causal, sys\n"
        "inside = [name for name in sys.modules if name.startswith('torchaudio.')]\n"
        "print(type(sys.modules.get('torchaudio')).__name__, len(inside))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kind, inside = done.stdout.split()
    assert kind == "module" or (kind, inside) == ("NoneType", "0")
