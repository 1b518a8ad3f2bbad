"""Writes docs/reference/components.md and commands.md from the program; `--check` only tells if they are up to date.

Run it in an environment where every plugin of this repository is installed: `python docs/generate.py`.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

from songkit.cli import COMMANDS
from songkit.plugin import KINDS
from songkit.registry import Entry, Registry

REFERENCE = Path(__file__).parent / "reference"

PLUGINS = ("songkit", "levo2", "mini", "synth", "judges")
"""The plugins of this repository, by namespace; others that happen to be installed have no place in its docs."""

COMPONENTS_HEADER = """\
# Components

<!-- Written by docs/generate.py from the declarations themselves; edits here are lost. -->

What a recipe can `use`, kind by kind, with every option, its default and what it means. An option of the form
`name.part` is set as a nested mapping; an option marked *component* takes `{use: id, ...}` of the given kind.
`songkit plugins list` prints the same catalogue for your installation, with the plugins of others.

"""

COMMANDS_HEADER = """\
# Commands

<!-- Written by docs/generate.py from the program's own help; edits here are lost. -->

`songkit COMMAND --help` prints the same. Help, listings and checks do not import PyTorch and answer at once. A mistake
gets one message and exit status 2; see [errors](errors.md).

"""

EXAMPLES = {
    "generate": """\
songkit generate examples/lyrics.txt --out songs --seed 1
songkit generate examples/batch.jsonl --out songs --batch 3 --guidance 2
songkit generate songs/river-home/song.json --out again""",
    "train": """\
songkit train my-recipe.yaml --out runs/mine trainer.max_minutes=60
songkit train my-recipe.yaml --out runs/mine --resume""",
    "prepare": "songkit prepare my-songs.yaml --out data/mine",
    "evaluate": "songkit evaluate songs --metrics judges/phoneme-errors --out songs.json",
    "recipes": "songkit recipes ls\nsongkit recipes show mini/song\nsongkit recipes validate my-recipe.yaml",
    "plugins": "songkit plugins list\nsongkit plugins show levo2/music-codec",
}
"""What a reader may copy, by command."""


def main() -> int:
    """Writes or checks both pages; returns the exit status."""
    registry = Registry.discover()
    broken = [f"{record.name}: {record.error}" for record in registry.plugins if record.error]
    missing = set(PLUGINS) - {record.name for record in registry.plugins}
    if broken or missing:
        reasons = [*broken, *(f"{name}: not installed" for name in sorted(missing))]
        print("cannot write the pages; " + "; ".join(reasons))
        return 1
    outdated = []
    for name, text in pages(registry).items():
        path = REFERENCE / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            outdated.append(str(path))
    if outdated:
        print(f"out of date: {', '.join(outdated)}. Run `python docs/generate.py` and commit the result")
    return 1 if outdated else 0


def pages(registry: Registry) -> dict[str, str]:
    """Returns the text of every generated page by its file name."""
    return {"components.md": components_page(registry), "commands.md": commands_page()}


def commands_page() -> str:
    """Returns the page of all commands."""
    parts = [COMMANDS_HEADER]
    for name, summary in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"songkit {name}", description=f"{summary[0].upper()}{summary[1:]}.")
        importlib.import_module(f"songkit.cli.{name}").add_arguments(parser)
        parts.append(f"## songkit {name}\n\n{parser.description}\n\n```sh\n{EXAMPLES[name]}\n```\n\n{arguments(parser)}")
    return "".join(parts).rstrip() + "\n"


def arguments(parser: argparse.ArgumentParser) -> str:
    """Returns the table of a parser's arguments, then the sections of its sub-commands."""
    rows, below = "", ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                below += f"### {parser.prog} {name}\n\n{child.description}\n\n{arguments(child)}"
        elif not isinstance(action, argparse._HelpAction):
            shown = ", ".join(action.option_strings)
            value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
            meaning = cell(action.help or "")
            rows += f"| `{' '.join(filter(None, (shown, str(value))))}` | {meaning} |\n"
    return (f"| argument | meaning |\n| --- | --- |\n{rows}\n" if rows else "") + below


def components_page(registry: Registry) -> str:
    """Returns the page of all components."""
    parts = [COMPONENTS_HEADER]
    for kind, meaning in KINDS.items():
        entries = [entry for entry in registry.list(kind) if entry.plugin.name in PLUGINS]
        if entries:
            parts.append(f"## {kind}\n\n{meaning[0].upper()}{meaning[1:]}.\n\n")
            parts += [component(entry) for entry in entries]
    return "".join(parts).rstrip() + "\n"


def component(entry: Entry) -> str:
    """Returns the section of one component."""
    declared = entry.component
    title = f"### `{entry.id}`\n\n{declared.summary()} Revision {declared.revision}, in `{entry.plugin.distribution}`.\n\n"
    rows = "".join(f"| `{name}` | {default} | {meaning} |\n" for name, default, meaning in options(declared.config))
    return f"{title}| option | default | meaning |\n| --- | --- | --- |\n{rows}\n" if rows else title


def options(config: type[Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Returns (name, default, meaning) of every field of a config, those of nested configs included."""
    meanings = field_docs(config)
    rows = []
    for field in dataclasses.fields(config):
        if field.default_factory is not dataclasses.MISSING:
            value: Any = field.default_factory()
        else:
            value = field.default
        name, meaning = prefix + field.name, cell(meanings.get(field.name, ""))
        if dataclasses.is_dataclass(value):
            rows += options(type(value), f"{name}.")
        else:
            rows.append((name, default_text(field, value), meaning))
    return rows


def default_text(field: dataclasses.Field[Any], value: Any) -> str:
    """Returns what stands in the column of defaults."""
    if "ref" in field.metadata:
        return f"*component*: {field.metadata['ref']}{' (optional)' if field.metadata['optional'] else ''}"
    if "refs" in field.metadata:
        return f"*components*: {field.metadata['refs']} by name"
    return "required" if value is dataclasses.MISSING else f"`{_yaml(value)}`"


def field_docs(config: type[Any]) -> dict[str, str]:
    """Returns the string below each field of a dataclass, base classes included."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                docs[statement.target.id] = str(following.value.value)
    return docs


def cell(text: str) -> str:
    """Returns text that can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        shown = [_yaml(item) for item in value[:12]] + (["…"] if len(value) > 12 else [])
        return "[" + ", ".join(shown) + "]"
    return '""' if value == "" else str(value)


if __name__ == "__main__":
    sys.exit(main())
