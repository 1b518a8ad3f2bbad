"""Loading plugins one by one, so that whatever is wrong with one is kept in its record and stops nothing else.

pluggy's own loader skips a second plugin of one name without a word, stops at the first that cannot be imported and
ignores misspelt hooks; `installed_plugins` therefore walks the entry points itself.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from songkit import plugin as specifications
from songkit.errors import PluginError, did_you_mean, shortened
from songkit.plugin import KINDS, Component

__all__ = ["CORE", "PluginRecord", "described", "import_file", "installed_plugins", "record_of", "unmet_requirements"]

CORE = "songkit"
"""Namespace of the core's own components."""

PREFIX = "songkit-"
"""Begins the name of every plugin's distribution."""

_NO_EXTRA = frozenset({""})

HOOKS = tuple(name for name in vars(specifications) if name.startswith("songkit_"))


@dataclasses.dataclass(frozen=True)
class PluginRecord:
    """One plugin, whether it can be used or not."""

    name: str
    """Namespace of its ids."""
    distribution: str
    """What pip calls it, or the path of a local file."""
    version: str
    components: tuple[Component, ...] = ()
    recipes: Path | None = None
    """Folder of the recipes that it ships."""
    importer: str | None = None
    """`"package.module:callable"` that reads weights of others."""
    failure: BaseException | None = None
    """What loading it raised; then it has no components and no recipes."""

    @functools.cached_property
    def error(self) -> BaseException | None:
        """Why it cannot be used: requirements that are not met, or else what loading it raised.

        Found out when first asked for, because comparing the requirements of all plugins would slow every command.
        """
        unmet = unmet_requirements(self.distribution)
        if not unmet:
            return self.failure
        error = PluginError(f"{unmet} Install what it needs, or another version of {self.distribution}.")
        error.__cause__ = self.failure
        return error


def installed_plugins(wanted: set[str]) -> dict[str, Callable[[], list[PluginRecord]]]:
    """Finds the plugins of the entry-point group `songkit`: the core and those that are wanted, or all if none is.

    Returns:
        By namespace, what loads the plugins that claim it.
    """
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group="songkit"):
        points.setdefault(point.name, []).append(point)
    loads: dict[str, Callable[[], list[PluginRecord]]] = {
        name: functools.partial(_load_all, claims)
        for name, claims in points.items()
        if not wanted or name in (CORE, *wanted)
    }
    for name in wanted - points.keys():
        hint = did_you_mean(name, points)
        missing = PluginError(f"SONGKIT_PLUGINS names '{name}', which is not installed.{hint}")
        loads[name] = functools.partial(list, [PluginRecord(name, f"{PREFIX}{name}", "", failure=missing)])
    return loads


def unmet_requirements(name: str) -> str:
    """Returns which requirements of a distribution what is installed does not meet, in a sentence; empty if it does.

    pip checks them when it installs, and can leave a broken set behind later. What is no distribution needs nothing.
    """
    try:
        requires = _metadata(distribution(name)).get("Requires-Dist", ())
    except PackageNotFoundError:
        return ""
    problems = list(dict.fromkeys(problem for text in requires for problem in _unmet(text)))
    return f"{'; '.join(problems)}." if problems else ""


def record_of(record: PluginRecord, module: object) -> PluginRecord:
    """Returns a record with what an imported plugin offers, or with what is wrong with it as `failure`."""
    manager = _manager()
    try:
        _refuse_misspelt(module)
        manager.register(module, name=record.name)
        components = [component for part in manager.hook.songkit_components() for component in _listed(part)]
        recipes = [Path(folder) for folder in manager.hook.songkit_recipes()]
        importers = list(manager.hook.songkit_importer())
        _check_offers(manager, components, recipes)
        _check_importers(importers)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # kept in the record: the others load, and using this one raises it
        return dataclasses.replace(record, failure=error)
    finally:
        if manager.is_registered(module):
            manager.unregister(module)
    return dataclasses.replace(
        record,
        components=tuple(components),
        recipes=next(iter(recipes), None),
        importer=next(iter(importers), None),
    )


def import_file(path: Path) -> ModuleType:
    """Imports a python file that is no package, once.

    Raises:
        PluginError: If it is missing or fails to import.
    """
    name = f"songkit_local_{re.sub(r'[^A-Za-z0-9_]', '_', str(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    if not os.path.isfile(path):  # which says no to names that `Path.is_file` raises at
        raise PluginError(f"{shortened(str(path))}: there is no such file. Check the path of the local plugin.")
    spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None  # not .so
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: a local plugin is a python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the factory `f"{__name__}:build"` can be found
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"{path}: the local plugin cannot be imported: {described(error)}") from error
    return module


def described(error: BaseException) -> str:
    """Returns an error in words, with its type where that says something."""
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


# --- entry points --------------------------------------------------------------------------------------------


@functools.cache
def _manager() -> pluggy.PluginManager:
    """Returns what calls hooks. It holds one plugin at a time; making it anew for each would take most of the time."""
    manager = pluggy.PluginManager("songkit")
    manager.add_hookspecs(specifications)
    return manager


def _load_all(points: list[EntryPoint]) -> list[PluginRecord]:
    return [_load(point) for point in points]


