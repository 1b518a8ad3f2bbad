"""Writes the pages of docs/reference that say so, and the templates' code into how-tos; `--check` only compares.

Run it in an environment where every plugin of this repository is installed: `python docs/generate.py`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from pathlib import Path

import songkit.plugin
from songkit._declared import options
from songkit.cli import COMMANDS
from songkit.plugin import KINDS
from songkit.recipe import ROLES
from songkit.registry import Entry, Registry
from songkit.testing import LAWS, TAGS, Law

DOCS = Path(__file__).parent
TEMPLATES = Path(songkit.plugin.__file__).parent / "templates" / "plugin"

PLUGINS = ("songkit", "levo2", "mini", "synth", "judges", "planners", "encodec", "dac")
"""The plugins of this repository, by namespace; others that happen to be installed have no place in its docs."""

COMPONENTS_HEADER = """\
# Components

<!-- Written by docs/generate.py from the declarations themselves; edits here are lost. -->

What a recipe can `use`, kind by kind, with every option, its default and what it means. An option `name.part` is set in
a nested mapping, `name: {part: ...}`; an option whose default is
`component` takes `{use: id, ...}` of the kind that is its type.
`songkit plugins list` prints the same catalogue for your installation, with the plugins of others.

"""

COMMANDS_HEADER = """\
# Commands

<!-- Written by docs/generate.py from the program's own help; edits here are lost. -->

`songkit COMMAND --help` prints the same. Help, listings and checks do not import PyTorch and answer at once. A mistake
gets one message and exit status 2; see [errors](errors.md).

"""

KINDS_HEADER = """\
# Kinds

<!-- Written by docs/generate.py from the declarations themselves; edits here are lost. -->

What a component can be. A recipe names a component in the place of its kind; [recipes](recipes.md) tells how.

"""

HOOKS_HEADER = """\
# Hooks

<!-- Written by docs/generate.py from songkit.plugin; edits here are lost. -->

What a plugin may implement. A hook is a function with this name and `@hookimpl` above it, in the module that the
plugin's entry point names; [write a plugin](../how-to/write-a-plugin.md) shows one. One that is misspelt is an error.

"""

INTERFACES = {
    "codec": "Codec",
    "metric": "SongMetric",
    "objective": "PreferenceObjective",
    "refiner": "TrackRefiner",
    "reward": "RewardModel",
    "source": "DataSource",
    "task": "",
}
"""Classes in songkit.interfaces that are not called as their kind is."""

CHECKS_HEADER = """\
# Checks

<!-- Written by docs/generate.py from the conformance kit; edits here are lost. -->

What `songkit plugins check` and `songkit.testing` try on a component, by its kind; see
[check a plugin](../how-to/check-a-plugin.md). Every check is run without a network, on the component's `example`.

"""

EXAMPLES = {
    "generate": """\
songkit generate examples/lyrics.txt --out songs --seed 1
songkit generate examples/batch.jsonl --out songs --batch 3 --guidance 2
songkit generate songs/river-home/song.json --out again""",
    "train": """\
songkit train my-recipe.yaml --out runs/mine trainer.max_minutes=60
songkit train my-recipe.yaml --out runs/mine --resume
songkit train levo2/mini/ladder --out runs/ladder --dry-run""",
    "runs": """\
songkit runs ls runs
songkit runs show runs/mine
songkit runs tree runs""",
    "prepare": "songkit prepare my-songs.yaml --out data/mine",
    "mine": """\
songkit mine levo2/mini/mine --out runs/mined --dry-run
songkit mine levo2/mini/mine-lyrics --out runs/mined mine.limit=50""",
    "merge": """\
songkit merge --models runs/lyrics=0.5 runs/musicality=0.5 --out runs/merged
songkit merge levo2/mini/merge --out runs/merged --sweep""",
    "semi-online": "songkit semi-online levo2/mini/semi-online --out runs/rounds --dry-run",
    "evaluate": "songkit evaluate songs --metrics judges/phoneme-errors --out songs.json",
    "import": """\
songkit import levo2 songgeneration_v2_large/model.pt my-levo2
songkit import levo2 songgeneration_base/model.pt my-levo --as base --dtype float32""",
    "recipes": """\
songkit recipes ls
songkit recipes show mini/song --origins
songkit recipes diff levo2/mini/planner levo2/mini/refiner
songkit recipes validate my-recipe.yaml""",
    "plugins": """\
