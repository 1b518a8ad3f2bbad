"""Writes a plugin to start from: a package with one small component that works and obeys the laws of its kind.

The files are in `songkit/templates/plugin`: those in `shared` hold `$name` and the like and are filled in; those of a
kind are ordinary modules, which are checked and tested like the rest of songkit, and are copied as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path

from songkit import __version__
from songkit.errors import OutputError, PluginError, did_you_mean
from songkit.plugin import KINDS

__all__ = ["FACTORIES", "write_plugin"]

FACTORIES: Mapping[str, str] = {
    "backbone": "DecayBackbone",
    "codec": "PieceCodec",
    "conditioner": "ByteConditioner",
    "metric": "LoudnessMetric",
    "objective": "OffsetObjective",
    "planner": "TwoTrackPlanner",
    "refiner": "FrameRefiner",
    "reward": "BalanceReward",
    "source": "ToneSource",
    "task": "GrowingTask",
    "tokenizer": "RandomProjectionTokenizer",
}
"""For each kind, the class that its template builds."""

_TEMPLATES = Path(__file__).parent / "templates" / "plugin"
_USES: Mapping[str, str] = {
    "backbone": "planner:\n  use: levo2/mixed-lm\n  tower: {use: $id}",
    "metric": "metrics:\n  mine: {use: $id}",
    "source": "data: {use: $id}",
}
"""How a recipe uses a component, where that is not `<kind>: {use: <id>}`."""


def write_plugin(kind: str, name: str, folder: Path | None = None) -> list[Path]:
    """Writes the package of a new plugin.

    Args:
        kind: One of `songkit.plugin.KINDS`.
        name: The plugin's namespace, kebab-case; the distribution is `songkit-<name>`.
        folder: Where to write, by default `songkit-<name>` in the current folder; it must not exist yet.

    Returns:
        The files that were written.

    Raises:
        PluginError: If there is no such kind, or the name is not one.
        OutputError: If the folder is there already or cannot be written; nothing is left half-written.
    """
    _check(kind, name)
    target = Path(f"songkit-{name}") if folder is None else folder
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} is there already, and a plugin is never written over it. Choose another folder.")
    files = _files(kind, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {target.parent} ({error.strerror}). Choose another folder.") from error
    try:
        for path, text in files.items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_text(text, encoding="utf-8")
        draft.chmod(0o777 & ~_umask())  # mkdtemp's folders are for their owner alone
        draft.rename(target)
    except OSError as error:
        raise OutputError(f"cannot write {target} ({error.strerror}). Choose another folder.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # not there any more where all went well
    return [target / path for path in files]


def _check(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise PluginError(f"unknown kind '{kind}'.{did_you_mean(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    if name.startswith("songkit-") or name in ("songkit", "local"):
        short = name.removeprefix("songkit-")
        advice = f"leave out 'songkit-' and write '{short}'" if short != name else "that namespace is taken"
        raise PluginError(f"the plugin's name is '{name}': {advice}. Its distribution will be called 'songkit-<name>'.")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        kebab = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f", for example '{kebab}'" if re.match("[a-z]", kebab) else ""
        raise PluginError(f"the plugin's name is '{name}': expected kebab-case (a-z, 0-9, single hyphens){hint}.")


def _files(kind: str, name: str) -> dict[Path, str]:
    """Returns the text of every file by its path in the new package."""
    package, id_ = f"songkit_{name.replace('-', '_')}", f"{name}/{kind}"
    values = {
        "name": name,
        "package": package,
        "kind": kind,
        "id": id_,
        "config": f"{kind.capitalize()}Config",
        "factory": FACTORIES[kind],
        "meaning": KINDS[kind],
        "use": string.Template(_USES.get(kind, f"{kind}: {{use: $id}}")).substitute(id=id_),
        "versions": _versions(__version__),
    }
    found: dict[Path, str] = {}
    for path in sorted((_TEMPLATES / "shared").rglob("*.txt")):
        parts = path.relative_to(_TEMPLATES / "shared").with_suffix("").parts
        text = string.Template(path.read_text(encoding="utf-8"))
        found[Path(*(package if part == "package" else part for part in parts))] = text.substitute(values)
    for module in ("configs", kind):
        text_of_kind = (_TEMPLATES / kind / f"{module}.py").read_text(encoding="utf-8")
        found[Path("src", package, f"{module}.py")] = text_of_kind
    return found


def _versions(version: str) -> str:
    """Returns the versions of songkit that a plugin written today should accept: up to the next breaking one."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={version},<{major + 1}" if major else f">={version},<0.{minor + 1}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
