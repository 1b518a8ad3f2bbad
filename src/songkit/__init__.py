"""Full-length song generation from lyrics: recipes, plugins, and LeVo 2 in miniature.

Importing this package does not import torch.
"""

from songkit.plugin import Component, hookimpl, ref, refs

__all__ = ["Component", "__version__", "hookimpl", "ref", "refs"]

__version__ = "0.1.0.dev0"
