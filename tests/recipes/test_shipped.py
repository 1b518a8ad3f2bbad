"""Every recipe that is shipped is right."""

from __future__ import annotations

from pathlib import Path

import pytest

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
