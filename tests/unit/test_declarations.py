"""Every installed component is declared as recipes, listings and documentation need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import entry_points

import pytest

from songkit.plugin import Component
from songkit.registry import Registry
from songkit.testing import declaration_problems, heavy_imports

REGISTRY = Registry.discover()


@dataclass(kw_only=True)
class GoodConfig:
    """A config."""

    width: int = 4
    """Of the thing."""
    shares: dict[str, float] = field(default_factory=lambda: {"a": 0.5})
    """Of its parts."""
    sizes: tuple[int, ...] = (1, 2)
    """Of its layers."""

    def validate(self):
        return [] if self.width > 0 else [f"width is {self.width}"]


@dataclass
class BadConfig:
    weights: set[int] = field(default_factory=set)


def component(**changes):
    values = {
        "kind": "codec",
        "name": "thing",
        "config": GoodConfig,
        "factory": "songkit.errors:did_you_mean",
        "example": GoodConfig(width=2, sizes=(3,)),
    }
    return Component(**{**values, **changes})


def test_every_plugin_is_loaded():
    assert [(record.name, record.error) for record in REGISTRY.plugins if record.error] == []
    assert len(REGISTRY.list()) >= 10


@pytest.mark.parametrize("entry", REGISTRY.list(), ids=lambda entry: f"{entry.component.kind}:{entry.id}")
def test_installed_components_are_declared_well(entry):
    assert declaration_problems(entry.component) == []


@pytest.mark.parametrize("point", entry_points(group="songkit"), ids=lambda point: point.name)
def test_declarations_import_nothing_slow(point):
    assert heavy_imports(point.module) == []


def test_a_good_declaration_has_no_problems():
    assert declaration_problems(component()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "codek"}, "the kind 'codek'"),
        ({"name": "Thing_1"}, "not kebab-case"),
        ({"revision": 0}, "the revision is 0"),
        ({"factory": "songkit.errors"}, "not `module:callable`"),
        ({"factory": "no_such_module:build"}, "not `module:callable`"),
        ({"example": 3}, "the example is a int"),
        ({"example": GoodConfig(width=0)}, "the example is not valid: width is 0"),
        ({"example": GoodConfig(shares={"b": 1.0})}, "comes back from a recipe as"),
        ({"config": BadConfig, "example": BadConfig()}, "can be given by position"),
        ({"config": BadConfig, "example": BadConfig()}, "no string below it"),
        ({"config": BadConfig, "example": BadConfig()}, "would shadow the key 'weights'"),
    ],
)
def test_each_fault_of_a_declaration_is_found(changes, told):
    assert any(told in problem for problem in declaration_problems(component(**changes)))


def test_a_slow_import_is_found():
    assert heavy_imports("numpy") == ["numpy"]
