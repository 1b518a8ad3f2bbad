"""Finds plugins and looks up what they offer. A broken plugin is listed with its error and stops nothing else.

Environment: `SONGKIT_PLUGINS` (comma-separated names, such as `levo2,synth`; `songkit` alone for none) narrows what is
loaded besides the core. `SONGKIT_STRICT_PLUGINS=1` makes every problem with a plugin fatal, as continuous integration
wants it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from songkit._discovery import CORE, PluginRecord, described, import_file, installed_plugins, record_of
from songkit.errors import PluginError, did_you_mean
from songkit.plugin import KINDS, Component

__all__ = ["CORE", "LOCAL", "Entry", "PluginRecord", "Registry"]

LOCAL = "local"
"""Namespace of components from files that a recipe names under `plugins`."""


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
        registry = cls(_refuse_duplicates(installed_plugins(wanted)))
        if os.environ.get("SONGKIT_STRICT_PLUGINS", "") not in ("", "0"):
            broken = [record for record in registry.plugins if record.error is not None]
            if broken:
                told = "\n".join(_broken(record) for record in broken)
                raise PluginError(f"{told}\nSONGKIT_STRICT_PLUGINS makes this fatal.") from broken[0].error
        return registry

    def with_modules(self, modules: Mapping[str, object], distribution: str = "") -> Registry:
        """Returns a registry that also has plugins that are already imported, by namespace.

        Raises:
            PluginError: If one of them declares something wrong.
        """
        named = {name: PluginRecord(name, distribution or f"songkit-{name}", "") for name in modules}
        return self._extended(record_of(named[name], module) for name, module in modules.items())

    def with_local(self, path: Path) -> Registry:
        """Returns a registry that also has the components of a python file, as `local/<name>`.

        Raises:
            PluginError: If the file is missing, fails to import or declares something wrong.
        """
        if any(record.name == LOCAL and record.distribution == str(path) for record in self.plugins):
            return self
        return self._extended([record_of(PluginRecord(LOCAL, str(path), ""), import_file(path))])

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
            if record.name == namespace and record.failure is not None:
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
            record = dataclasses.replace(record, components=(), recipes=None, failure=clash)
        owners.update((key, record.distribution) for key in keys if not taken)
        kept.append(record)
    return kept


def _broken(record: PluginRecord) -> str:
    error = record.error or PluginError("no error is known")
    source = f"{record.distribution} {record.version}".strip()
    return f"the plugin '{record.name}' ({source}) is broken: {described(error)}"


def _nearest_id(name: str, ids: list[str]) -> str:
    same_name = [known for known in ids if known.split("/")[1] == name.split("/")[-1]]
    return f" Did you mean '{same_name[0]}'?" if same_name else did_you_mean(name, ids)
