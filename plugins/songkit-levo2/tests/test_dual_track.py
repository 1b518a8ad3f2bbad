"""Laws of the codec at full size: its sizes, and on a tiny random model its windows, seams and stems."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from songkit.errors import CheckpointError, LayoutError
from songkit.types import Audio, Codes
from songkit_levo2.codec import MusicCodec, build_dual_track
from songkit_levo2.codec_configs import ConformerConfig, DualTrackCodecConfig, OobleckConfig
from songkit_levo2.oobleck import OobleckVAE
from songkit_levo2.plugin import songkit_components
from songkit_levo2.released_codec import DUAL_TRACK, MIXED, VAE, Part, codec_makers, makers, renamed

RATE, FRAME = 48000, 1920


def tiny() -> DualTrackCodecConfig:
    return copy.deepcopy(next(c.example for c in songkit_components() if c.name == "dual-track-codec"))


@pytest.fixture(scope="module")
def codec() -> MusicCodec:
    torch.manual_seed(0)
    return build_dual_track(tiny()).eval()


def noise(samples: int, *tracks: str) -> Audio:
    generator = torch.Generator().manual_seed(0)
    waves = {track: 0.1 * torch.randn(1, 2, samples, generator=generator) for track in tracks}
    return Audio(waves, torch.tensor([samples]), RATE)


def parameters(module: nn.Module) -> float:
    """Millions."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_the_default_sizes_are_the_released_ones() -> None:
    with torch.device("meta"):
        codec = build_dual_track(DualTrackCodecConfig(semantic=ConformerConfig(layers=12)))
    assert codec.diffusion.out.in_features == 2200
    assert parameters(codec.vae.encoder) == pytest.approx(84.3, abs=0.05)
    assert parameters(codec.vae.decoder) == pytest.approx(84.4, abs=0.05)
    assert parameters(codec.semantic.layers) == pytest.approx(290, rel=0.01)
    assert parameters(codec.diffusion) == pytest.approx(660, rel=0.01)
    assert codec.layout.frame_rate == 25.0
    assert [stream.size for stream in codec.layout.streams] == [16384] * 3
    assert (codec.window, codec.overlap, codec.channels) == (1000, 250, 2)


@pytest.fixture(scope="module")
def vae() -> OobleckVAE:
    torch.manual_seed(0)
    return OobleckVAE(OobleckConfig(channels=2, latent=4, chunk_frames=16)).eval()


