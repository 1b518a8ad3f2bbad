"""Every recipe that is shipped is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from songkit._resolved import walk
from songkit.recipe import dump, headline, load
from songkit.registry import Registry

REGISTRY = Registry.discover()
RECIPES = REGISTRY.recipes()


ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("plugins/*/src/*/recipes/**/*.yaml")]


def test_every_recipe_file_is_found():
    assert len(FILES) >= 20
    assert {path.resolve() for path in RECIPES.values()} >= {path.resolve() for path in FILES}


def test_every_part_is_the_parent_of_a_recipe():
    whole = [name for name in RECIPES if "/_" not in f"/{name}"]
    parents = {origin.rpartition(":")[0].rpartition(":")[0] for name in whole for origin in origins(name)}
    assert [name for name, path in RECIPES.items() if name not in whole and str(path.resolve()) not in parents] == []


def origins(name):
    return load(name, registry=REGISTRY, allow_missing=True).origins.values()


@pytest.mark.parametrize("name", [name for name in RECIPES if "/_" not in f"/{name}"])
def test_shipped_recipes_are_valid_and_say_what_they_do(name, tmp_path):
    recipe = load(name, registry=REGISTRY, allow_missing=True)
    assert headline(recipe.path)
    if not recipe.missing:
        (tmp_path / "again.yaml").write_text(dump(recipe))
        assert load(tmp_path / "again.yaml", registry=REGISTRY).resolved == recipe.resolved


GIVEN = [f"paths.{key}=/given" for key in ("music", "valid_music", "codec", "judge")]
LADDERS = [name for name, path in RECIPES.items() if "\nstages:" in path.read_text() and "/_" not in f"/{name}"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "ablations" in name else ()) for name in LADDERS]
)
def test_stages_read_what_other_stages_made_and_nothing_that_lies_about(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = {}
    for stage, recipe in stages_of(name).items():
        for path, node in walk(recipe.roles):
            weights = node.weights if isinstance(node.weights, Mapping) else {"": node.weights}
            read |= {f"{stage}: {path}.weights.{part}": file for part, file in weights.items()}
            for option in dataclasses.fields(node.config):
                if option.metadata.get("path"):
                    read[f"{stage}: {path}.{option.name}"] = getattr(node.config, option.name)
    assert len(read) > 10
    assert {key: str(file) for key, file in read.items() if str(file).startswith(f"{tmp_path}/")} == {}


@pytest.mark.parametrize("name", ["levo2/full/ladder", "levo2/mini/ladder", "levo2/mini/ablations/heard-tiers"])
def test_tiers_that_a_training_is_told_are_made_by_an_earlier_stage(name):
    stages, told = stages_of(name), {}
    for stage, recipe in stages.items():
        sources = [node for node in recipe.roles.values() if node.id == "songkit/prepared"]
        configs = [node.config for node in (*sources, *filter(None, [recipe.roles.get("task")]))]
        if "task" in recipe.roles and any(getattr(config, "tiers", False) for config in configs):
            told |= {f"{stage}: {node.config.root}": first_source(node, stages) for node in sources}
    assert len(told) >= 8  # of pre-training, fine-tuning and two trainings of the refiner
    assert {made for made in told.values() if made not in ("synth/songs", "judges/tiered")} == set(), told


@pytest.mark.parametrize("name", ["levo2/full/ladder", "levo2/mini/ladder"])
def test_every_stage_that_sings_decodes_with_the_codec_of_the_ladders_codes(name):
    stages = stages_of(name)
    codecs = {stage: recipe.roles["codec"].id for stage, recipe in stages.items() if stage in ("codes", *SINGING)}
    assert len(codecs) >= 2
    assert len(set(codecs.values())) == 1, codecs


SINGING = ("pairs", "semi-online", "song")


def stages_of(name):
    """Returns the recipes of a ladder's stages, which lie in /ladder."""
    recipes = {}
    for stage in load(name, GIVEN, registry=REGISTRY).stages.values():
        folders = {needed: Path("/ladder") / needed for needed in stage.needs}
        recipes[stage.name] = load(stage.source, [stage.changes(folders)], registry=REGISTRY)
    return recipes


def first_source(node, stages):
    """Returns what made the tiers of a source: the first that is no copy of another stage's songs."""
    if node.id != "songkit/prepared":
        return node.id
    return first_source(stages[Path(node.config.root).name].roles["data"], stages)