def _load(point: EntryPoint) -> PluginRecord:
    metadata = _metadata(point.dist) if point.dist else {}
    if not metadata.keys() >= {"Name", "Version"}:
        damaged = PluginError("its metadata has no name or no version. Reinstall its distribution.")
        return PluginRecord(point.name, f"distribution of {point.value}", "", failure=damaged)
    name, version = re.sub(r"[-_.]+", "-", metadata["Name"][0]).lower(), metadata["Version"][0]
    record = PluginRecord(point.name, name, version)
    expected = CORE if name == CORE else name.removeprefix(PREFIX)
    if point.name != expected or not (name == CORE or name.startswith(PREFIX)):
        owner = CORE if point.name == CORE else f"{PREFIX}{point.name}"
        wrong = PluginError(
            f"the distribution '{name}' names its entry point '{point.name}', which belongs to '{owner}': a plugin's "
            f"namespace is the name of its distribution without '{PREFIX}'. {_namespace_advice(name, expected)}"
        )
        return dataclasses.replace(record, failure=wrong)
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # kept in the record: the others load, and using this one raises it
        return dataclasses.replace(record, failure=error)
    return record_of(record, module)


def _namespace_advice(name: str, expected: str) -> str:
    if name == CORE or name.startswith(PREFIX):
        return f"Rename the entry point to '{expected}'."
    return f"Rename the distribution to begin with '{PREFIX}'."


def _metadata(found: Distribution) -> dict[str, list[str]]:
    """Returns the headers of a distribution's metadata; much quicker than its `metadata`, which parses all of it."""
    headers: dict[str, list[str]] = {}
    try:
        text = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    except UnicodeDecodeError:
        text = ""  # damaged: it has no name, which is what is told
    for line in text.splitlines():
        if not line:
            break  # the description follows
        key, separator, value = line.partition(": ")
        if separator:
            headers.setdefault(key, []).append(value)
    return headers


@functools.cache
def _unmet(text: str, extras: frozenset[str] = _NO_EXTRA) -> tuple[str, ...]:
    """Returns what is wrong with one requirement, and with those of the extras that it names.

    Args:
        text: A `Requires-Dist`.
        extras: The extras that were asked for, where the requirement is one of an extra; they lead no further.
    """
    from packaging.requirements import InvalidRequirement, Requirement  # slow to import, and seldom needed

    try:
        needed = Requirement(text)
    except InvalidRequirement:
        return (f"its requirement '{text}' cannot be read",)
    if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
        return ()
    asked = f"{needed.name}{needed.specifier}"
    try:
        metadata = _metadata(distribution(needed.name))
    except PackageNotFoundError:
        return (f"it needs {asked}, which is not installed",)
    version = metadata.get("Version", ["unknown"])[0]
    problems = []
    if needed.specifier and not needed.specifier.contains(version, prereleases=True):
        problems.append(f"it needs {asked}, but {needed.name} {version} is installed")
    if needed.extras and extras == _NO_EXTRA:
        of_extras = [line for line in metadata.get("Requires-Dist", ()) if "extra" in line]
        problems += [problem for line in of_extras for problem in _unmet(line, frozenset(needed.extras))]
    return tuple(problems)


# --- declarations --------------------------------------------------------------------------------------------


def _refuse_misspelt(module: object) -> None:
    """Refuses hooks that would never be called: of unknown names, or without the decorator."""
    faults, hooks = [], 0
    for name in dir(module):
        function = getattr(module, name, None)
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            continue
        is_hook = hasattr(function, "songkit_impl")  # what pluggy's decorator leaves
        hooks += is_hook
        if is_hook and name not in HOOKS:
            faults.append(f"unknown hook '{name}'.{did_you_mean(name, HOOKS)}")
        if not is_hook and name.startswith("songkit_"):
            faults.append(f"'{name}' would never be called: put @hookimpl above it.{did_you_mean(name, HOOKS)}")
    if not hooks and not faults:
        faults.append("it has no hook, so it offers nothing.")
    if faults:
        raise PluginError(f"{' '.join(faults)} The hooks are {', '.join(HOOKS)}.")


def _listed(components: object) -> list[Component]:
    if not isinstance(components, list | tuple):  # a generator might not end
        raise PluginError(f"songkit_components returned a {type(components).__name__}; expected a list of Component")
    return list(components)


def _check_offers(manager: pluggy.PluginManager, components: list[Component], recipes: list[Path]) -> None:
    for name, offered in (("songkit_components", components), ("songkit_recipes", recipes)):
        if getattr(manager.hook, name).get_hookimpls() and not offered:
            raise PluginError(f"its hook {name} returns nothing. Return what it offers, or delete the hook.")
    for folder in recipes:
        if not folder.is_dir():
            raise PluginError(f"songkit_recipes returned {folder}, which is no folder. Is it packaged with the code?")
    seen: set[tuple[str, str]] = set()
    for component in components:
        if not isinstance(component, Component):
            raise PluginError(f"songkit_components returned {component!r}; expected a list of Component")
        if component.kind not in KINDS:
            hint = did_you_mean(component.kind, KINDS)
            raise PluginError(f"component '{component.name}' has the unknown kind '{component.kind}'.{hint}")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", component.name):
            raise PluginError(f"component name '{component.name}' is not kebab-case, such as 'music-codec'")
        if not dataclasses.is_dataclass(component.config):
            raise PluginError(f"the config of '{component.name}' is {component.config!r}; expected a dataclass")
        if (component.kind, component.name) in seen:
            raise PluginError(f"it declares the {component.kind} '{component.name}' twice")
        seen.add((component.kind, component.name))


def _check_importers(importers: list[object]) -> None:
    for importer in importers:
        if not isinstance(importer, str) or not re.fullmatch(r"[\w.]+:\w+", importer):
            raise PluginError(f"songkit_importer returned {importer!r}; expected 'package.module:callable'")
