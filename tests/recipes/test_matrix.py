"""Any codec with any planner and any refiner: where the layouts fit it trains and sings, where not it is refused.

A codec that is installed takes part with the tracks that its options allow. Its `example` gives the size.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
import yaml

from songkit.build import build
from songkit.components.configs import TrainPlannerConfig, TrainRefinerConfig
from songkit.errors import LayoutError
from songkit.fit import check_decodes, check_fit
from songkit.interfaces import Codec, Planner, TrackRefiner
from songkit.recipe import load
from songkit.registry import Registry
from songkit.request import SongRequest
from songkit.settings import GenerateSettings, OptimizerSettings, TrainerSettings
from songkit.singing import SongModel, sing
from songkit.tasks.planner import TrainPlanner
from songkit.tasks.refiner import TrainRefiner
from songkit.testing.standins import ModelConfig, SongsConfig, TinyConditioner, TokenisedSongs
from songkit.types import TRACKS, Section, TokenLayout

pytest.importorskip("songkit_levo2")
pytest.importorskip("songkit_planners")

WIDTH = 16
REGISTRY = Registry.discover()
STEMS = ("vocal", "accompaniment")
REASONS = ("tracks:", "levels:", "vocabulary:", "frame rate:", "delay:", "width:")
REQUEST = SongRequest(id="song", sections=(Section("verse", ("golden river",)),))


def codecs() -> dict[str, dict[str, Any]]:
    """Every tokenizer, with the mix alone and with both stems where it lets one choose; options by name."""
    found = {}
    for entry in [*REGISTRY.list("codec"), *REGISTRY.list("tokenizer")]:
        example = dataclasses.asdict(entry.component.example)
        choices = (["mix"], list(STEMS)) if "tracks" in example else (None,)
        for tracks in choices:
            chosen = {} if tracks is None else {"tracks": tracks}
            name = " ".join((entry.id, *(tracks or ())))
            found[name] = {"kind": entry.component.kind, "use": entry.id, **example, **chosen}
    return found


def planners() -> dict[str, dict[str, Any]]:
    """LeVo 2's planner, and the planners of the shipped baselines."""
    found: dict[str, dict[str, Any]] = {"levo2/mixed-lm": {"use": "levo2/mixed-lm"}}
    for name in REGISTRY.recipes():
        if name.startswith("baselines/") and "/_" not in name:
            written = load(name, registry=REGISTRY, allow_missing=True).resolved
            if "planner" in written:
                found[name] = dict(written["planner"])
    return found


STEMS_ONLY = ("levo2/dual-track-codec",)
"""Codecs that tell tokens of the mix, and decode stems alone."""

CODECS, PLANNERS, REFINERS = codecs(), planners(), (None, "levo2/track-lm")


