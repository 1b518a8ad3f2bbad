"""Composing located values, before anything is known of components: overriding, merging, interpolating."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from songkit._yaml import MISSING, Item, Place, Problems, absolute, children, located, parse, plain
from songkit.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["interpolate", "merge", "override"]


def override(root: Item, text: str) -> Item:
    """Returns `root` with one `key.path=value` put in; the value is read as YAML.

    Raises:
        RecipeError: If the text has no `=`, no key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    place = Place(None, text=text)
    names = key.strip().split(".")
    if not equals or not all(names):
        raise RecipeError(f"{place}: expected key=value, such as `trainer.max_steps=100`.")
    item = parse(value, place)
    for name in reversed(names):
        item = Item({name: item}, place, place)
    return merge(root, item)


def merge(parent: Item, child: Item) -> Item:
    """Returns the parent with the child's values put in.

    Mappings merge, everything else replaces. A mapping that names another component by `use` replaces the whole
    mapping of the parent, whose options were meant for the old one. `name` is short for `{use: name}`.
    """
    old, new = parent.value, child.value
    if isinstance(old, dict) and isinstance(new, str) and "use" in old:
        new = {"use": child}
    elif isinstance(old, str) and old != MISSING and isinstance(new, dict):
        old = {"use": parent}
    if not isinstance(old, dict) or not isinstance(new, dict):
        return child
    if "use" in new and "use" in old and new["use"].value != old["use"].value:
        return replace(child, value=new)
    merged = {key: merge(old[key], item) if key in old else item for key, item in new.items()}
    placed = parent if child.place.file is None else child  # an override names a part, not the whole
    return replace(placed, value={**old, **merged})


def interpolate(root: Item, problems: Problems) -> Item:
    """Returns `root` with every `${paths.x}`, `${vars.x}` and, inside `paths`, `${oc.env:NAME}` filled in.

    What a reference may name is checked here; OmegaConf fills it in. Strings under `paths` become absolute, see
    `Place.path`. What cannot be filled in is added to `problems` and left `???`.
    """
    from omegaconf import OmegaConf

    def checked(item: Item, path: tuple[str, ...]) -> Item:
        return told(item, path, _reference_faults(str(item.value), path, root) if "${" in str(item.value) else [])

    def filled(item: Item, path: tuple[str, ...]) -> Item:
        if "${" in str(item.value):
            value, faults = _fill(str(item.value), values)
            item = told(replace(located(value, item.place), key_place=item.key_place), path, faults)
            if len(path) == 2 and OmegaConf.is_dict(values.get(path[0])):
                values[path[0]][path[1]] = plain(item)
        return item

    def told(item: Item, path: tuple[str, ...], faults: list[str]) -> Item:
        problems.extend((item.place, ".".join(path), fault) for fault in faults)
        item = replace(item, value=MISSING) if faults else item
        return absolute(item) if path[0] == "paths" and "${" not in str(item.value) else item

    top = dict(children(_each_text(root, checked)))
    values = OmegaConf.create({key: plain(top[key]) for key in _SECTIONS if key in top})
    for key in sorted(top, key=lambda key: (key not in _SECTIONS, key)):  # what others refer to, from paths on
        top[key] = _each_text(top[key], filled, (key,))
    return replace(root, value=top)


_SECTIONS = ("paths", "vars")
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def _each_text(item: Item, change: Callable[[Item, tuple[str, ...]], Item], path: tuple[str, ...] = ()) -> Item:
    if isinstance(item.value, dict):
        return replace(item, value={key: _each_text(child, change, (*path, key)) for key, child in item.value.items()})
    if isinstance(item.value, list):
        return replace(item, value=[_each_text(child, change, (*path, str(i))) for i, child in enumerate(item.value)])
    return change(item, path) if isinstance(item.value, str) else item


def _reference_faults(text: str, path: tuple[str, ...], root: Item) -> list[str]:
    """Returns what is wrong with the references in a text."""
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError

    names, faults = _REFERENCE.findall(text), []
    try:
        OmegaConf.create([text])
        is_whole = "${" not in _REFERENCE.sub("", text)
    except GrammarParseError:
        is_whole = False
    if not is_whole:
        return [f"`{text}` has an unfinished `${{`. Write `${{vars.name}}`."]
    for name in names:
        section, _, key = name.partition(".")
        known = children(root.get(section) or root) if section in _SECTIONS else {}
        if name.startswith("oc.env:"):
            advice = "Name it there and write `${paths.name}`."
            faults += [] if path[0] == "paths" else [f"the environment may be read inside `paths` only. {advice}"]
        elif section not in _SECTIONS:
            faults.append(f"`${{{name}}}` refers to neither `paths` nor `vars`; nothing else can be referred to.")
        elif key not in known:
            hint = did_you_mean(key, known) or f" Add it under `{section}`, or give it as `{name}=...`."
            faults.append(f"there is no `{name}`.{hint}")
    return faults


def _fill(text: str, values: DictConfig) -> tuple[Any, list[str]]:
    """Returns a text with its references filled in, or `???` and why not."""
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

    try:
        values["filled"] = [text]
        found: Any = OmegaConf.to_container(values["filled"], resolve=True)
    except InterpolationToMissingValueError:
        return MISSING, []  # what is missing is told where it is
    except OmegaConfBaseException as error:
        if "Recursive" in str(error):
            return MISSING, [f"`{text}` and what it names refer to each other in a circle."]
        return MISSING, [f"`{text}` cannot be filled in: {str(error).splitlines()[0]}."]
    if "${" in str(found):
        return MISSING, [f"`{text}` gives `{found[0]}`, which may not hold references."]
    return found[0], []
