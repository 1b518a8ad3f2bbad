"""The laws of components, a file for each kind or two; importing this package declares them all."""

from songkit.testing.laws import every, backbone, tokens, conditioner, language, metrics, rewards, sources, tasks  # noqa: I001 - the order in which they are checked and listed

__all__ = ["backbone", "conditioner", "every", "language", "metrics", "rewards", "sources", "tasks", "tokens"]
