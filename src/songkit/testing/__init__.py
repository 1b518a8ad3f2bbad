"""Checks for authors of plugins."""

from songkit.testing.declaration import declaration_problems, heavy_imports

__all__ = ["declaration_problems", "heavy_imports"]
