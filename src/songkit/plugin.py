"""All that a plugin has to know: `Component`, the kinds, `ref` and the hooks.

A plugin is a distribution named `songkit-<name>` with an entry point `<name>` in the group `songkit` that names a
light module. That module implements one or both hooks and imports neither torch nor the code of its components:

    from songkit.plugin import Component, hookimpl
    from songkit_levo2.configs import MusicCodecConfig

    @hookimpl
    def songkit_components() -> list[Component]:
        return [Component(kind="codec", name="music-codec", config=MusicCodecConfig,
                          factory="songkit_levo2.codec:build", example=MusicCodecConfig(dim=16), revision=1)]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pluggy

__all__ = [
    "KINDS",
    "Component",
    "hookimpl",
    "ref",
    "refs",
    "songkit_components",
    "songkit_importer",
    "songkit_recipes",
]

KINDS: Mapping[str, str] = {
    "backbone": "a causal sequence model over embeddings, [B, S, D] to [B, S, D]",
    "tokenizer": "audio to codes",
    "codec": "audio to codes and back; every codec is also a tokenizer",
    "conditioner": "a song request to the prefix that planners and refiners see",
    "planner": "conditions to the plan of a song: ids and hidden states",
    "refiner": "a plan to the codes of every track",
    "objective": "log-probabilities of preferred and rejected songs to a loss",
    "reward": "songs to scores, higher is better",
    "metric": "a set of songs to numbers with their unit and direction",
    "source": "a finite, indexable collection of songs",
    "task": "a training loop: what is trained, on which loss",
}
"""Every kind of component with what it turns into what."""

_hookspec = pluggy.HookspecMarker("songkit")
hookimpl = pluggy.HookimplMarker("songkit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """One thing that a recipe can `use`.

    Its id is `<plugin>/<name>`, where `<plugin>` is the plugin's entry-point name; the same id may stand for
    components of different kinds.
    """

    kind: str
    """One of `KINDS`."""
    name: str
    """Kebab-case, unique for its kind within the plugin."""
    config: type[Any]
    """A keyword-only dataclass from a module without torch; each field has a type, a default where one makes
    sense, and a string below it that states meaning and unit. An optional `validate(self) -> list[str]` returns
    every problem with the values."""
    factory: str
    """`"package.module:callable"`, imported only when the component is built. It is called with the config and,
    as keyword arguments, the built components of the config's `ref` fields."""
    example: Any
    """A tiny valid `config` that the conformance kit builds."""
    revision: int = 1
    """Rises whenever the same config and weights give other numbers."""
    doc: str = ""
    """One line for listings; the first line of the config's docstring when empty."""
    tags: frozenset[str] = frozenset()
    """Names of properties that choose which conformance checks apply."""

    def summary(self) -> str:
        """Returns the one-line description for listings."""
        return self.doc or (self.config.__doc__ or "").strip().split("\n")[0]


def ref(kind: str, *, optional: bool = False) -> Any:
    """Declares a config field that holds another component, chosen by `use` in the recipe.

    Args:
        kind: The kind of the nested component.
        optional: Whether the recipe may leave it out; the factory is then given `None`.

    Returns:
        A dataclass field whose value in a structured recipe is a `songkit.recipe.Node` (or `None`).
    """
    _check_kind(kind)
    return dataclasses.field(default=None, metadata={"ref": kind, "optional": optional})


def refs(kind: str) -> Any:
    """Declares a config field that holds a mapping from names to components of one kind."""
    _check_kind(kind)
    return dataclasses.field(default_factory=dict, metadata={"refs": kind})


@_hookspec
def songkit_components() -> list[Component]:
    """Returns the components that a plugin offers.

    Called once at discovery; it must not import torch or the components' code.
    """
    raise NotImplementedError  # a specification has no body; pluggy never calls it


@_hookspec
def songkit_recipes() -> Path:
    """Returns the folder of the recipes that a plugin ships; `<plugin>/<path>` names one of them."""
    raise NotImplementedError  # a specification has no body; pluggy never calls it


@_hookspec
def songkit_importer() -> str:
    """Returns what `songkit import <plugin>` calls to read weights that others published.

    `"package.module:callable"`, called as `importer(checkpoint, out, name=, dtype=, registry=)` with two paths, the
    name after `--as` or `None`, one of `songkit.importing.DTYPES` or `None`, and the registry. It writes weights and
    a recipe that names them into the folder `out` and returns a `songkit.importing.ImportReport`.
    """
    raise NotImplementedError


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind '{kind}'; the kinds are {', '.join(KINDS)}")
