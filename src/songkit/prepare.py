"""`songkit prepare`: the songs of any source to flat audio, and their codes, on disk.

Codes are made in a second step from the prepared audio, so they can be added later, or again by another tokenizer,
with `data: {use: songkit/prepared, root: FOLDER}` and the same folder as the output. `songkit.components.prepared`
describes and reads the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songkit._lock import locked
from songkit._prepare_audio import write_audio
from songkit._workers import PickledRecipe
from songkit.components.prepared import PreparedSource, prepared_keys
from songkit.errors import LayoutError, RecipeError

if TYPE_CHECKING:
    from songkit.interfaces import Tokenizer
    from songkit.recipe import Node, Recipe

__all__ = ["PrepareSummary", "identity", "prepare"]

_ALL = (None, None, 0.0, 0.0)
"""Start, stop, least and most seconds of a source that leaves nothing out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What a prepared set holds after `prepare`."""

    root: str
    """The folder."""
    songs: int
    seconds: float
    """Length of all songs together."""
    bytes: int
    """Size of the audio and codes named below, and of the records."""
    audio: str
    """Key of the audio."""
    codes: str | None
    """Key of the codes, where the recipe asks for them."""
    wall_seconds: float
    """How long this call took."""


def prepare(recipe: Recipe, out: Path, *, workers: int | None = None, progress: bool = False) -> PrepareSummary:
    """Writes a prepared set, or what is missing of it.

    Args:
        recipe: With the role `data` unless `prepare.audio` is off, which adds codes to what is in the folder; and
            with `tokenizer` or `codec` where `prepare.codes` is on.
        out: The folder. What is finished there is kept; what an interrupted run left is continued.
        workers: Processes that make or read songs; `prepare.workers` when `None`. The result does not depend on it.
        progress: Whether to show progress bars.

    Raises:
        RecipeError: The recipe lacks a role.
        CheckpointError: The tokenizer's weights are missing; told before any song is read.
        LayoutError: The tokenizer does not fit the audio.
        OutputError: The folder cannot be written, is in use, or holds other songs.
    """
    began = time.monotonic()
    settings = recipe.prepare
    root = Path(out)
    if not settings.audio and not prepared_keys(root, "audio"):
        raise LayoutError(
            f"{root} holds no prepared set to add codes to. Prepare songs there first, or set prepare.audio=true."
        )
    workers = workers or settings.workers
    with locked(root, "songkit prepare"):
        encoder = _Encoder.of(recipe) if settings.codes else None  # first: hours of audio later is late for an error
        audio_key = _own_audio(recipe, root) or _write_audio(recipe, root, workers, progress)
        prepared = PreparedSource(root, audio=audio_key)
        codes_key = _write_codes(encoder, prepared, workers, progress) if encoder else None
    folders = [root / f"audio-{audio_key}"] + ([root / f"codes-{codes_key}"] if codes_key else [])
    files = [root / "songs.jsonl", *(file for folder in folders for file in folder.iterdir())]
    return PrepareSummary(
        root=str(root),
        songs=len(prepared),
        seconds=float(prepared.samples.sum() / prepared.sample_rate),
        bytes=sum(file.stat().st_size for file in files),
        audio=audio_key,
        codes=codes_key,
        wall_seconds=time.monotonic() - began,
    )


def identity(node: Node) -> dict[str, Any]:
    """Returns what decides the numbers a component gives, weights apart, as JSON values."""
    children = {
        name: identity(child) if not isinstance(child, Mapping) else {k: identity(v) for k, v in child.items()}
        for name, child in node.children.items()
    }
    config = json.loads(json.dumps(dataclasses.asdict(node.config), default=str))
    return {"id": node.id, "revision": node.revision, "config": config, "children": children}


def _own_audio(recipe: Recipe, root: Path) -> str | None:
    """Returns the key of the audio to add codes to, where no other songs are to be written."""
    data = recipe.roles.get("data")
    prepared = data.config if data is not None and data.id == "songkit/prepared" else None
    if recipe.prepare.audio and (prepared is None or Path(prepared.root).resolve() != root.resolve()):
        return None
    if prepared is not None and (prepared.start, prepared.stop, prepared.min_seconds, prepared.max_seconds) != _ALL:
        raise LayoutError(
            f"'songkit prepare' adds codes to the whole of {root}, but 'data' chooses some of its songs. "
            "Leave out start, stop, min_seconds and max_seconds."
        )
    return PreparedSource(root, audio=prepared.audio if prepared is not None else "").audio_key


def _write_audio(recipe: Recipe, root: Path, workers: int, progress: bool) -> str:
    settings, node = recipe.prepare, _role(recipe, "data")
    source = {**identity(node), **_files(node)}
    wanted = {"sample_rate": settings.sample_rate, "channels": settings.channels, "tracks": list(settings.tracks)}
    key = _digest({"source": source, **wanted})
    if key not in prepared_keys(root, "audio"):
        maker = _Maker.of(recipe, "data")
        index = {"key": key, "source": source, **wanted}
        write_audio(maker, root / f"audio-{key}", index, workers=workers, progress=progress)
    return key


def _write_codes(encoder: _Encoder, prepared: PreparedSource, workers: int, progress: bool) -> str:
    from songkit._prepare_codes import weights_digest, write_codes

    digest = weights_digest(encoder.tokenizer.encoding_module())
    parts = {**identity(encoder.node), "weights": digest, "audio": prepared.audio_key}
    key = _digest(parts)
    if key not in prepared_keys(prepared.root, "codes"):
        folder, info = prepared.root / f"codes-{key}", {"key": key, **parts}
        write_codes(prepared, encoder.tokenizer, encoder.maker, folder, info, workers=workers, progress=progress)
    return key


def _files(node: Node) -> dict[str, Any]:
    """Returns what lies at the paths of a source's options: with other files it gives other songs."""
    found: dict[str, Any] = {}
    for option in dataclasses.fields(node.config):
        value = getattr(node.config, option.name)
        if value and option.metadata.get("path"):
            path = Path(value)
            listed = sorted(path.rglob("[!.]*")) if path.is_dir() else [path]
            states = [(str(file.relative_to(path)), file.stat()) for file in listed if file.is_file()]
            found[option.name] = _digest({name: [state.st_size, state.st_mtime_ns] for name, state in states})
    return {"files": found} if found else {}


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes a component of a recipe in a worker process, which starts with nothing imported."""

    recipe: PickledRecipe
    role: str

    @classmethod
    def of(cls, recipe: Recipe, role: str) -> _Maker:
        return cls(PickledRecipe.of(recipe), role)

    def __call__(self) -> Any:
        recipe = self.recipe.open()
        node = recipe.roles[self.role]
        if self.role == "data" and not node.children and node.weights is None:
            return node.load_factory()(node.config)  # most sources are only a config: spares the import of torch
        from songkit.build import build_roles

        return build_roles(recipe, [self.role], require_weights=self.role != "data")[self.role]


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """The tokenizer or codec of a recipe, and what makes the same in a worker process."""

    node: Node
    maker: _Maker
    tokenizer: Tokenizer

    @classmethod
    def of(cls, recipe: Recipe) -> _Encoder:
        role = "tokenizer" if "tokenizer" in recipe.roles else "codec"
        node, maker = _role(recipe, role), _Maker.of(recipe, role)
        return cls(node, maker, maker())


def _role(recipe: Recipe, role: str) -> Node:
    if role not in recipe.roles:
        raise RecipeError(
            f"recipe {recipe.name}: 'songkit prepare' needs '{role}', which the recipe does not have. "
            f"Add '{role}: {{use: ...}}'; 'songkit plugins list' shows what there is."
        )
    return recipe.roles[role]


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
