"""Checks for authors of plugins: whether a component is what its kind promises."""

from songkit.testing import laws  # importing it declares them
from songkit.testing.checks import LAWS, TAGS, Check, CheckFailed, Law, checks_for
from songkit.testing.declaration import declaration_problems, heavy_imports
from songkit.testing.parametrize import component_checks

__all__ = [
    "LAWS",
    "TAGS",
    "Check",
    "CheckFailed",
    "Law",
    "checks_for",
    "component_checks",
    "declaration_problems",
    "heavy_imports",
    "laws",
]
