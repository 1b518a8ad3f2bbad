"""The trained miniature: recipes that name its weights. It has no components of its own."""

from __future__ import annotations

from pathlib import Path

from songkit.plugin import hookimpl

__all__ = ["songkit_recipes"]


@hookimpl
def songkit_recipes() -> Path:
    """Returns the folder of the model recipes."""
    return Path(__file__).parent / "recipes"