songkit plugins list
songkit plugins show levo2/music-codec
songkit plugins new --kind codec my-codec
songkit plugins check levo2/music-codec""",
}
"""What a reader may copy, by command."""


def main() -> int:
    """Writes or checks the pages; returns the exit status."""
    registry = Registry.discover()
    broken = [f"{record.name}: {record.error}" for record in registry.plugins if record.error]
    missing = set(PLUGINS) - {record.name for record in registry.plugins}
    if broken or missing:
        reasons = [*broken, *(f"{name}: not installed" for name in sorted(missing))]
        print("cannot write the pages; " + "; ".join(reasons))
        return 1
    outdated = []
    written = {DOCS / "reference" / name: text for name, text in pages(registry).items()}
    written.update({path: with_templates(path.read_text(encoding="utf-8")) for path in DOCS.glob("how-to/*.md")})
    for path, text in written.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv:
            outdated.append(str(path))
        else:
            path.write_text(text, encoding="utf-8")
    if outdated:
        print(f"out of date: {', '.join(outdated)}. Run `python docs/generate.py` and commit the result")
    return 1 if outdated else 0


def pages(registry: Registry) -> dict[str, str]:
    """Returns the text of every generated page by its file name."""
    return {
        "checks.md": checks_page(),
        "commands.md": commands_page(),
        "components.md": components_page(registry),
        "hooks.md": hooks_page(),
        "kinds.md": kinds_page(registry),
    }


def with_templates(text: str) -> str:
    """Returns a page with the code of a template between the marks that name it."""

    def code(match: re.Match[str]) -> str:
        source = (TEMPLATES / match[1]).read_text(encoding="utf-8")
        return f'<!-- template: {match[1]} -->\n```python title="{match[1]}"\n{source}```\n<!-- end -->'

    return re.sub(r"<!-- template: (\S+) -->\n.*?<!-- end -->", code, text, flags=re.DOTALL)


def kinds_page(registry: Registry) -> str:
    """Returns the page of all kinds."""
    parts = [KINDS_HEADER]
    for kind, meaning in KINDS.items():
        roles = [f"`{role}`" for role, of in ROLES.items() if of == kind] or {
            "metric": ["a name under `metrics`"],
            "backbone": ["an option of a planner or refiner"],
        }[kind]
        interface = INTERFACES.get(kind, kind.capitalize())
        told = f"`songkit.interfaces.{interface}`" if interface else "`songkit.tasks.base.Task`"
        ours = [f"`{entry.id}`" for entry in registry.list(kind) if entry.plugin.name in PLUGINS]
        rows = {
            "in a recipe": ", ".join(roles),
            "interface": told,
            "components": f"[{len(ours)}](components.md#{kind}): {', '.join(ours)}" if ours else "none yet",
            "how to write one": f"[{kind}](../how-to/{kind}.md)",
        }
        table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
        parts.append(f"## {kind}\n\n{meaning[0].upper()}{meaning[1:]}.\n\n| | |\n| --- | --- |\n{table}\n")
    return "".join(parts).rstrip() + "\n"


def hooks_page() -> str:
    """Returns the page of all hooks."""
    parts = [HOOKS_HEADER]
    for name, hook in vars(songkit.plugin).items():
        if name.startswith("songkit_"):
            signature = str(inspect.signature(hook)).replace("'", "")  # annotations are texts there
            parts.append(f"## `{name}`\n\n```text\n{name}{signature}\n```\n\n{inspect.getdoc(hook)}\n\n")
    return "".join(parts).rstrip() + "\n"


def checks_page() -> str:
    """Returns the page of all checks of the conformance kit."""
    parts = [CHECKS_HEADER]
    groups: dict[str, list[Law]] = {}
    for law in LAWS:
        groups.setdefault(_kinds(law), []).append(law)
    for kinds, laws in groups.items():
        rows = "".join(f"| `{law.name}` | {cell(law.sentence)} |\n" for law in laws)
        parts.append(f"## {kinds}\n\n| check | what has to hold |\n| --- | --- |\n{rows}\n")
    rows = "".join(f"| `{tag}` | {cell(meaning)} |\n" for tag, meaning in TAGS.items())
    parts.append(
        f"## Tags\n\nA component may carry tags that the kit knows:\n\n| tag | meaning |\n| --- | --- |\n{rows}"
    )
    return "".join(parts).rstrip() + "\n"


def _kinds(law: Law) -> str:
    """Returns which kinds a law is for, as a heading."""
    others = [kind for kind in KINDS if not law.holds_for(kind)]
    if len(others) < 2:
        return "Every kind" + "".join(f" but {kind}" for kind in others)
    kinds = [kind for kind in KINDS if law.holds_for(kind)]
    return " and ".join([", ".join(kinds[:-1]), kinds[-1]]) if len(kinds) > 1 else kinds[0]


def commands_page() -> str:
    """Returns the page of all commands."""
    parts = [COMMANDS_HEADER]
    for name, summary in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"songkit {name}", description=f"{summary[0].upper()}{summary[1:]}.")
        importlib.import_module(f"songkit.cli.{name.replace('-', '_')}").add_arguments(parser)
        parts.append(
            f"## songkit {name}\n\n{parser.description}\n\n```sh\n{EXAMPLES[name]}\n```\n\n{arguments(parser)}"
        )
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
    title = (
        f"### `{entry.id}`\n\n{declared.summary()} Revision {declared.revision}, in `{entry.plugin.distribution}`.\n\n"
    )
    rows = "".join(
        f"| `{option.name}` | {cell(option.type)} | {cell(option.default, code=True)} | {cell(option.meaning)} |\n"
        for option in options(declared.config)
    )
    return f"{title}| option | type | default | meaning |\n| --- | --- | --- | --- |\n{rows}\n" if rows else title


def cell(text: str, code: bool = False) -> str:
    """Returns text, or code cut to a readable length, for a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    if not code:
        return text.replace("<", "&lt;")
    return f"`{text}`" if len(text) <= 240 else f"`{text[: text.rindex(' ', 0, 200)]} …`"


if __name__ == "__main__":
    sys.exit(main())
