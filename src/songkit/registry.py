"""Finds plugins and looks up what they offer. A broken plugin is listed with its error and stops nothing else.

Environment: `SONGKIT_PLUGINS` (comma-separated names, such as `levo2,synth`; `songkit` alone for none) narrows what is
loaded besides the core. `SONGKIT_STRICT_PLUGINS=1` makes every problem with a plugin fatal, as continuous integration
wants it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """All plugins of one process. `main` makes it and passes it on; there is no global one.

    A plugin is loaded when something of its namespace is first asked for: an id tells which one that is, so that a
    recipe costs the time of its own plugins and not of all that are installed.
    """

    def __init__(
        self,
        plugins: Iterable[PluginRecord],
        pending: Mapping[str, Callable[[], list[PluginRecord]]] | None = None,
    ) -> None:
        """Takes records, and by namespace what makes more of them."""
        self._records: dict[str, list[PluginRecord]] = {}
        for record in plugins:
            self._records.setdefault(record.name, []).append(record)
        self._pending = dict(pending or {})

    @classmethod
    def discover(cls) -> Registry:
        """Finds every installed plugin.

        Raises:
            PluginError: If `SONGKIT_STRICT_PLUGINS=1` and anything is wrong with any plugin.
        """
        wanted = {name.strip() for name in os.environ.get("SONGKIT_PLUGINS", "").split(",")} - {""}
        registry = cls([], installed_plugins(wanted))
        if os.environ.get("SONGKIT_STRICT_PLUGINS", "") not in ("", "0"):
            broken = [record for record in registry.plugins if record.error is not None]
            if broken:
                told = "\n".join(_broken(record) for record in broken)
                raise PluginError(f"{told}\nSONGKIT_STRICT_PLUGINS makes this fatal.") from broken[0].error
        return registry

    @property
    def plugins(self) -> tuple[PluginRecord, ...]:
        """All plugins, the core first."""
        names = sorted({*self._records, *self._pending}, key=lambda name: (name != CORE, name))
        return tuple(record for name in names for record in self._named(name))

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
        if any(record.distribution == str(path) for record in self._named(LOCAL)):
            return self
        return self._extended([record_of(PluginRecord(LOCAL, str(path), ""), import_file(path))])

    def get(self, kind: str, name: str) -> Entry:
        """Looks up a component by kind and id.

        Raises:
            PluginError: If there is none; the message says whether the id is of another kind, which id is nearest,
                or what keeps its plugin from loading.
        """
        namespace = name.split("/")[0]
        records = self._named(namespace)
        for entry in _entries(records):
            if (entry.component.kind, entry.id) == (kind, name):
                return entry
        for record in records:
            if record.failure is not None:
                raise PluginError(f"{kind} '{name}' cannot be used: {_broken(record)}") from record.error
        other = [entry.component.kind for entry in self.list() if entry.id == name]
        if other:
            message = f"'{name}' is a {' and a '.join(other)}, not a {kind}."
        elif not records and "/" in name:
            names = [record.name for record in self.plugins]
            message = f"unknown {kind} '{name}': no plugin '{namespace}' is installed.{did_you_mean(namespace, names)}"
        else:
            message = f"unknown {kind} '{name}'."
        ids = [entry.id for entry in self.list(kind)]
        raise PluginError(f"{message}{_nearest_id(name, ids)} Known: {', '.join(ids) or 'none'}.")

    def list(self, kind: str | None = None) -> list[Entry]:
        """Returns the components of one kind, or all, in order of kind and id."""
        entries = [entry for entry in _entries(self.plugins) if kind in (None, entry.component.kind)]
        kinds = list(KINDS)
        return sorted(entries, key=lambda e: (kinds.index(e.component.kind), e.plugin.name != CORE, e.id))

    def recipes(self) -> dict[str, Path]:
        """Returns the shipped recipes by name.

        The core's are named by their path inside its folder, a plugin's by the plugin's name and that path.

        Raises:
            PluginError: If two recipes have the same name.
        """
        return _recipes(self.plugins)

    def recipe(self, name: str) -> Path | None:
        """Returns the file of a shipped recipe, or `None`; loads no other plugin than the one that `name` begins with.

        Raises:
            PluginError: If two recipes have the same name.
        """
        namespaces = dict.fromkeys((CORE, name.split("/")[0]))
        return _recipes(record for namespace in namespaces for record in self._named(namespace)).get(name)

    def _named(self, namespace: str) -> Sequence[PluginRecord]:
        """Returns the plugins of a namespace, which are loaded now if they are not yet."""
        if namespace in self._pending:
            loaded = self._pending[namespace]()
            self._records[namespace] = _refuse_duplicates([*loaded, *self._records.get(namespace, ())])
            del self._pending[namespace]
        return self._records.get(namespace, [])

    def _extended(self, records: Iterable[PluginRecord]) -> Registry:
        more = Registry([record for known in self._records.values() for record in known], self._pending)
        for record in records:
            together = _refuse_duplicates([*more._named(record.name), record])
            if together[-1].error is not None:
                raise PluginError(_broken(together[-1])) from together[-1].error
            more._records[record.name] = together
        return more


def _entries(records: Iterable[PluginRecord]) -> list[Entry]:
    return [Entry(component, record) for record in records for component in record.components]


def _recipes(records: Iterable[PluginRecord]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for record in records:
        prefix = "" if record.name == CORE else f"{record.name}/"
        for path in sorted(record.recipes.rglob("*.yaml")) if record.recipes is not None else ():
            name = prefix + path.relative_to(record.recipes or path).with_suffix("").as_posix()
            if name in found:
                raise PluginError(f"two recipes are named '{name}': {found[name]} and {path}. Rename one of them.")
            found[name] = path
    return found


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