def fitting(use: str, layout: TokenLayout, options: dict[str, Any]) -> dict[str, Any]:
    """Options with the sizes of a codec's layout, as somebody would write them who swaps a part."""
    first = [stream.size for stream in layout.streams if stream.track == layout.tracks[0]]
    sizes = {
        "levo2/mixed-lm": {"codebook_size": first[0]},
        "levo2/track-lm": {
            "codebook_size": first[0],
            "source_codebook_size": first[0],
            "source_width": WIDTH,
            "delay": 2,
        },
        "planners/stream-lm": {"codebook_sizes": first},
    }
    assert use in sizes, f"tell this test how {use} is sized"
    tower = {"use": "songkit/transformer", "dim": WIDTH, "layers": 1, "heads": 2, "feed_forward": 32}
    return {**options, "use": use, **sizes[use], "frame_rate": layout.frame_rate, "tower": tower}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns what builds a component of a role from its options."""
    folder = tmp_path_factory.mktemp("matrix")
    numbers = itertools.count()

    def make(role: str, options: dict[str, Any]) -> Any:
        path = folder / f"{next(numbers)}.yaml"
        path.write_text(yaml.safe_dump({"format": 1, role: options}))
        built = build(load(path, registry=REGISTRY).roles[role], seed=1)
        return built.eval()

    return make


@pytest.fixture(scope="module")
def codec(made: Any) -> Any:
    """Returns a codec and songs that it has encoded, by name."""

    @functools.cache
    def get(name: str) -> tuple[Codec, TokenisedSongs]:
        options = {key: value for key, value in CODECS[name].items() if key != "kind"}
        built = made(CODECS[name]["kind"], options)
        built.requires_grad_(False)
        return built, TokenisedSongs(SongsConfig(songs=2, sample_rate=built.sample_rate), built)

    return get


def should_fit(name: str, layout: TokenLayout, planner: Planner, refiner: TrackRefiner | None) -> bool:
    """The rule, told apart from the program: all that is planned or learnt is there, and what results is whole."""
    there = set(layout.streams)
    wanted = {*planner.layout.streams, *(() if refiner is None else refiner.layout.streams)}
    made = planner.layout if refiner is None else refiner.layout
    whole = all(made.select([t]).streams == layout.select([t]).streams for t in made.tracks)
    joined = refiner is None or planner.layout.streams == refiner.source.streams
    heard = name not in STEMS_ONLY or made.tracks != ("mix",)
    return wanted <= there and set(planner.auxiliary) <= set(layout.tracks) and whole and joined and heard


def refusal(codec: Codec, planner: Planner, refiner: TrackRefiner | None) -> str | None:
    """Returns why parts are refused, if they are."""
    try:
        check_fit({"codec": codec, "planner": planner} | ({} if refiner is None else {"refiner": refiner}))
        check_decodes(codec, planner, refiner)
    except LayoutError as error:
        return str(error)
    return None


def train_a_step(planner: Planner, refiner: TrackRefiner | None, codec: Codec, songs: TokenisedSongs) -> None:
    given: dict[str, Any] = {
        "conditioner": TinyConditioner(ModelConfig(width=WIDTH)),
        "data": songs,
        "codec": codec,
        "settings": TrainerSettings(max_steps=1, batch_size=2, accelerator="cpu"),
        "optimizer": OptimizerSettings(),
        "seed": 0,
        "planner": planner,
    }
    task = (
        TrainPlanner(TrainPlannerConfig(max_seconds=0.6), **given)
        if refiner is None
        else TrainRefiner(TrainRefinerConfig(max_seconds=0.6), refiner=refiner, **given)
    )
    losses = task.losses(task.batch(0), torch.Generator().manual_seed(0))
    sum(value for name, value in losses.items() if not name.startswith("_")).backward()
    learning = [p.grad for p in (refiner or planner).parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in learning)
    assert any(bool(gradient.any()) for gradient in learning)


def sing_a_song(planner: Planner, refiner: TrackRefiner | None, codec: Codec) -> None:
    model = SongModel(TinyConditioner(ModelConfig(width=WIDTH)).eval(), planner, refiner, codec)
    settings = GenerateSettings(max_seconds=0.3, temperature=1.0, top_k=0)
    [song] = sing(model, [REQUEST], settings=settings)
    planned = set((refiner or planner).layout.tracks)
    assert set(song.tracks) == (set(TRACKS) if planned >= set(STEMS) else planned)
    lengths = {track.shape for track in song.tracks.values()}
    assert len(lengths) == 1
    assert 0 < song.seconds <= 0.3 + 3 / codec.layout.frame_rate


@pytest.mark.parametrize("name", CODECS)
def test_where_the_layouts_fit_it_trains_and_sings_and_where_not_the_reason_is_told(
    name: str, made: Any, codec: Any
) -> None:
    tokenizer, songs = codec(name)
    counted: Counter[str] = Counter()
    for (system, options), refining in itertools.product(PLANNERS.items(), REFINERS):
        planner = made("planner", fitting(options["use"], tokenizer.layout, options))
        refiner = None if refining is None else made("refiner", fitting(refining, tokenizer.layout, {}))
        expected = should_fit(name, tokenizer.layout, planner, refiner)
        told = refusal(tokenizer, planner, refiner)
        assert expected == (told is None), f"{system} with {refining}: {told or 'accepted'}"
        counted["fit" if told is None else "refused"] += 1
        if told is not None:
            assert any(reason in told for reason in REASONS), told
            continue
        train_a_step(planner, refiner, tokenizer, songs)
        sing_a_song(planner, refiner, tokenizer)
    assert counted.total() == len(PLANNERS) * len(REFINERS) == 16
    # All planners, and the refiner behind the four that plan one mixed stream; the mixed ones; the dual ones.
    several = len(tokenizer.layout) > len(tokenizer.layout.tracks)
    fit = {TRACKS: 12, ("mix",): 2 if several else 3, STEMS: 4}[tokenizer.layout.tracks]
    # Where the mix cannot be decoded alone, those four need the refiner.
    assert counted["fit"] == fit - (4 if name in STEMS_ONLY else 0)


def test_every_shipped_codec_took_part() -> None:
    assert "levo2/music-codec" in CODECS
    assert len(PLANNERS) == 8
    published = [name for name in CODECS if name.startswith(("encodec/", "dac/"))]
    assert len(published) == 2 * len([e for e in REGISTRY.list("codec") if e.id.startswith(("encodec/", "dac/"))])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"frame_rate": 50.0}, "frame rate: the planner has 50 frames a second, the codec 25"),
        ({"codebook_sizes": [33]}, "vocabulary: the planner has 33 ids in (mix, level 0), the codec 32"),
        ({"codebook_sizes": [32, 32]}, "levels: the planner has a stream (mix, level 1); the codec has levels 0 of it"),
    ],
)
def test_sizes_that_differ_are_refused_by_name(changed: dict, told: str, made: Any, codec: Any) -> None:
    tokenizer, _ = codec("levo2/music-codec")
    options = fitting("planners/stream-lm", tokenizer.layout, {"tracks": ["mix"]}) | changed
    planner = made("planner", options)
    assert told in str(refusal(tokenizer, planner, None))
