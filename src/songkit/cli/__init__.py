"""The command line: one file a command, imported only when called.

A command's module has `add_arguments(parser)` and `run(args) -> int`, the exit status; torch is imported inside `run`
at the earliest. Exit statuses: 0 success, 1 a defect of the program (with its traceback), 2 a mistake that the user
can put right, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from songkit import __version__
from songkit.errors import SongkitError, did_you_mean

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "generate": "make songs from lyrics",
    "train": "train what a recipe describes",
    "prepare": "write a recipe's songs to disk, as audio or tokens",
    "evaluate": "measure generated songs",
    "mine": "make preference pairs of a model's own songs",
    "merge": "interpolate the weights of models",
    "semi-online": "mine and train on preferences in rounds",
    "runs": "list, show and relate what was trained",
    "import": "turn published weights of others into songkit's",
    "recipes": "list, show and validate recipes",
    "plugins": "list, show, check and start plugins",
}
"""Every command with what it does; `songkit.cli.<command>` is its module."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser, command = _parser(words)
        args = parser.parse_args(words)
        _show_messages()
        status: int = command.run(args) if command else 0
        sys.stdout.flush()
    except SongkitError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush complains
        return 0
    return status


def _show_messages() -> None:
    """Lets songkit say on stderr what it does, and other libraries what is wrong."""
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("songkit").setLevel(logging.INFO)


def _printable(text: str) -> str:
    """Returns a message in which what a file or an argument says cannot steer the terminal or hide."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


class _Parser(argparse.ArgumentParser):
    """Complains like every other error of songkit, with the nearest option; options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, unknown = super().parse_known_args(args, namespace)
        if hasattr(namespace, "overrides"):  # argparse does not look for key=value any more behind an option
            namespace.overrides += [word for word in unknown if "=" in word and not word.startswith("-")]
            unknown = [word for word in unknown if "=" not in word or word.startswith("-")]
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument '{unknown[0]}'.{did_you_mean(unknown[0].split('=')[0], flags)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        raise SongkitError(f"{message}{'' if message.endswith(('.', '?')) else '.'} See `{self.prog} --help`.")


def _parser(words: list[str]) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """Returns a parser of all commands in which only the one that `words` calls has its arguments; and its module."""
    parser = _Parser(
        prog="songkit",
        description="Full-length song generation from lyrics and a description.",
        epilog="Examples: `songkit generate lyrics.txt --out songs`, `songkit recipes ls`, `songkit plugins list`.",
    )
    parser.add_argument("--version", action="version", version=f"songkit {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((word for word in words if not word.startswith("-")), None)
    if called is not None and called not in COMMANDS:
        raise SongkitError(f"unknown command '{called}'.{did_you_mean(called, COMMANDS)} See `songkit --help`.")
    module = importlib.import_module(f"songkit.cli.{called.replace('-', '_')}") if called else None
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if module is not None and name == called:
            module.add_arguments(command)
    return parser, module
