"""The errors that songkit raises for reasons a user can act on.

Every message names the thing, the value it had, what was expected, where it was found, and the next step.
`songkit` exits with status 2 for a `SongkitError` and prints the message alone; any other exception is a defect
of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AudioError",
    "CheckpointError",
    "LayoutError",
    "OutputError",
    "PluginError",
    "RecipeError",
    "RequestError",
    "SongkitError",
    "did_you_mean",
    "shortened",
]


class SongkitError(Exception):
    """Base of all errors that a user can act on."""


class PluginError(SongkitError):
    """A plugin, or one of its components, cannot be found, loaded or trusted."""


class RecipeError(SongkitError):
    """A recipe is wrong. `problems` holds one located message for each fault."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class RequestError(SongkitError):
    """A song request (lyrics, description, prompt) cannot be read or sung."""


class LayoutError(SongkitError):
    """Two components, or a component and its data, do not fit together."""


class CheckpointError(SongkitError):
    """Weights or a training state are missing, damaged or belong to something else."""


class AudioError(SongkitError):
    """An audio file cannot be decoded or does not hold what is needed."""


class OutputError(SongkitError):
    """A result cannot be written where it was asked for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `" Did you mean 'x'?"` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def shortened(text: str) -> str:
    """Returns a name or value as it fits into a message."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... ({len(text):,} characters)"


_LONGEST = 200
