"""Nodes to live objects: parts first, weights checked, nothing that does not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from songkit.build import build, build_roles
from songkit.checkpoint import save_weights
from songkit.errors import CheckpointError, LayoutError, PluginError, RecipeError
from songkit.fit import check_decodes, check_fit
from songkit.interfaces import Codec
from songkit.patterns import interleaved, parallel
from songkit.plugin import Component, hookimpl, ref, refs
from songkit.recipe import load
from songkit.registry import Registry
from songkit.types import TRACKS, Stream, TokenLayout


@dataclass(kw_only=True)
class TowerConfig:
    """A tower."""

    dim: int = 3
    """Width."""


@dataclass(kw_only=True)
class PlannerConfig:
    """A planner."""

    tower: Any = ref("backbone")
    second: Any = ref("backbone", optional=True)
    rewards: Any = refs("reward")


def make_tower(config):
    return nn.Linear(config.dim, config.dim)


class Planner(nn.Module):
    def __init__(self, config, *, tower, second, rewards, note="none"):
        super().__init__()
        self.tower, self.second, self.rewards, self.note = tower, second, rewards, note
        self.head = nn.Linear(2, 2)


def component(kind, name, config, factory):
    return Component(kind=kind, name=name, config=config, factory=factory, example=config())


class Plugin:
    @hookimpl
    def songkit_components(self):
        return [
            component("backbone", "tower", TowerConfig, f"{__name__}:make_tower"),
            component("backbone", "gone", TowerConfig, "no_such_library:make"),
            component("planner", "planner", PlannerConfig, f"{__name__}:Planner"),
            component("source", "source", TowerConfig, f"{__name__}:make_source"),
        ]


@pytest.fixture
def recipe(tmp_path):
    """Returns a function that loads a recipe from its text."""
    registry = Registry([]).with_modules({"t": Plugin()})

    def recipe(text, *overrides):
        (tmp_path / "r.yaml").write_text(f"format: 1\n{text}\n")
        return load(tmp_path / "r.yaml", overrides, registry=registry)

    return recipe


def make_source(config):
    return SimpleNamespace(dim=config.dim)


PLANNER = "planner: {use: t/planner, tower: {use: t/tower, dim: 2}}"


def test_parts_are_built_first_and_given_by_name(recipe):
    planner = build(recipe(PLANNER).roles["planner"], extra={"note": "given"})
    assert planner.tower.weight.shape == (2, 2)
    assert (planner.second, planner.rewards, planner.note) == (None, {}, "given")


def test_fresh_weights_depend_on_the_seed_and_the_place_alone(recipe):
    node = recipe(f"{PLANNER[:-1]}, second: {{use: t/tower, dim: 2}}}}").roles["planner"]
    torch.manual_seed(1)
    one, state = build(node, seed=3), torch.get_rng_state()
    torch.manual_seed(2)
    two, other = build(node, seed=3), build(node, seed=4)
    assert torch.equal(one.tower.weight, two.tower.weight)
    assert not torch.equal(one.tower.weight, other.tower.weight)
    assert not torch.equal(one.tower.weight, one.second.weight)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_loaded_whole_or_by_submodule(recipe, tmp_path):
    trained = make_tower(TowerConfig(dim=2))
    save_weights(tmp_path / "tower.safetensors", trained, {"component": "t/tower", "revision": 1})
    planner = build(recipe(PLANNER, "planner.tower.weights=" + str(tmp_path / "tower.safetensors")).roles["planner"])
    assert torch.equal(planner.tower.weight, trained.weight)

    save_weights(tmp_path / "head.safetensors", nn.Linear(2, 2), {"component": "t/planner", "revision": 1})
    node = recipe(f"{PLANNER[:-1]}, weights: {{head: ./head.safetensors}}}}").roles["planner"]
    with pytest.raises(CheckpointError, match=r"\(tower.weight and 1 more"):
        build(node, require_weights=True)
    node = recipe(f"{PLANNER[:-1]}, weights: {{head: ./head.safetensors, tower: random}}}}").roles["planner"]
    assert build(node, require_weights=True)
    with pytest.raises(CheckpointError, match=r"no submodule 'hed'.* Did you mean 'head'\?"):
        build(recipe(f"{PLANNER[:-1]}, weights: {{hed: ./head.safetensors}}}}").roles["planner"])


def test_weights_of_another_component_are_refused(recipe, tmp_path):
    save_weights(tmp_path / "w.safetensors", make_tower(TowerConfig(dim=2)), {"component": "t/other", "revision": 1})
    with pytest.raises(CheckpointError, match="t/other"):
        build(recipe(PLANNER, f"planner.tower.weights={tmp_path}/w.safetensors").roles["planner"])


def test_missing_weights_are_refused_where_they_are_needed(recipe):
    with pytest.raises(CheckpointError, match=r"r.yaml:2:16: planner 't/planner' has no weights.*weights: random"):
        build(recipe(PLANNER).roles["planner"], require_weights=True)
    assert build(recipe(PLANNER, "planner.weights=random").roles["planner"], require_weights=True)
    assert build(recipe("data: t/source").roles["data"], require_weights=True).dim == 3


def test_weights_for_what_has_none_are_refused(recipe):
    with pytest.raises(CheckpointError, match="source 't/source' takes no weights"):
        build(recipe("data: {use: t/source, weights: x}").roles["data"])


def test_a_factory_that_cannot_be_imported_is_told(recipe):
    with pytest.raises(
        PluginError, match=r"backbone 't/gone' cannot be built.*no_such_library.*Install what is missing"
    ):
        build(recipe(PLANNER, "planner.tower=t/gone").roles["planner"])


def test_a_role_that_the_recipe_lacks_is_told(recipe):
    with pytest.raises(RecipeError, match=r"the recipe 'r' has no codec, no refiner. It has planner"):
        build_roles(recipe(PLANNER), ["codec", "planner", "refiner"])


# --- fitting -------------------------------------------------------------------------------------------------

MIX, VOCAL, BAND = (Stream(track, 0, 16) for track in ("mix", "vocal", "accompaniment"))
CODEC = TokenLayout(25.0, (MIX, VOCAL, BAND))


def parts(**changes):
    mix, stems = CODEC.select(["mix"]), CODEC.select(["vocal", "accompaniment"])
    out = {
        "codec": SimpleNamespace(layout=CODEC),
        "planner": SimpleNamespace(layout=mix, width=8, pattern=parallel(1), auxiliary=(), tail=0),
        "refiner": SimpleNamespace(source=mix, source_width=8, source_pattern=parallel(1), source_tail=0, layout=stems),
        "conditioner": SimpleNamespace(width=8, prompts_layout=CODEC),
    }
    for name, value in changes.items():
        role, attribute = name.split("_", 1)
        setattr(out[role], attribute, value)
    return out


def test_parts_that_fit_are_accepted():
    check_fit(parts())
    check_fit({"planner": parts()["planner"]})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"planner_layout": TokenLayout(50.0, (MIX,))}, "frame rate: the planner has 50 frames a second, the codec 25"),
        ({"planner_layout": TokenLayout(25.0, (Stream("mix", 0, 17),))}, "vocabulary: the planner has 17 ids in (mix"),
        (
            {"planner_layout": TokenLayout(25.0, (Stream("mix", 1, 16),))},
            "levels: the planner has a stream (mix, level 1); the codec has levels 0 of it",
        ),
        ({"refiner_layout": TokenLayout(25.0, (Stream("drums", 0, 16),))}, "tracks: the refiner has a stream (drums"),
        ({"refiner_source": CODEC}, "the refiner's source has a stream (vocal, level 0); the planner has"),
        ({"refiner_source_width": 9}, "width: the refiner's source_width is 9, the planner 8"),
        ({"conditioner_width": 9}, "width: the planner is 8, the conditioner 9"),
        ({"refiner_width": 9}, "width: the refiner is 9, the conditioner 8"),
        (
            {"planner_pattern": interleaved([1])},
            "delay: the planner takes 2 steps a frame with offsets [1], the refiner's source 1 with [0]",
        ),
        (
            {"refiner_source_tail": 250},
            "tail: the refiner reads states of 250 steps after a song, the planner gives those of 0",
        ),
        (
            {"planner_auxiliary": ("drums",)},
            "tracks: the planner learns to predict drums beside what it plans; the cod",
        ),
        (
            {"conditioner_prompts_layout": TokenLayout(25.0, (Stream("mix", 0, 17),))},
            "vocabulary: the conditioner's prompts has 17 ids in (mix, level 0), the codec 16",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_reason(changes, told):
    with pytest.raises(LayoutError, match=re.escape(told)):
        check_fit(parts(**changes))


def test_every_reason_is_told():
    with pytest.raises(LayoutError) as caught:
        check_fit(parts(refiner_source_width=9, conditioner_width=7))
    assert str(caught.value).count("\n- ") == 2


class FakeCodec(Codec):
    """Decodes vocal and accompaniment of a layout with two levels a track."""

    layout = TokenLayout(25.0, tuple(Stream(track, level, 16) for track in TRACKS for level in (0, 1)))
    decoded_tracks = ("vocal", "accompaniment")

    def encode(self, audio):
        raise NotImplementedError

    def decode(self, codes, *, seeds=(), progress=None):
        raise NotImplementedError


def test_what_the_codec_makes_of_a_plan_is_told():
    codec = FakeCodec()
    dual = SimpleNamespace(layout=codec.layout.select(["vocal", "accompaniment"]))
    vocal = SimpleNamespace(layout=codec.layout.select(["vocal"]))
    mix = SimpleNamespace(layout=codec.layout.select(["mix"]))
    assert check_decodes(codec, dual, None) == ("vocal", "accompaniment")
    assert check_decodes(codec, vocal, None) == ("vocal",)
    assert check_decodes(codec, mix, dual) == ("vocal", "accompaniment")


def test_plans_that_the_codec_cannot_decode_are_refused_with_the_reason():
    codec = FakeCodec()
    mix = SimpleNamespace(layout=codec.layout.select(["mix"]))
    with pytest.raises(LayoutError, match=r"tracks: the codec makes vocal, accompaniment of .*\n.*Add a refiner"):
        check_decodes(codec, mix, None)
    low = SimpleNamespace(layout=TokenLayout(25.0, (Stream("vocal", 0, 16),)))
    with pytest.raises(LayoutError, match="the planner gives levels 0 of vocal, the codec decodes 0, 1 together"):
        check_decodes(codec, low, None)
    with pytest.raises(LayoutError, match="the refiner gives levels 0 of vocal"):
        check_decodes(codec, mix, low)
