"""Named checks of components, chosen by kind and tags.

    for check in checks_for(registry.get("codec", "acme/codec")):
        if not check.skip:
            check()  # raises CheckFailed, or whatever the component raises

A check holds for some kinds, or for all. It never changes the process: it runs without a network, and leaves random
state, default dtype, threads and environment as they were even where the component does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from songkit.plugin import Component
from songkit.registry import Entry, PluginRecord
from songkit.testing.guard import guarded
from songkit.testing.subject import Subject

__all__ = ["LAWS", "TAGS", "Check", "CheckFailed", "Law", "checks_for", "law", "require"]

TAGS: Mapping[str, str] = {
    "needs-files": "the example names files that are not there; the checks that build it are skipped unless they are "
    "given another example",
    "slow": "using it takes long; under pytest the checks that build it carry the marker `slow`",
}
"""The tags of `Component.tags` that the kit knows."""


class CheckFailed(AssertionError):
    """A component breaks a law."""


@dataclass(frozen=True)
class Law:
    """What has to hold for every component of some kinds."""

    name: str
    sentence: str
    kinds: frozenset[str]
    """Empty for all kinds."""
    builds: bool
    """Whether the component's code is needed, or its declaration alone."""
    run: Callable[[Subject], None]

    def holds_for(self, kind: str) -> bool:
        """Tells whether components of a kind have to obey."""
        return not self.kinds or kind in self.kinds


@dataclass(frozen=True)
class Check:
    """A law and a component; a call raises if the component breaks it."""

    name: str
    """Unique among the checks of a component."""
    law: str
    """What has to hold, in a sentence."""
    kind: str
    component: str
    """The component's id."""
    run: Callable[[], None]
    skip: str = ""
    """Why the check cannot be run here; empty if it can."""
    slow: bool = False

    def __call__(self) -> None:
        """Runs the check.

        Raises:
            CheckFailed: If the component breaks the law; the message says how.
            Exception: Whatever the component raises when it is used as the law demands: a failure as well.
        """
        try:
            with guarded():
                self.run()
        except Exception as error:
            error.add_note(f"check '{self.name}' of the {self.kind} {self.component}: {self.law}")
            raise


LAWS: list[Law] = []
"""All laws, in the order in which they are checked; filled by `law` as `songkit.testing` is imported."""


def law(
    name: str, *kinds: str, builds: bool = True
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Declares a function as the check of a law; the first paragraph of its docstring is the law.

    Args:
        name: Kebab-case, unique for each kind.
        kinds: Which components have to obey; all if none is given.
        builds: Whether the component's code is needed.
    """

    def declare(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        sentence = " ".join((function.__doc__ or "").strip().split("\n\n")[0].split())
        LAWS.append(Law(name, sentence, frozenset(kinds), builds, function))
        return function

    return declare


def require(holds: bool, message: str) -> None:
    """Raises `CheckFailed` with a message that says what was found, unless something holds."""
    if not holds:
        raise CheckFailed(message)


def checks_for(component: Entry | Component, *, example: Any = None) -> list[Check]:
    """Returns the checks that apply to a component.

    Args:
        component: From a registry; a bare `Component` is taken as the only one of a plugin `local`.
        example: A config to build instead of the declared example, such as one with files that are there; or a
            function that returns it, called by the first check that needs it.
    """
    if isinstance(component, Component):
        component = Entry(component, PluginRecord("local", "local", "", components=(component,)))
    declared = component.component
    subject = Subject(component, declared.example if example is None else example)
    skip = ""
    if "needs-files" in declared.tags and example is None:
        skip = "its example names files that are not here; give `examples` with some that are"
    return [
        Check(
            name=found.name,
            law=found.sentence,
            kind=declared.kind,
            component=component.id,
            run=functools.partial(found.run, subject),
            skip=skip if found.builds else "",
            slow=found.builds and "slow" in declared.tags,
        )
        for found in laws_of(declared.kind)
    ]


def laws_of(kind: str) -> Iterable[Law]:
    """Returns the laws of a kind, those of all kinds first."""
    return [found for found in LAWS if found.holds_for(kind)]
