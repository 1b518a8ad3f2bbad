"""Local plugins: whose python files a recipe may run."""

from __future__ import annotations

import sys

import pytest

from songkit.errors import RecipeError
from songkit.recipe import dump, load
from songkit.registry import Registry

PLUGIN = """
import pathlib
from songkit.plugin import Component, hookimpl
from songkit.settings import PrepareSettings as Config

pathlib.Path(__file__).with_suffix(".ran").touch()

@hookimpl
def songkit_components():
    return [Component(kind="source", name="mine", config=Config, factory=f"{__name__}:Config", example=Config())]
"""
RECIPE = "format: 1\nplugins: [./mine.py]\ndata: {use: local/mine, workers: 2}\n"


@pytest.fixture
def mine(tmp_path):
    """Returns the recipe of a model with its plugin beside it; `mine.ran` appears when that is run."""
    before = set(sys.modules)
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    yield tmp_path / "recipe.yaml"
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refused(recipe, told, *overrides):
    with pytest.raises(RecipeError, match=told) as caught:
        load(recipe, overrides, registry=Registry([]))
    assert not (recipe.parent / "mine.ran").exists()
    return str(caught.value)


def test_a_file_that_a_recipe_names_is_run(mine):
    assert load(mine, registry=Registry([])).roles["data"].config.workers == 2
    assert (mine.parent / "mine.ran").exists()


def test_a_resolved_recipe_runs_no_file(mine):
    text = dump(load(mine, registry=Registry([])))
    (mine.parent / "mine.ran").unlink()
    mine.write_text(text)
    message = refused(mine, "a resolved recipe may come from somebody else")
    assert f"`plugins=[{mine.parent / 'mine.py'}]`" in message
    again = load(mine, [f"plugins=[{mine.parent / 'mine.py'}]"], registry=Registry([]))
    assert dump(again) == text


def test_a_parent_that_is_resolved_runs_no_file(mine):
    (mine.parent / "parent.yaml").write_text(dump(load(mine, registry=Registry([]))))
    (mine.parent / "mine.ran").unlink()
    mine.write_text("format: 1\ndefaults: [parent]\n")
    refused(mine, "a resolved recipe may come from somebody else")


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ("resolved.yaml", "lies in the folder of a run"),
        ("provenance.json", "lies in the folder of a run"),
        ("model.safetensors", "it came with the weights in"),
        ("model.ckpt", "it came with the weights in"),
        ("weights/model.safetensors", "it came with the weights in"),
    ],
)
def test_a_file_that_came_with_weights_is_not_run(mine, beside, told):
    (mine.parent / beside).parent.mkdir(exist_ok=True)
    (mine.parent / beside).touch()
    message = refused(mine, told)
    assert "recipe.yaml:2:11 (plugins)" in message
    assert load(mine, [f"plugins=[{mine.parent / 'mine.py'}]"], registry=Registry([])).roles


def test_a_link_does_not_hide_where_a_recipe_lies(mine, tmp_path_factory):
    (mine.parent / "model.safetensors").touch()
    link = tmp_path_factory.mktemp("elsewhere") / "recipe.yaml"
    link.symlink_to(mine)
    with pytest.raises(RecipeError, match="it came with the weights in"):
        load(link, registry=Registry([]))


@pytest.mark.parametrize(("value", "told"), [("[3]", "found 3"), ("{a: b}", "found a mapping"), ("./no.py", "no such")])
def test_what_is_no_python_file_is_refused(mine, value, told):
    mine.write_text(f"format: 1\nplugins: {value}\n")
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:2:\d+ \(plugins\): .*{told}"):
        load(mine, registry=Registry([]))
