"""The laws of components, a file for each kind or two; importing this package declares them all."""

from songkit.testing.laws import (  # noqa: I001 - the order in which they are checked and listed
    every,
    backbone,
    tokens,
    conditioner,
    language,
    drawings,
    metrics,
    objectives,
    rewards,
    sources,
    tasks,
)

__all__ = [
    "backbone",
    "conditioner",
    "drawings",
    "every",
    "language",
    "metrics",
    "objectives",
    "rewards",
    "sources",
    "tasks",
    "tokens",
]
