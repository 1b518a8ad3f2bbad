"""Versions of the recipe format, and how a recipe of an older one becomes one of the newest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from songkit._yaml import Item, Place, children, describe, located, plain
from songkit.errors import RecipeError

__all__ = ["FORMAT", "MIGRATIONS", "Migration", "migrated"]

Migration: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: tuple[Migration, ...] = ()
"""`MIGRATIONS[i]` makes the values of a recipe of format `i + 2` of those of format `i + 1`. Each file of a recipe is
migrated by itself, before parents are merged; a migration must bear with files that hold a part of a recipe only."""

FORMAT = len(MIGRATIONS) + 1
"""Version of the recipe format that this songkit reads and writes; older ones are migrated."""


def migrated(root: Item, migrations: Sequence[Migration] = MIGRATIONS) -> Item:
    """Returns a recipe file's content in the newest format.

    What a migration leaves alone keeps its place, and so does what it moves, where no other value that is gone equals
    it; all else is placed at the mapping that holds it.

    Args:
        root: What the file holds.
        migrations: From each format to the next.

    Raises:
        RecipeError: If the format is missing, newer than this songkit or not one that ever was.
    """
    newest = len(migrations) + 1
    version = root.get("format")
    found = version.value if version is not None else None
    if version is None or type(found) is not int or not 1 <= found <= newest:
        told = f"found {describe(found)}" if version else "it is missing"
        newer = type(found) is int and found > newest
        advice = "Install a newer songkit." if newer else f"Write `format: {newest}`."
        raise RecipeError(f"{version.place if version else root.place} (format): expected {newest}, {told}. {advice}")
    if found == newest:
        return root
    values = plain(root)
    for migrate in migrations[found - 1 :]:
        values = migrate(values)
    return _placed({**values, "format": newest}, root, "", root.place, _gone(root, values))


def _placed(value: Any, old: Item | None, key: str, around: Place, gone: Sequence[tuple[str, Item]]) -> Item:
    """Returns migrated values with the places of what was written; `old` is what was at the same key."""
    if old is not None and _same(old, value):
        return old
    moved = [(was, item) for was, item in gone if _same(item, value)]
    moved = [(was, item) for was, item in moved if was == key] or moved
    if len(moved) == 1:
        return moved[0][1]
    place, key_place = (old.place, old.key_place) if old is not None else (around, around)
    if not isinstance(value, dict):
        return Item(located(value, place).value, place, key_place)
    below = children(old) if old is not None else {}
    return Item({key: _placed(part, below.get(key), key, place, gone) for key, part in value.items()}, place, key_place)


def _same(item: Item, value: Any) -> bool:
    return repr(plain(item)) == repr(value)  # unlike `==`, this tells 1 from true


def _gone(old: Item, new: Any) -> list[tuple[str, Item]]:
    """Returns everything that is no longer at its place, with its key."""
    gone = []
    for key, child in children(old).items():
        if not isinstance(new, dict) or key not in new:
            gone.append((key, child))
        gone += _gone(child, new.get(key) if isinstance(new, dict) else None)
    return gone
