"""What decides what a stage of a ladder makes: its identity, of which its key is the digest. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from songkit._resolved import leaves_of, walk
from songkit._typed import values_of
from songkit.lineage import inputs_of
from songkit.recipe import Recipe
from songkit.settings import SECTIONS

__all__ = ["READS", "identity_of", "key_of", "same_but_for_new_options"]

READS: Mapping[str, tuple[str, ...]] = {
    "train": ("trainer", "optimizer"),
    "prepare": ("prepare",),
    "mine": ("generate", "mine"),
    "merge": ("merge",),
    "semi-online": ("trainer", "optimizer", "generate", "mine", "semi_online"),
    "model": ("generate",),
}
"""The sections of a recipe that decide what a verb makes; the others may change without making it anew."""

_NO_MATTER = (
    "trainer.validate_",
    "trainer.checkpoint_",
    "trainer.log_every",
    "trainer.workers",
    "trainer.devices",
    "trainer.strategy",
    "trainer.activation_checkpointing",
    "prepare.workers",
    "generate.device",
    "mine.workers",
    "mine.batch",
    "merge.sweep.",
)
"""Beginnings of key paths in those sections that change how something is made, never what (but for rounding)."""


def identity_of(verb: str, recipe: Recipe) -> dict[str, Any]:
    """Returns all that decides what a verb makes of a recipe, by key path."""
    left_out = {"format", "paths", "vars", "plugins", "stages", "_components", *SECTIONS} - set(READS[verb])
    values = dict(leaves_of({key: value for key, value in recipe.resolved.items() if key not in left_out}, ""))
    sections = tuple(f"{section}." for section in READS[verb])
    for key in [key for key in values if key.startswith(sections)]:
        # The folders of merged models: the digests of their weights are below.
        if key.startswith(_NO_MATTER) or (key.startswith("merge.models.") and key.endswith(".run")):
            del values[key]
    for path, component in recipe.resolved["_components"].items():
        values[f"{path} (revision)"] = component["revision"]
    values.update({source.key: f"sha256:{source.sha256}" for source in inputs_of(recipe)})
    return {"verb": verb, **values}


def key_of(identity: Mapping[str, Any]) -> str:
    """Returns the digest of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def same_but_for_new_options(before: Mapping[str, Any], now: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether two identities differ in nothing but options that the earlier one did not know, at their defaults.

    So a newer version that brings an option makes nothing anew: a default does what was done without the option. What a
    component does otherwise than before raises its revision, which is part of an identity.
    """
    if any(key not in now or now[key] != value for key, value in before.items()):
        return False
    defaults = _defaults(recipe)
    return bool(before) and all(key in defaults and defaults[key] == now[key] for key in now.keys() - before.keys())


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """Returns the defaults of all options of a recipe's components and sections, by key path."""
    found: dict[str, Any] = {}
    named = {**recipe.roles, **{f"metrics.{name}": node for name, node in recipe.metrics.items()}}
    configs = {where: node.config for where, node in walk(named)}
    for where, config in {**configs, **{section: getattr(recipe, section) for section in SECTIONS}}.items():
        found.update(_defaults_of(config, where))
    return found


def _defaults_of(config: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yields the defaults of a config's options, and of configs that it has by name, as a mining has strategies."""
    for option in dataclasses.fields(config):
        path, value, default = f"{where}.{option.name}", getattr(config, option.name), option.default
        if option.default_factory is not dataclasses.MISSING:
            default = option.default_factory()
        if default is not dataclasses.MISSING:
            yield from leaves_of(values_of(default), path)
        for name, child in value.items() if isinstance(value, Mapping) else ():
            if dataclasses.is_dataclass(child):
                yield from _defaults_of(child, f"{path}.{name}")
