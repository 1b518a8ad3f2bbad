"""Finds plugins and looks up what they offer. A broken plugin is listed with its error and stops nothing else.

pluggy's own loader skips a second plugin of one name without a word, stops at the first that cannot be imported and
ignores misspelt hooks; `Registry.discover` therefore walks the entry points itself.

Environment: `SONGKIT_PLUGINS` (comma-separated names) narrows what is loaded besides the core;
`SONGKIT_STRICT_PLUGINS=1` makes every problem with a plugin fatal.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from songkit import plugin as specifications
from songkit.errors import PluginError, did_you_mean
from songkit.plugin import KINDS, Component

__all__ = ["CORE", "LOCAL", "Entry", "PluginRecord", "Registry"]

CORE = "songkit"
"""Namespace of the core's own components."""

LOCAL = "local"
"""Namespace of components from files that a recipe names under `plugins`."""


@dataclasses.dataclass(frozen=True)
class PluginRecord:
    """One plugin, whether it could be loaded or not."""

    name: str
    """Namespace of its ids."""
    distribution: str
    """What pip calls it, or the path of a local file."""
    version: str
    components: tuple[Component, ...] = ()
    recipes: Path | None = None
    """Folder of the recipes that it ships."""
    error: BaseException | None = None
    """Why it could not be loaded; then it has no components and no recipes."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A component together with the plugin that offers it."""

    component: Component
    plugin: PluginRecord

    @property
    def id(self) -> str:
        """Returns `<plugin>/<name>`."""
        return f"{self.plugin.name}/{self.component.name}"


class Registry:
    """All plugins of one process. `main` makes it and passes it on; there is no global one."""

    def __init__(self, plugins: Iterable[PluginRecord]) -> None:
        self.plugins = tuple(sorted(plugins, key=lambda record: (record.name != CORE, record.name)))

    @classmethod
    def discover(cls) -> Registry:
        """Loads every installed plugin.

        Raises:
            PluginError: If `SONGKIT_STRICT_PLUGINS=1` and anything is wrong with any plugin.
        """
        wanted = {name.strip() for name in os.environ.get("SONGKIT_PLUGINS", "").split(",")} - {""}
        points = [(point, *_distribution(point)) for point in entry_points(group="songkit")]
        points.sort(key=lambda found: (found[0].name, found[1]))
        records = [_load(*found) for found in points if not wanted or found[0].name in (CORE, *wanted)]
        for name in sorted(wanted - {record.name for record in records}):
            hint = did_you_mean(name, [point.name for point, *_ in points])
            missing = PluginError(f"SONGKIT_PLUGINS names '{name}', which is not installed.{hint}")
            records.append(PluginRecord(name, f"songkit-{name}", "", error=missing))
        registry = cls(_refuse_duplicates(records))
        if os.environ.get("SONGKIT_STRICT_PLUGINS", "") not in ("", "0"):
            for record in registry.plugins:
                if record.error is not None:
                    raise PluginError(_broken(record)) from record.error
        return registry

    def with_modules(self, modules: Mapping[str, object], distribution: str = "") -> Registry:
        """Returns a registry that also has plugins that are already imported, by namespace.

        Raises:
            PluginError: If one of them declares something wrong.
        """
        records = [_record(name, distribution or f"songkit-{name}", "", module) for name, module in modules.items()]
        return self._extended(records)

    def with_local(self, path: Path) -> Registry:
        """Returns a registry that also has the components of a python file, as `local/<name>`.

        Raises:
            PluginError: If the file is missing, fails to import or declares something wrong.
        """
        try:
            module = _import_file(path)
        except Exception as error:
            raise PluginError(f"{path}: the local plugin cannot be imported: {_described(error)}") from error
        return self._extended([_record(LOCAL, str(path), "", module)])

    def get(self, kind: str, name: str) -> Entry:
        """Looks up a component by kind and id.

        Raises:
            PluginError: If there is none; the message says whether the id is of another kind, which id is nearest,
                or what keeps its plugin from loading.
        """
        found = self._by_id.get((kind, name))
        if found is not None:
            return found
        namespace = name.split("/")[0]
        for record in self.plugins:
            if record.name == namespace and record.error is not None:
                raise PluginError(f"{kind} '{name}' cannot be used: {_broken(record)}") from record.error
        other = [entry.component.kind for entry in self.list() if entry.id == name]
        if other:
            message = f"'{name}' is a {' and a '.join(other)}, not a {kind}."
        elif namespace not in [record.name for record in self.plugins] and "/" in name:
            names = [record.name for record in self.plugins]
            message = f"unknown {kind} '{name}': no plugin '{namespace}' is installed.{did_you_mean(namespace, names)}"
        else:
            message = f"unknown {kind} '{name}'."
        ids = [entry.id for entry in self.list(kind)]
        raise PluginError(f"{message}{_nearest_id(name, ids)} Known: {', '.join(ids) or 'none'}.")

    def list(self, kind: str | None = None) -> list[Entry]:
        """Returns the components of one kind, or all, in order of kind and id."""
        entries = [entry for entry in self._by_id.values() if kind in (None, entry.component.kind)]
        kinds = list(KINDS)
        return sorted(entries, key=lambda e: (kinds.index(e.component.kind), e.plugin.name != CORE, e.id))

    def recipes(self) -> dict[str, Path]:
        """Returns the shipped recipes by name.

        The core's are named by their path inside its folder, a plugin's by the plugin's name and that path.

        Raises:
            PluginError: If two recipes have the same name.
        """
        found: dict[str, Path] = {}
        for record in self.plugins:
            prefix = "" if record.name == CORE else f"{record.name}/"
            for path in sorted(record.recipes.rglob("*.yaml")) if record.recipes is not None else ():
                name = prefix + path.relative_to(record.recipes or path).with_suffix("").as_posix()
                if name in found:
                    raise PluginError(f"two recipes are named '{name}': {found[name]} and {path}. Rename one of them.")
                found[name] = path
        return found

    @cached_property
    def _by_id(self) -> dict[tuple[str, str], Entry]:
        entries = [Entry(component, record) for record in self.plugins for component in record.components]
        return {(entry.component.kind, entry.id): entry for entry in entries}

    def _extended(self, records: Iterable[PluginRecord]) -> Registry:
        together = _refuse_duplicates([*self.plugins, *records])
        for record in together[len(self.plugins) :]:
            if record.error is not None:
                raise PluginError(_broken(record)) from record.error
        return Registry(together)


