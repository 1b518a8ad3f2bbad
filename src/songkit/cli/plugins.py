"""`songkit plugins`: what is installed, and what each component can be told."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from songkit._declared import options
from songkit.errors import PluginError, did_you_mean
from songkit.plugin import KINDS
from songkit.registry import Entry, PluginRecord, Registry

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list plugins and components", description="List what is installed.")
    listing.add_argument("--kind", help=f"components of one kind: {', '.join(KINDS)}")
    listing.add_argument("--json", action="store_true", help="print JSON")
    show = actions.add_parser("show", help="show a component", description="Show a component and its options.")
    show.add_argument("id", metavar="ID", help="such as levo2/music-codec")
    show.add_argument("--kind", help="which one, where several kinds share the id")
    show.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Lists or shows."""
    if args.kind is not None and args.kind not in KINDS:
        hint = did_you_mean(args.kind, KINDS)
        raise PluginError(f"unknown kind '{args.kind}'.{hint} Kinds: {', '.join(KINDS)}.")
    registry = Registry.discover()
    return _list(registry, args) if args.action == "list" else _show(registry, args)


def _list(registry: Registry, args: argparse.Namespace) -> int:
    entries = registry.list(args.kind)
    if args.json:
        plugins = [_plugin_row(record) for record in registry.plugins]
        print(json.dumps({"plugins": plugins, "components": [_entry_row(entry) for entry in entries]}, indent=2))
        return 0
    components = [(e.component.kind, e.id, str(e.component.revision), e.component.summary()) for e in entries]
    _table([("KIND", "ID", "REV", "WHAT IT IS"), *components])
    print()
    loaded = [(p.name, p.distribution, p.version, _state(p)) for p in registry.plugins]
    _table([("PLUGIN", "DISTRIBUTION", "VERSION", "COMPONENTS"), *loaded])
    for record in registry.plugins:
        if record.error is not None:
            print(f"\n{record.name} is broken: {_error_text(record)}")
    return 0


def _show(registry: Registry, args: argparse.Namespace) -> int:
    kinds = [args.kind] if args.kind else [e.component.kind for e in registry.list() if e.id == args.id]
    entries = [registry.get(kind, args.id) for kind in kinds]
    if not entries:
        _raise_unknown(registry, args.id)
    if args.json:
        shown = [
            {**_entry_row(e), "options": [dataclasses.asdict(o) for o in options(e.component.config)]} for e in entries
        ]
        print(json.dumps(shown, indent=2))
        return 0
    for entry in entries:
        component, plugin = entry.component, entry.plugin
        print(f"{entry.id}: {component.kind}, revision {component.revision}, {plugin.distribution} {plugin.version}")
        print(f"{component.summary()}\nbuilt by {component.factory}\n")
        _table([("OPTION", "TYPE", "DEFAULT", "MEANING"), *(dataclasses.astuple(o) for o in options(component.config))])
    return 0


def _raise_unknown(registry: Registry, name: str) -> None:
    for record in registry.plugins:
        if record.error is not None and record.name == name.split("/")[0]:
            raise PluginError(
                f"'{name}' cannot be shown: its plugin is broken: {_error_text(record)}"
            ) from record.error
    hint = did_you_mean(name, [entry.id for entry in registry.list()])
    raise PluginError(f"unknown component '{name}'.{hint} `songkit plugins list` lists what is installed.")


def _state(record: PluginRecord) -> str:
    return "broken" if record.error is not None else str(len(record.components))


def _plugin_row(record: PluginRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "recipes": str(record.recipes) if record.recipes else None,
        "error": _error_text(record) if record.error else None,
    }


def _entry_row(entry: Entry) -> dict[str, Any]:
    component = entry.component
    return {
        "kind": component.kind,
        "id": entry.id,
        "revision": component.revision,
        "doc": component.summary(),
        "config": f"{component.config.__module__}:{component.config.__qualname__}",
        "factory": component.factory,
        "tags": sorted(component.tags),
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
    }


def _error_text(record: PluginRecord) -> str:
    return (
        str(record.error) if isinstance(record.error, PluginError) else f"{type(record.error).__name__}: {record.error}"
    )


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
