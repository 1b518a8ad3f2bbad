"""LeVo 2 from requests to audio on a tiny random model: lockstep, streams, prompts and stems."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from songkit._lockstep import Lockstep
from songkit._song_audio import decode_song
from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.errors import RequestError
from songkit.request import SongRequest
from songkit.settings import GenerateSettings
from songkit.singing import SongModel, SungSong, sing, song_seed
from songkit.streaming import stream
from songkit.types import Section
from songkit_levo2 import codec as codecs
from songkit_levo2.conditioner import LeLMConditioner
from songkit_levo2.configs import LeLMConditionerConfig, MixedLMConfig, QwenConditionerConfig, TrackLMConfig
from songkit_levo2.planner import MixedLM
from songkit_levo2.plugin import songkit_components
from songkit_levo2.qwen_conditioner import QwenConditioner
from songkit_levo2.refiner import TrackLM

SIZE, WIDTH, DELAY = 32, 16, 3
REQUESTS = [
    SongRequest(id=f"song-{i}", sections=(Section("verse", tuple(["sing to me"] * (1 + i % 3))),)) for i in range(6)
]
PURE = SongRequest(id="pure", sections=(), pure_music=True)
SETTINGS = GenerateSettings(temperature=1.5, top_k=0, refiner_temperature=1.0, max_seconds=1.4, min_seconds=0.2)


def tower() -> Transformer:
    return Transformer(TransformerConfig(dim=WIDTH, layers=1, heads=2, feed_forward=32))


def lively(*modules: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for module in modules:
        module.eval().requires_grad_(False)
        for parameter in module.parameters():  # small initial weights would make every logit alike
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture(scope="module")
def miniature() -> SongModel:
    """The kind of model that follows the lyrics, whose refiner has a learned state behind the song."""
    conditioner = LeLMConditioner(LeLMConditionerConfig(width=WIDTH, codebook_size=SIZE, tape_depth=1))
    planner = MixedLM(MixedLMConfig(codebook_size=SIZE), tower())
    sizes = {"codebook_size": SIZE, "source_codebook_size": SIZE, "source_width": WIDTH}
    refiner = TrackLM(TrackLMConfig(**sizes, delay=DELAY), tower())
    lively(conditioner, planner, refiner)
    example = copy.deepcopy(next(c.example for c in songkit_components() if c.name == "music-codec"))
    return SongModel(conditioner, planner, refiner, codecs.build(example).eval())


@pytest.fixture(scope="module")
def released() -> SongModel:
    """The kind of model that is released: Qwen tokens, a planner that runs on, codes of both tracks together."""
    values = {"width": WIDTH, "lyrics_length": 24, "style_length": 16, "prompt_seconds": 1.0, "codebook_size": SIZE}
    conditioner = QwenConditioner(QwenConditionerConfig(**values))
    planner = MixedLM(MixedLMConfig(codebook_size=SIZE, cursor=False, tail=DELAY), tower())
    sizes = {"codebook_size": SIZE, "source_codebook_size": SIZE, "source_width": WIDTH}
    refiner = TrackLM(TrackLMConfig(**sizes, delay=DELAY, after="planner", ends=True), tower())
    lively(conditioner, planner, refiner)
    example = copy.deepcopy(next(c.example for c in songkit_components() if c.name == "dual-track-codec"))
    return SongModel(conditioner, planner, refiner, codecs.build_dual_track(example).eval())


@pytest.fixture(params=["miniature", "released"])
def model(request: pytest.FixtureRequest) -> SongModel:
    return request.getfixturevalue(request.param)


def same(one: SungSong, two: SungSong) -> bool:
    return (
        torch.equal(one.codes.ids, two.codes.ids)
        and torch.equal(one.planned.ids, two.planned.ids)
        and (one.cursor is None or np.array_equal(one.cursor, two.cursor))
        and one.finished == two.finished
        and all(np.array_equal(one.tracks[track], two.tracks[track]) for track in one.tracks)
    )


def test_lockstep_gives_what_planning_first_and_refining_then_gives(
    model: SongModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockstep = list(sing(model, REQUESTS, settings=SETTINGS, batch=2))
    monkeypatch.setattr(Lockstep, "can", lambda model: False)
    after = list(sing(model, REQUESTS, settings=SETTINGS, batch=3))
    assert len({song.codes.ids.shape[2] for song in lockstep}) > 1  # songs of different lengths
    assert all(same(one, two) for one, two in zip(lockstep, after, strict=True))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_a_song_does_not_depend_on_the_others(model: SongModel, batch: int) -> None:
    together = list(sing(model, REQUESTS, settings=SETTINGS, batch=batch))
    assert [song.request for song in together] == REQUESTS
    [alone] = sing(model, REQUESTS[3:4], settings=SETTINGS)
    assert same(alone, together[3])


@pytest.mark.parametrize("asked", [REQUESTS[2], PURE], ids=["song", "pure music"])
def test_a_stream_has_the_audio_of_the_song(model: SongModel, asked: SongRequest) -> None:
    settings = dataclasses.replace(SETTINGS, max_seconds=5.0, min_seconds=4.0)
    if asked.pure_music and not model.conditioner.pure_music:
        with pytest.raises(RequestError, match="pure music"):
            next(stream(model, asked, settings=settings))
        return
    reports: list[int] = []
    pieces, drawn = [], []
    for piece in stream(model, asked, seed=1, settings=settings, progress=lambda p: reports.append(p.frames)):
        pieces.append(piece)
        drawn.append(reports[-1])
    [song] = sing(model, [asked], seed=1, settings=settings)
    whole = decode_song(model.codec, song.codes, song_seed(1, asked.id), voiceless=asked.pure_music)
    assert set(pieces[0]) == {"mix", "vocal", "accompaniment"}
    for track, wave in whole.items():
        streamed = np.concatenate([piece[track] for piece in pieces], 1)
        assert np.abs(streamed - wave).max() <= 1e-4 * max(np.abs(wave).max(), 1e-9)
    for piece in pieces:
        assert np.array_equal(piece["mix"], piece["vocal"] + piece["accompaniment"])
    assert bool(np.any(whole["vocal"])) != asked.pure_music
    if model.codec.window < 60:  # a window of two seconds: the first piece comes when it is drawn
        assert drawn[0] < model.codec.window + DELAY + 2 < drawn[-1]


def test_an_audio_prompt_starts_the_codec_and_is_no_part_of_the_song(
    released: SongModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (48000, 2))
    for track in ("mix", "vocal", "accompaniment"):
        soundfile.write(tmp_path / f"{track}.wav", noise, 48000)
    given = []
    sample = released.codec.diffusion.sample

    def spy(condition, known, flag, noise):
        given.append(float(flag.sum()))
        return sample(condition, known, flag, noise)

    monkeypatch.setattr(released.codec.diffusion, "sample", spy)
    asked = dataclasses.replace(REQUESTS[0], prompt_audio=tmp_path / "mix.wav")
    [song] = sing(released, [asked], settings=SETTINGS)
    assert given[0] == released.codec.overlap  # frames of the first window that the prompt gives
    frames = song.codes.ids.shape[2]
    assert song.tracks["vocal"].shape[1] == frames * 1920
    pieces = list(stream(released, asked, settings=SETTINGS))
    whole = np.concatenate([piece["mix"] for piece in pieces], 1)
    assert whole.shape[1] == frames * 1920
    bare = decode_song(released.codec, song.codes, song.seed, voiceless=False)
    assert not np.allclose(bare["vocal"], np.concatenate([piece["vocal"] for piece in pieces], 1), atol=1e-4)


def test_stems_add_up_to_the_mix_and_each_can_be_had_alone(released: SongModel) -> None:
    [song] = sing(released, REQUESTS[:1], settings=SETTINGS)
    parts = song.tracks
    assert np.array_equal(parts["mix"], parts["vocal"] + parts["accompaniment"])
    assert np.any(parts["vocal"] != parts["accompaniment"])
    for track in ("vocal", "accompaniment"):
        alone = decode_song(released.codec, song.codes.select([track]), song.seed, voiceless=False)
        whole = decode_song(released.codec, song.codes, song.seed, voiceless=False)
        assert np.array_equal(alone[track], whole[track])


def test_each_track_is_drawn_with_its_own_temperature(miniature: SongModel) -> None:
    def ids(**changes: object) -> dict[str, list[int]]:
        [song] = sing(miniature, REQUESTS[:1], settings=dataclasses.replace(SETTINGS, **changes))
        streams = {"mix": song.planned.ids[0, 0], "vocal": song.codes.ids[0, 0], "accompaniment": song.codes.ids[0, 1]}
        return {track: row.tolist() for track, row in streams.items()}

    hot, other = ids(), ids(track_temperature={"accompaniment": 0.0})
    assert other["mix"] == hot["mix"]
    assert other["accompaniment"] != hot["accompaniment"]
    assert other["vocal"][:DELAY] == hot["vocal"][:DELAY]  # until it has heard the other accompaniment
    assert ids(track_top_k={"accompaniment": 1}) == other  # one id to choose from is the most likely one
    assert ids(track_top_k={"mix": 1})["mix"] != hot["mix"]
