"""Every recipe that is shipped is right."""

from __future__ import annotations

import pytest

from songkit.recipe import dump, headline, load
from songkit.registry import Registry

REGISTRY = Registry.discover()
RECIPES = REGISTRY.recipes()


def test_recipes_are_found():
    assert len(RECIPES) >= 5


@pytest.mark.parametrize("name", [name for name in RECIPES if "/_" not in f"/{name}"])
def test_shipped_recipes_are_valid_and_say_what_they_do(name, tmp_path):
    recipe = load(name, registry=REGISTRY, allow_missing=True)
    assert headline(recipe.path)
    if not recipe.missing:
        (tmp_path / "again.yaml").write_text(dump(recipe))
        assert load(tmp_path / "again.yaml", registry=REGISTRY).resolved == recipe.resolved
