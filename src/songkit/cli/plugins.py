"""`songkit plugins`: what is installed, what each component can be told, whether it keeps its promises; a new one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songkit._declared import options
from songkit._discovery import described
from songkit.errors import PluginError, did_you_mean
from songkit.plugin import KINDS
from songkit.registry import Entry, PluginRecord, Registry

if TYPE_CHECKING:
    from songkit.testing import Check

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list plugins and components", description="List what is installed.")
    listing.add_argument("--kind", help=f"components of one kind: {', '.join(KINDS)}")
    show = actions.add_parser("show", help="show a component", description="Show a component and its options.")
    show.add_argument("id", metavar="ID", help="such as levo2/music-codec")
    show.add_argument("--kind", help="which one, where several kinds share the id")
    check = actions.add_parser(
        "check",
        help="check components",
        description="Check whether components obey the laws of their kinds; the exit status is 1 if one does not.",
    )
    check.add_argument(
        "names", metavar="NAME", nargs="+", help="a plugin (levo2), a component (levo2/music-codec) or a .py file"
    )
    new = actions.add_parser(
        "new", help="start a plugin", description="Write a package with one small component, which works as it is."
    )
    new.add_argument("name", metavar="NAME", help="kebab-case; the distribution is called songkit-NAME")
    new.add_argument("--kind", required=True, help="what to start with, such as codec")
    new.add_argument("--out", metavar="DIR", help="folder to write (default: songkit-NAME)")
    for action in (listing, show, check, new):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Lists, shows, checks or writes."""
    kind = getattr(args, "kind", None)
    if kind is not None and kind not in KINDS:
        raise PluginError(f"unknown kind '{kind}'.{did_you_mean(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    return {"list": _list, "show": _show, "check": _check, "new": _new}[args.action](Registry.discover(), args)


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
            print(f"\n{record.name} is broken: {described(record.error)}")
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


def _check(registry: Registry, args: argparse.Namespace) -> int:
    found = [entry for name in args.names for entry in _named(registry, name)]
    entries = {(entry.component.kind, entry.id): entry for entry in found}
    from songkit.testing import checks_for  # the first import of torch, after every mistake that needs none

    rows = []
    for entry in entries.values():
        for check in checks_for(entry):
            rows.append(_result(check))
            if not args.json:
                print(f"{rows[-1]['status']:7}  {check.kind} {check.component}  {check.name}", flush=True)
                for line in rows[-1]["reason"].splitlines():
                    print(f"         {line}")
    counts = {status: [row["status"] for row in rows].count(status) for status in ("passed", "failed", "skipped")}
    if args.json:
        print(json.dumps({**counts, "checks": rows}, indent=2))
    else:
        print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if counts["failed"] else 0


def _named(registry: Registry, name: str) -> list[Entry]:
    """Returns the components of a plugin or of a python file, or those of one id."""
    if name.endswith(".py"):
        return Registry([]).with_local(Path(name).resolve()).list()
    for record in registry.plugins:
        if record.name == name.split("/")[0] and record.error is not None:
            raise PluginError(f"'{name}' cannot be checked: its plugin is broken: {described(record.error)}")
    entries = [entry for entry in registry.list() if name in (entry.id, entry.plugin.name)]
    if not entries and name not in [record.name for record in registry.plugins]:
        known = [entry.id for entry in registry.list()] if "/" in name else [record.name for record in registry.plugins]
        hint = did_you_mean(name, known)
        raise PluginError(f"'{name}' is not installed.{hint} `songkit plugins list` lists what is.")
    return entries


def _result(check: Check) -> dict[str, str]:
    """Runs a check; whatever it raises is its result."""
    status, reason = "skipped", check.skip
    if not check.skip:
        status = "passed"
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a component prints is no part of the table or the JSON
                check()
        except (Exception, SystemExit) as error:
            status, reason = "failed", f"{_failure(error)}\nwhat has to hold: {check.law}"
    row = {"kind": check.kind, "component": check.component, "check": check.name}
    return {**row, "status": status, "reason": reason}


def _failure(error: BaseException) -> str:
    """Returns what a check found, or where in the component an error came from."""
    told = described(error).removeprefix("CheckFailed: ")
    if type(error).__name__ == "CheckFailed" or error.__traceback__ is None:
        return told
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{told} ({frame.filename}:{frame.lineno})"


def _new(registry: Registry, args: argparse.Namespace) -> int:
    from songkit.scaffold import write_plugin

    for record in registry.plugins:
        if record.name == args.name:
            raise PluginError(
                f"a plugin '{args.name}' is installed already ({record.distribution} {record.version}). "
                "Choose another name."
            )
    folder = Path(args.out) if args.out else Path(f"songkit-{args.name}")
    files = write_plugin(args.kind, args.name, folder)
    if args.json:
        print(json.dumps({"id": f"{args.name}/{args.kind}", "files": [str(path) for path in files]}, indent=2))
        return 0
    print("\n".join(str(path) for path in files))
    print(f"\nNext: pip install -e {folder}, then songkit plugins check {args.name}")
    return 0


def _raise_unknown(registry: Registry, name: str) -> None:
    for record in registry.plugins:
        if record.error is not None and record.name == name.split("/")[0]:
            raise PluginError(
                f"'{name}' cannot be shown: its plugin is broken: {described(record.error)}"
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
        "error": described(record.error) if record.error else None,
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


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