@pytest.mark.parametrize("part", [80, 37, 5])
def test_decoding_in_chunks_gives_the_samples_of_decoding_whole(vae: OobleckVAE, part: int) -> None:
    latents = torch.randn(1, 80, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = vae.decode(latents)
        pieces = list(vae.decode_stream(latents.split(part, 1)))
    assert len(pieces) == 5
    assert float((torch.cat(pieces, 2) - whole).abs().max()) < 1e-4 * float(whole.abs().max())


def test_no_more_is_decoded_at_once_for_longer_songs(vae: OobleckVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(vae, "decode", lambda z: seen.append(z.shape[1]) or z.new_zeros(1, 2, z.shape[1] * FRAME))
    for frames in (50, 1000):
        pieces = list(vae.decode_stream(torch.zeros(1, frames, 4).split(30, 1)))
        assert sum(piece.shape[2] for piece in pieces) == frames * FRAME
        assert max(seen) == 16 + 2 * vae.reach


def test_cross_fading_windows_would_change_the_edges_of_overlaps_only(vae: OobleckVAE) -> None:
    """The released code decodes each window by itself and cross-fades where they overlap."""
    overlap, window = 24, 48
    latents = torch.randn(1, 72, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = vae.decode(latents)
        first, second = vae.decode(latents[:, :window]), vae.decode(latents[:, window - overlap :])
    ramp = torch.linspace(0, 1, overlap * FRAME)
    faded = first[:, :, -overlap * FRAME :] * (1 - ramp) + second[:, :, : overlap * FRAME] * ramp
    ours = whole[:, :, (window - overlap) * FRAME : window * FRAME]
    inside = slice(vae.reach * FRAME, (overlap - vae.reach) * FRAME)
    largest = float(whole.abs().max())
    assert float((faded - ours)[:, :, inside].abs().max()) < 1e-4 * largest
    assert float((faded - ours).abs().max()) > 1e-4 * largest


def test_a_decoded_sample_depends_on_the_latents_within_reach_only() -> None:
    torch.manual_seed(0)
    vae = OobleckVAE(OobleckConfig(channels=2, latent=4)).eval().double()
    latents = torch.randn(1, 41, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    middle = vae.decode(latents)[0, :, 20 * FRAME : 21 * FRAME]
    [gradient] = torch.autograd.grad(middle.square().sum(), latents)
    heard = gradient[0].abs().sum(-1).nonzero()[:, 0]
    assert (int(heard.min()), int(heard.max())) == (20 - vae.reach, 20 + vae.reach)


def test_windows_continue_each_other_and_stream_what_decode_returns(codec: MusicCodec) -> None:
    ids = torch.randint(32, (1, 2, 170), generator=torch.Generator().manual_seed(0))
    pieces = list(codec.stream_track([ids[:, 0]], "vocal", 5))
    assert sum(piece.shape[2] for piece in pieces) == 170 * FRAME
    assert len(pieces) > 5
    layout = codec.layout.select(["vocal", "accompaniment"])
    decoded = codec.decode(Codes(ids, torch.tensor([170]), layout), seeds=[5])
    assert torch.equal(torch.cat(pieces, 2), decoded.tracks["vocal"])


def test_the_next_window_is_given_the_end_of_the_one_before(codec: MusicCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sample = codec.diffusion.sample

    def spy(condition: torch.Tensor, given: torch.Tensor, flag: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        made = sample(condition, given, flag, noise)
        calls.append((given, flag, made))
        return made

    monkeypatch.setattr(codec.diffusion, "sample", spy)
    codec.latents(torch.zeros(1, 120, dtype=torch.int64), "vocal", 0)
    overlap = codec.overlap
    assert overlap == 12  # half a second
    assert [made.shape[1] for _, _, made in calls] == [50, 50, 50]  # the last one is filled
    for (_, _, before), (given, flag, made) in itertools.pairwise(calls):
        assert flag[0, :, 0].tolist() == [1.0] * overlap + [0.0] * (made.shape[1] - overlap)
        assert torch.equal(given[:, :overlap], before[:, -overlap:])
        assert torch.equal(made[:, :overlap], before[:, -overlap:])


def test_a_song_that_arrives_frame_by_frame_has_the_samples_of_the_whole(codec: MusicCodec) -> None:
    ids = torch.randint(32, (1, 2, 120), generator=torch.Generator().manual_seed(0))
    layout = codec.layout.select(["vocal", "accompaniment"])
    taken = []

    def parts():
        for frame in range(120):
            taken.append(frame)
            yield Codes(ids[:, :, frame : frame + 1], torch.tensor([1]), layout)

    pieces = codec.stream(parts(), layout=layout, seed=5)
    first = next(pieces)
    assert len(taken) == codec.window == 50  # and no more of the song is known
    assert set(first) == {"vocal", "accompaniment"}
    whole = codec.decode(Codes(ids, torch.tensor([120]), layout), seeds=[5])
    streamed = [first, *pieces]
    for track, wave in whole.tracks.items():
        assert torch.equal(torch.cat([piece[track] for piece in streamed], 2), wave)


def test_the_released_transformer_is_never_made_light(codec: MusicCodec) -> None:
    ids = torch.zeros(1, 20, dtype=torch.int64)
    before = codec.latents(ids, "vocal", 1)
    codec.lighten()
    assert torch.equal(codec.latents(ids, "vocal", 1), before)


def test_a_short_opening_lets_a_stream_begin_sooner(codec: MusicCodec) -> None:
    config = tiny()
    config.opening_seconds = 0.8
    quick = build_dual_track(config).eval()
    quick.load_state_dict(codec.state_dict())
    ids = torch.randint(32, (1, 90), generator=torch.Generator().manual_seed(0))
    taken = []
    parts = (taken.append(frame) or ids[:, frame : frame + 1] for frame in range(90))
    pieces = quick.stream_track(parts, "vocal", 5, chunk=4)
    first = next(pieces)
    assert len(taken) == 20 < codec.window
    streamed = torch.cat([first, *pieces], 2)
    [whole] = quick.stream_track([ids], "vocal", 5, chunk=0)
    assert streamed.shape == whole.shape == (1, 2, 90 * FRAME)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))
    config.opening_seconds = 0.0
    assert "opening_seconds is 0.0" in "; ".join(config.validate())


def test_the_first_window_goes_on_where_the_prompt_ended(codec: MusicCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = noise(30 * FRAME, "vocal")  # of the vocal alone
    calls = []
    sample = codec.diffusion.sample

    def spy(condition: torch.Tensor, given: torch.Tensor, flag: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        calls.append((condition, given, flag))
        return sample(condition, given, flag, noise)

    monkeypatch.setattr(codec.diffusion, "sample", spy)
    layout = codec.layout.select(["vocal", "accompaniment"])
    codes = Codes(torch.randint(32, (1, 2, 45)), torch.tensor([45]), layout)
    joined = codec.stream([codes], layout=layout, seed=5, prompt=prompt)
    made = {track: [] for track in layout.tracks}
    for pieces in joined:
        for track, piece in pieces.items():
            made[track].append(piece)
    assert {track: torch.cat(parts, 2).shape[2] for track, parts in made.items()} == dict.fromkeys(made, 45 * FRAME)
    vocal = [call for call in calls if bool(call[2].any())]
    condition, given, flag = vocal[0]
    latents = codec.vae.standardise(codec.vae.encode(prompt.tracks["vocal"]))
    assert flag[0, :, 0].tolist() == [1.0] * codec.overlap + [0.0] * (50 - codec.overlap)
    assert torch.equal(given[:, : codec.overlap], latents[:, -codec.overlap :])
    # The flow is told the prompt's ids there, too.
    ids = codec.semantic.song_ids(prompt.tracks["vocal"][0], "vocal")[None, -codec.overlap :]
    features = codec.semantic.features_of(ids, "vocal")
    torch.testing.assert_close(condition[:, : codec.overlap, : features.shape[2]], features)
    # A track that the prompt does not have begins as it does without one.
    alone = codec.decode(codes.select(["accompaniment"]), seeds=[5]).tracks["accompaniment"]
    assert torch.equal(torch.cat(made["accompaniment"], 2), alone)
    assert not torch.equal(torch.cat(made["vocal"], 2), codec.decode(codes, seeds=[5]).tracks["vocal"])


def test_a_prompt_at_another_rate_is_refused(codec: MusicCodec) -> None:
    prompt = Audio(noise(30 * FRAME, "vocal").tracks, torch.tensor([30 * FRAME]), RATE // 2)
    codes = Codes(torch.zeros(1, 1, 45, dtype=torch.int64), torch.tensor([45]), codec.layout.select(["vocal"]))
    with pytest.raises(LayoutError, match=r"prompt is at 24000 Hz; expected 48000"):
        next(iter(codec.stream([codes], layout=codes.layout, prompt=prompt)))


def test_a_last_window_that_is_not_filled_hears_the_song_alone(codec: MusicCodec) -> None:
    config = tiny()
    config.fill_windows = False
    bare = build_dual_track(config).eval()
    bare.load_state_dict(codec.state_dict())
    ids = torch.randint(32, (1, 80), generator=torch.Generator().manual_seed(0))
    filled, alone = codec.latents(ids, "vocal", 0), bare.latents(ids, "vocal", 0)
    assert filled.shape == alone.shape == (1, 80, 4)
    assert torch.equal(filled[:, :50], alone[:, :50])
    assert not torch.equal(filled[:, 50:], alone[:, 50:])


def test_a_stem_does_not_depend_on_the_other_track(codec: MusicCodec) -> None:
    ids = torch.randint(32, (1, 2, 20), generator=torch.Generator().manual_seed(0))
    layout = codec.layout.select(["vocal", "accompaniment"])
    other = ids.clone()
    other[:, layout.index("accompaniment")] = 7
    one, two = (codec.decode(Codes(i, torch.tensor([20]), layout), seeds=[5]).tracks for i in (ids, other))
    assert torch.equal(one["vocal"], two["vocal"])
    assert not torch.equal(one["accompaniment"], two["accompaniment"])


def test_the_mixed_stream_alone_is_refused(codec: MusicCodec) -> None:
    codes = codec.encode(noise(9600, "mix"))
    with pytest.raises(LayoutError, match="vocal, accompaniment"):
        codec.decode(codes)


def test_loud_songs_are_turned_down_before_they_are_encoded(codec: MusicCodec) -> None:
    audio = noise(2 * RATE, "vocal")
    wave = audio.tracks["vocal"][0]
    assert torch.equal(
        codec.semantic.song_ids(wave * 0.8 / wave.abs().max(), "vocal"),
        codec.semantic.song_ids(wave * 3.0 / wave.abs().max(), "vocal"),
    )


def test_short_audio_is_repeated_to_fill_the_encoders_window(codec: MusicCodec) -> None:
    wave = noise(RATE // 2, "vocal").tracks["vocal"][0]  # the window lasts two seconds
    once, again = codec.semantic.song_ids(wave, "vocal"), codec.semantic.song_ids(wave.repeat(1, 4), "vocal")
    assert once.shape == (13,)  # ceil(12.5)
    assert torch.equal(once, again[:13])


def test_what_does_not_fit_is_told_at_once() -> None:
    config = tiny()
    config.vae.strides, config.overlap_seconds, config.silence["vocal"] = [2, 4, 4, 6, 5], 3.0, 99
    config.diffusion.positions = 40
    problems = "; ".join(config.validate())
    for part in ("[2, 4, 4, 6, 5] must be even", "frames of 960 samples", "99", "40 positions", "overlap_seconds 3.0"):
        assert part in problems


def shapes_of(request: pytest.FixtureRequest, kind: str) -> dict[str, list[int]]:
    path = Path(request.config.rootpath) / "tests" / "data" / "levo2" / kind / "shapes.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "part"), [("codec_dual", DUAL_TRACK), ("vae", VAE)])
def test_every_released_name_has_its_place_or_a_reason(request: pytest.FixtureRequest, kind: str, part: Part) -> None:
    shapes = shapes_of(request, kind)
    with torch.device("meta"):
        wanted = build_dual_track(DualTrackCodecConfig()).state_dict()
        tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    used, unused = renamed(part, tensors, wanted)
    assert sorted([*used, *unused]) == sorted(shapes)
    made = makers(part, tensors, used)
    assert set(made) <= set(wanted)
    if part is DUAL_TRACK:  # the golden file has fewer layers, and else the released sizes
        assert all(make().shape == wanted[name].shape for name, make in made.items())


def test_an_unknown_tensor_stops_the_import(codec: MusicCodec) -> None:
    with pytest.raises(CheckpointError, match=r"none of the released VAE.*surprise\.weight"):
        renamed(VAE, ["surprise.weight"], codec.state_dict())


def test_missing_tensors_are_named(codec: MusicCodec) -> None:
    tensors = {"mask_emb.weight": codec.diffusion.flag.weight.detach()}
    with pytest.raises(CheckpointError, match=r"diffusion\.blocks\.0\.contract\.bias missing"):
        codec_makers(codec.state_dict(), {DUAL_TRACK: tensors})


def test_other_shapes_are_told(codec: MusicCodec) -> None:
    with pytest.raises(CheckpointError, match=r"diffusion\.flag\.weight \[3, 24\] instead of \[3, 4\]"):
        codec_makers(codec.state_dict(), {DUAL_TRACK: {"mask_emb.weight": torch.zeros(3, 24)}})


def test_models_of_two_releases_are_not_mixed(codec: MusicCodec) -> None:
    weight = codec.semantic.project.weight.detach()
    name = "bestrq.model.conv.linear.weight"
    with pytest.raises(CheckpointError, match=r"semantic\.project\.weight.* differs"):
        codec_makers(codec.state_dict(), {DUAL_TRACK: {name: weight}, MIXED: {name: weight + 1}})


def test_layers_behind_the_deepest_tap_are_left_out_and_told(codec: MusicCodec) -> None:
    name = "bestrq.model.conformer.layers.11.final_layer_norm.weight"
    assert renamed(DUAL_TRACK, [name], codec.state_dict()) == ({}, {name: "behind the deepest tap"})
