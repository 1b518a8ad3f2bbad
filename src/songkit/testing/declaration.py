"""Whether a component is declared as recipes, listings and documentation need it."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
from typing import Any

from songkit._declared import meanings
from songkit._structure import Structure
from songkit._typed import values_of
from songkit._yaml import Place, located
from songkit.errors import PluginError
from songkit.plugin import KINDS, Component
from songkit.registry import Registry

__all__ = ["declaration_problems", "heavy_imports"]

HEAVY = ("torch", "lightning", "torchmetrics", "numpy", "scipy", "matplotlib")
"""What a plugin's declarations may not import: each would slow every listing."""


def declaration_problems(component: Component) -> list[str]:
    """Returns what is wrong with a component's declaration; its code is not imported.

    A good one has a known kind, a kebab-case name, a summary, a factory whose module exists, a config that is a
    keyword-only dataclass of documented fields with types that recipes know, and a valid example of it that comes
    back unchanged when it is written as a recipe.
    """
    problems = []
    if component.kind not in KINDS:
        problems.append(f"the kind '{component.kind}' is none of {', '.join(KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", component.name):
        problems.append(f"the name '{component.name}' is not kebab-case")
    if not component.summary():
        problems.append("it has no `doc` and its config has no docstring: listings would say nothing")
    if component.revision < 1:
        problems.append(f"the revision is {component.revision}; the first is 1")
    module, _, attribute = component.factory.partition(":")
    if not attribute.isidentifier() or importlib.util.find_spec(module) is None:
        problems.append(f"the factory '{component.factory}' is not `module:callable` of a module that exists")
    problems += config_problems(component.config)
    if not isinstance(component.example, component.config):
        problems.append(f"the example is a {type(component.example).__name__}, not a {component.config.__name__}")
    elif not problems:
        problems += _example_problems(component.example)
    return problems


def config_problems(config: type[Any]) -> list[str]:
    """Returns what is wrong with a config dataclass and those nested in it."""
    if not dataclasses.is_dataclass(config):
        return [f"{config.__name__} is not a dataclass"]
    problems = []
    told = meanings(config)
    for field in dataclasses.fields(config):
        name = f"{config.__name__}.{field.name}"
        if not field.kw_only:
            problems.append(f"{name} can be given by position: use @dataclass(kw_only=True)")
        if not told.get(field.name):
            problems.append(f"{name} has no string below it that says what it means")
        if field.name in ("use", "weights"):
            problems.append(f"{name} would shadow the key '{field.name}' of every component in a recipe")
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if dataclasses.is_dataclass(default):
            problems += config_problems(type(default))
    return problems


def heavy_imports(module: str) -> list[str]:
    """Returns which of the slow packages a module imports, in a process of its own."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PluginError(f"{module} cannot be imported:\n{done.stderr}")
    return done.stdout.split()


def _example_problems(example: Any) -> list[str]:
    faults = list(example.validate()) if hasattr(example, "validate") else []
    if faults:
        return [f"the example is not valid: {fault}" for fault in faults]
    refs = [field.name for field in dataclasses.fields(example) if {"ref", "refs"} & set(field.metadata)]
    written = {name: value for name, value in values_of(example).items() if name not in refs}
    structure = Structure(Registry([]))
    read = structure.settings(type(example), located(written, Place(None, text="example")), "example")
    wrong = [f"{path}: {message}" for _, path, message in structure.problems if path.split(".")[1] not in refs]
    # Where a component is needed nothing is read: an example is no recipe and cannot hold one.
    if not wrong and read is not None and _without_paths(read) != _without_paths(example):  # paths become absolute
        wrong = [f"{example} comes back from a recipe as {read}"]
    return [f"recipes cannot express the example: {fault}" for fault in wrong]


def _without_paths(config: Any) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(config) if not field.metadata.get("path")]
    return {field.name: getattr(config, field.name) for field in fields}
