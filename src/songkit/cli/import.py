"""`songkit import`: other people's weights to songkit's, by the plugin that knows them."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from songkit.errors import OutputError, PluginError, did_you_mean
from songkit.registry import Registry

if TYPE_CHECKING:
    from songkit.importing import ImportReport

__all__ = ["add_arguments", "run"]

_DTYPES = ("bfloat16", "float16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("plugin", metavar="PLUGIN", help="which knows the format, such as levo2")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="the published file, or its folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write weights, a recipe and a report to")
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="which of the plugin's models it is, where tensors do not tell"
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="in which it is written (default: what the plugin advises)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Imports a checkpoint."""
    registry = Registry.discover()
    known = {record.name: record.importer for record in registry.plugins if record.importer}
    if args.plugin not in known:
        raise PluginError(
            f"no plugin '{args.plugin}' imports weights.{did_you_mean(args.plugin, known)} "
            f"Those that do: {', '.join(known) or 'none'}."
        )
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise OutputError(f"{args.out} already holds something and is left as it is. Choose another folder.")
    module, _, function = known[args.plugin].partition(":")
    report: ImportReport = getattr(importlib.import_module(module), function)(
        args.checkpoint, args.out, name=args.name, dtype=args.dtype, registry=registry
    )
    if args.json:
        print(json.dumps(report.record(), indent=2))
        return 0
    print(f"{args.checkpoint} is {report.model}: {len(report.used)} tensors used, {len(report.unused)} left out.")
    for name, reason in report.unused.items():
        print(f"  left out: {name}: {reason}")
    for name, reason in report.missing.items():
        print(f"  missing: {name}: {reason}")
    for file in report.files:
        print(args.out / file)
    return 0
