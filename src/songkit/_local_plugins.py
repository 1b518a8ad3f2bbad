"""Local plugins: python files that a recipe names under `plugins`. They are code, so it matters whose recipe it is."""

from __future__ import annotations

from pathlib import Path

from songkit._yaml import Item, Problems, describe
from songkit.errors import PluginError, shortened
from songkit.registry import Registry

__all__ = ["with_local_plugins"]

_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".th", ".bin")


def with_local_plugins(root: Item, registry: Registry, problems: Problems) -> Registry:
    """Returns a registry that also has the components of the python files under a recipe's `plugins`.

    A file is run only if whoever starts songkit chose it: on the command line, or in a recipe of their own. What comes
    with weights is data, and is never run: neither what a resolved recipe or a run's folder names, nor a file that
    lies beside the recipe of a model together with its weights.
    """
    item = root.get("plugins")
    if item is None or item.value is None:
        return registry
    for file in item.value if isinstance(item.value, list) else [item]:
        if not isinstance(file.value, str):
            problems.append((file.place, "plugins", f"expected paths of python files, found {describe(file.value)}."))
            continue
        try:
            path = (file.place.folder / file.value).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a circle of links, a zero
            problems.append((file.place, "plugins", f"'{shortened(file.value)}' is no path of a python file: {error}."))
            continue
        reason = _distrust(path, file, root.get("_components"))
        if reason:
            problems.append((file.place, "plugins", f"{path} is not run: {reason}"))
            continue
        try:
            registry = registry.with_local(path)
        except PluginError as error:
            problems.append((file.place, "plugins", str(error)))
    return registry


def _distrust(path: Path, item: Item, components: Item | None) -> str:
    """Returns why a local plugin must not be run, or an empty string."""
    recipe = item.place.file
    if recipe is None:
        return ""
    advice = f"Read that file first; if you trust it, say so on the command line with `plugins=[{path}]`."
    if components is not None and components.place.file == recipe:
        return f"a resolved recipe may come from somebody else. {advice}"
    if any((recipe.parent / name).exists() for name in ("resolved.yaml", "provenance.json")):
        return f"the recipe lies in the folder of a run, which may come from somebody else. {advice}"
    folders = [folder for folder in (recipe.parent, recipe.parent / "weights") if folder.is_dir()]
    holds_weights = any(file.suffix in _WEIGHTS for folder in folders for file in folder.iterdir())
    if path.is_relative_to(recipe.parent) and holds_weights:
        return f"it came with the weights in {recipe.parent}. {advice} Or keep weights in a folder of their own."
    return ""