# --- loading -------------------------------------------------------------------------------------------------


def _load(point: EntryPoint, distribution: str, version: str) -> PluginRecord:
    expected = CORE if distribution == "songkit" else distribution.removeprefix("songkit-")
    if point.name != expected or not (distribution == "songkit" or distribution.startswith("songkit-")):
        wrong = PluginError(
            f"its entry point is named '{point.name}', but a plugin's namespace is the name of its distribution "
            f"without 'songkit-', and '{distribution}' {_namespace_advice(distribution)}"
        )
        return PluginRecord(point.name, distribution, version, error=wrong)
    try:
        module = point.load()
    except (Exception, SystemExit) as error:  # kept in the record: the others load, and using this one raises it
        return PluginRecord(point.name, distribution, version, error=error)
    return _record(point.name, distribution, version, module)


def _record(name: str, distribution: str, version: str, module: object) -> PluginRecord:
    record = PluginRecord(name, distribution, version)
    manager = pluggy.PluginManager("songkit")
    manager.add_hookspecs(specifications)
    try:
        manager.register(module, name=name)
        _refuse_misspelt(manager, module)
        components = [component for part in manager.hook.songkit_components() for component in part]
        recipes = [Path(folder) for folder in manager.hook.songkit_recipes()]
        _check_components(components)
    except Exception as error:  # kept in the record, see `_load`
        return dataclasses.replace(record, error=error)
    return dataclasses.replace(record, components=tuple(components), recipes=next(iter(recipes), None))


def _refuse_misspelt(manager: pluggy.PluginManager, module: object) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = [name for name in vars(specifications) if name.startswith("songkit_")]
        unknown = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) and name not in hooks]
        hints = " ".join(f"unknown hook '{name}'.{did_you_mean(name, hooks)}" for name in unknown)
        raise PluginError(f"{hints} The hooks are {', '.join(hooks)}.") from error


def _check_components(components: list[Component]) -> None:
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


def _refuse_duplicates(records: list[PluginRecord]) -> list[PluginRecord]:
    """Keeps the first of two plugins that claim an id and gives the second an error that names both."""
    owners: dict[tuple[str, str, str], str] = {}
    kept = []
    for record in records:
        keys = [(component.kind, record.name, component.name) for component in record.components]
        taken = [key for key in keys if key in owners]
        if taken:
            kind, namespace, name = taken[0]
            clash = PluginError(
                f"the {kind} '{namespace}/{name}' is offered by both '{owners[taken[0]]}' and "
                f"'{record.distribution}'. Uninstall one of them."
            )
            record = dataclasses.replace(record, components=(), recipes=None, error=clash)
        owners.update((key, record.distribution) for key in keys if not taken)
        kept.append(record)
    return kept


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError("there is no such file")
    name = f"songkit_local_{re.sub(r'[^A-Za-z0-9_]', '_', str(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("it is not a python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the factory `f"{__name__}:build"` can be found
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# --- messages ------------------------------------------------------------------------------------------------


def _broken(record: PluginRecord) -> str:
    error = record.error or PluginError("no error is known")
    return f"the plugin '{record.name}' ({record.distribution} {record.version}) is broken: {_described(error)}"


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


def _distribution(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "an unknown distribution", ""
    metadata = point.dist.metadata  # parsed anew by every access to `dist.name` and `dist.version`
    return re.sub(r"[-_.]+", "-", metadata["Name"]).lower(), metadata["Version"]


def _namespace_advice(distribution: str) -> str:
    if distribution == CORE:
        return f"is the core: name it '{CORE}'."
    if distribution.startswith("songkit-"):
        return f"stands for '{distribution.removeprefix('songkit-')}': rename the entry point."
    return "does not start with 'songkit-': rename the distribution."


def _nearest_id(name: str, ids: list[str]) -> str:
    same_name = [known for known in ids if known.split("/")[1] == name.split("/")[-1]]
    return f" Did you mean '{same_name[0]}'?" if same_name else did_you_mean(name, ids)
