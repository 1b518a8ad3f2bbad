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


LADDERS = [name for name, path in RECIPES.items() if "\nstages:" in path.read_text()]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "ablations" in name else ()) for name in LADDERS]
)
def test_stages_read_what_other_stages_made_and_nothing_that_lies_about(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ladder = load(name, [f"paths.{key}=/given" for key in ("music", "valid_music", "codec")], registry=REGISTRY)
    read = {}
    for stage in ladder.stages.values():
        folders = {needed: Path("/ladder") / needed for needed in stage.needs}
        recipe = load(stage.source, [stage.changes(folders)], registry=REGISTRY)
        for path, node in walk(recipe.roles):
            weights = node.weights if isinstance(node.weights, Mapping) else {"": node.weights}
            read |= {f"{stage.name}: {path}.weights.{part}": file for part, file in weights.items()}
            for option in dataclasses.fields(node.config):
                if option.metadata.get("path"):
                    read[f"{stage.name}: {path}.{option.name}"] = getattr(node.config, option.name)
    assert len(read) > 10
    assert {key: str(file) for key, file in read.items() if str(file).startswith(f"{tmp_path}/")} == {}
