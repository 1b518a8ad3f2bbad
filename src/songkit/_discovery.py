"""Loading plugins one by one, so that whatever is wrong with one is kept in its record and stops nothing else.

pluggy's own loader skips a second plugin of one name without a word, stops at the first that cannot be imported and
ignores misspelt hooks; `installed_plugins` therefore walks the entry points itself.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import sys
from functools import cached_property
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from songkit import plugin as specifications
from songkit.errors import PluginError, did_you_mean
from songkit.plugin import KINDS, Component

__all__ = ["CORE", "PluginRecord", "described", "import_file", "installed_plugins", "record_of"]

CORE = "songkit"
"""Namespace of the core's own components."""

PREFIX = "songkit-"
"""Begins the name of every plugin's distribution."""

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
    requires: tuple[str, ...] = ()
    """What its distribution says it needs, one `Requires-Dist` each."""
    failure: BaseException | None = None
    """What loading it raised; then it has no components and no recipes."""

    @cached_property
    def error(self) -> BaseException | None:
        """Why it cannot be used: requirements that are not met, or else what loading it raised.

        Requirements are compared with what is installed when this is first asked for, because pip can leave a broken
        set behind, and because comparing all of them would slow every command.
        """
        unmet = list(dict.fromkeys(_unmet(self.requires, frozenset({""}), set())))
        if not unmet:
            return self.failure
        error = PluginError(f"{'; '.join(unmet)}. Install what it needs, or another version of {self.distribution}.")
        error.__cause__ = self.failure
        return error


def installed_plugins(wanted: set[str]) -> list[PluginRecord]:
    """Loads the plugins of the entry-point group `songkit`: the core and those that are wanted, or all if none is."""
    points = sorted(entry_points(group="songkit"), key=lambda point: point.name)
    records = [_load(point) for point in points if not wanted or point.name in (CORE, *wanted)]
    for name in sorted(wanted - {record.name for record in records}):
        hint = did_you_mean(name, [point.name for point in points])
        missing = PluginError(f"SONGKIT_PLUGINS names '{name}', which is not installed.{hint}")
        records.append(PluginRecord(name, f"{PREFIX}{name}", "", failure=missing))
    return records


def record_of(record: PluginRecord, module: object) -> PluginRecord:
    """Returns a record with what an imported plugin offers, or with what is wrong with it as `failure`."""
    manager = pluggy.PluginManager("songkit")
    manager.add_hookspecs(specifications)
    try:
        manager.register(module, name=record.name)
        _refuse_misspelt(manager, module)
        components = [component for part in manager.hook.songkit_components() for component in part]
        recipes = [Path(folder) for folder in manager.hook.songkit_recipes()]
        _check_offers(manager, components, recipes)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # kept in the record: the others load, and using this one raises it
        return dataclasses.replace(record, failure=error)
    return dataclasses.replace(record, components=tuple(components), recipes=next(iter(recipes), None))


def import_file(path: Path) -> ModuleType:
    """Imports a python file that is no package, once.

    Raises:
        PluginError: If it is missing or fails to import.
    """
    name = f"songkit_local_{re.sub(r'[^A-Za-z0-9_]', '_', str(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise PluginError(f"{path}: there is no such file. Check the path of the local plugin.")
    spec = importlib.util.spec_from_file_location(name, path)
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


def _load(point: EntryPoint) -> PluginRecord:
    try:
        metadata: Any = point.dist.metadata if point.dist else {}  # parsed anew by every access
        name, version = re.sub(r"[-_.]+", "-", metadata["Name"]).lower(), str(metadata["Version"])
        requires = tuple(metadata.get_all("Requires-Dist") or ())
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        damaged = PluginError(f"its metadata cannot be read ({described(error)}). Reinstall its distribution.")
        return PluginRecord(point.name, f"distribution of {point.value}", "", failure=damaged)
    record = PluginRecord(point.name, name, version, requires=requires)
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


def _unmet(requires: tuple[str, ...], extras: frozenset[str], seen: set[tuple[str, str]]) -> list[str]:
    """Returns what is wrong with requirements that hold under some extras; `""` is no extra."""
    if not requires:
        return []
    from packaging.requirements import InvalidRequirement, Requirement  # slow to import, and seldom needed

    problems = []
    for text in requires:
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            problems.append(f"its requirement '{text}' cannot be read")
            continue
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        asked = f"{needed.name}{needed.specifier}"
        try:
            found = distribution(needed.name)
            version = found.metadata["Version"]
        except PackageNotFoundError:
            problems.append(f"it needs {asked}, which is not installed")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            problems.append(f"it needs {asked}, but {needed.name} {version} is installed")
        new = frozenset(extra for extra in needed.extras if (needed.name, extra) not in seen)
        seen.update((needed.name, extra) for extra in new)
        if new:
            of_extras = tuple(line for line in found.requires or () if "extra" in line)
            problems += _unmet(of_extras, new, seen)
    return problems


# --- declarations --------------------------------------------------------------------------------------------


def _refuse_misspelt(manager: pluggy.PluginManager, module: object) -> None:
    """Refuses hooks that would never be called: of unknown names, or without the decorator."""
    faults = []
    for name in dir(module):
        is_hook = manager.parse_hookimpl_opts(module, name) is not None
        if is_hook and name not in HOOKS:
            faults.append(f"unknown hook '{name}'.{did_you_mean(name, HOOKS)}")
        if not is_hook and name.startswith("songkit_") and inspect.isfunction(getattr(module, name)):
            faults.append(f"'{name}' would never be called: put @hookimpl above it.{did_you_mean(name, HOOKS)}")
    if not faults and not any(manager.parse_hookimpl_opts(module, name) for name in HOOKS):
        faults.append("it has no hook, so it offers nothing.")
    if faults:
        raise PluginError(f"{' '.join(faults)} The hooks are {', '.join(HOOKS)}.")


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
        if (component.kind, component.name) in seen:
            raise PluginError(f"it declares the {component.kind} '{component.name}' twice")
        seen.add((component.kind, component.name))
