"""A component under test: how it is built from its example, with parts of other kinds that fit it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from songkit.build import build
from songkit.errors import PluginError
from songkit.plugin import Component
from songkit.recipe import Node
from songkit.registry import Entry, PluginRecord
from songkit.settings import OptimizerSettings, TrainerSettings
from songkit.testing.exercise import exercise
from songkit.testing.guard import guarded, process_state
from songkit.testing.preferences import TokenisedPairs
from songkit.testing.standins import ModelConfig, SongsConfig, TokenisedSongs, stand_in

__all__ = ["Subject"]

_GIVEN = ("settings", "optimizer", "seed")
"""What the trainer gives every task besides the components of the recipe's roles."""


class Subject:
    """A component, and what the checks need to try it."""

    def __init__(self, entry: Entry, example: Any) -> None:
        self.entry, self.component, self._example = entry, entry.component, example

    @cached_property
    def example(self) -> Any:
        """The config that is built."""
        return self._example() if callable(self._example) else self._example

    @property
    def kind(self) -> str:
        """The component's kind."""
        return self.component.kind

    def factory(self) -> Callable[..., Any]:
        """Imports what makes the component.

        Raises:
            PluginError: If it cannot be imported.
        """
        return self._node(self.entry, self.example, ()).load_factory()

    def parts(self) -> list[str]:
        """Returns the names of the parts that its config declares."""
        return [field.name for field in dataclasses.fields(self.example) if _part(field)]

    def build(self, seed: int = 0) -> Any:
        """Builds the component from its example, as a recipe would, with small parts of other kinds.

        A part is the example of a component of the same plugin, or else a stand-in of the kit: `songkit/transformer`
        of width 16 for a backbone, models over 32 ids at 25 frames a second for the rest.
        """
        node = self._node(self.entry, self.example, ())
        built = build(node, seed=seed, extra=self._roles() if self.kind == "task" else None)
        if self.kind not in ("task", "metric") and hasattr(built, "eval"):
            built.eval()
        return built

    @cached_property
    def observed(self) -> tuple[dict[str, tuple[str, str]], list[str]]:
        """What building and using the component changes in the process, by name, and where it tried to connect to.

        Each change is (before, after). The component is used once for all the checks that ask.
        """
        self.factory()  # importing may set what it likes up: that happens once, wherever the package is used
        with guarded() as attempts:
            before = process_state()
            try:
                exercise(self.kind, self.build())
            except PermissionError:
                if not attempts:
                    raise
            after = process_state()
        return {name: (value, after[name]) for name, value in before.items() if after[name] != value}, attempts

    def _node(self, entry: Entry, example: Any, above: tuple[Component, ...]) -> Node:
        component = entry.component
        children: dict[str, Node | Mapping[str, Node]] = {}
        for field in dataclasses.fields(example) if dataclasses.is_dataclass(example) else ():
            kind = _part(field)
            if kind and "refs" in field.metadata:
                children[field.name] = {"one": self._child(kind, (*above, component))}
            elif kind and not field.metadata["optional"]:
                children[field.name] = self._child(kind, (*above, component))
        return Node(
            kind=component.kind,
            id=entry.id,
            config=example,
            weights=None,
            children=children,
            revision=component.revision,
            factory=component.factory,
            distribution=entry.plugin.distribution,
            version=entry.plugin.version,
            origin="the conformance kit",
        )

    def _child(self, kind: str, above: tuple[Component, ...], fits: ModelConfig | None = None) -> Node:
        """Returns a small component of a kind: one of the same plugin, or else one of the kit, which `fits`."""
        own = [part for part in self.entry.plugin.components if part.kind == kind and part not in above]
        own = [part for part in own if "needs-files" not in part.tags]
        if own:
            return self._node(Entry(own[0], self.entry.plugin), own[0].example, above)
        component = stand_in(kind)
        if component is None:
            raise PluginError(f"{self.entry.id} has a part of the kind '{kind}', and the kit has none to give it yet")
        plugin = PluginRecord("songkit", "songkit", "", components=(component,))
        return self._node(Entry(component, plugin), fits or component.example, above)

    def _roles(self) -> dict[str, Any]:
        """Returns what a task is given besides its config: components that fit together, and settings."""
        wanted = _keywords(self.factory())
        parts: dict[str, Any] = {}
        fits = ModelConfig()
        for role in ("planner", "refiner", "codec", "tokenizer", "conditioner"):
            needed = role in wanted or (role == "planner" and "refiner" in wanted)
            if not needed or (role == "tokenizer" and "codec" in parts):
                continue
            parts[role] = build(self._child(role, (self.component,), fits))
            if role == "planner":
                fits = ModelConfig.of(parts[role].width, parts[role].layout)
        if "data" in wanted:
            tokenizer = parts.get("codec") or parts.get("tokenizer") or build(self._child("codec", (), fits))
            songs = TokenisedPairs if "objective" in wanted else TokenisedSongs
            parts["data"] = songs(SongsConfig(sample_rate=tokenizer.sample_rate), tokenizer)
        for role in {"objective", "reward"} & wanted:
            parts[role] = build(self._child(role, (self.component,)))
        settings = TrainerSettings(max_steps=2, batch_size=2, validate_batches=1, accelerator="cpu")
        given = {"settings": settings, "optimizer": OptimizerSettings(warmup_steps=0), "seed": 0}
        return {name: value for name, value in (*parts.items(), *given.items()) if name in wanted}


def _part(field: dataclasses.Field[Any]) -> str:
    """Returns the kind of the part that a config's field holds; empty if it is a plain option."""
    return str(field.metadata.get("ref") or field.metadata.get("refs") or "")


def _keywords(factory: Callable[..., Any]) -> set[str]:
    """Returns the keyword arguments of a factory; those that a class hands on to its bases by `**parts` included."""
    found: set[str] = set()
    functions = [factory]
    if isinstance(factory, type):
        functions = [vars(cls)["__init__"] for cls in factory.__mro__ if "__init__" in vars(cls)]
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        found |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
