"""Every component of this repository obeys the laws of its kind.

A plugin whose own tests run the kit, with what it expects to fail, is left to them.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import noise

from songkit.components.configs import PreparedConfig, SongFolderConfig
from songkit.prepare import prepare
from songkit.recipe import load
from songkit.registry import Registry
from songkit.testing import component_checks

ROOT = Path(__file__).parents[2]
REGISTRY = Registry.discover()
FOLDERS = {path.name.removeprefix("songkit-"): path for path in sorted((ROOT / "plugins").iterdir())}
THEMSELVES = [name for name, path in FOLDERS.items() if (path / "tests" / "test_conformance.py").exists()]
HERE = [record.name for record in REGISTRY.plugins if record.name in ("songkit", *FOLDERS)]

_KEPT = tempfile.TemporaryDirectory()


@functools.cache
def prepared() -> Path:
    """A prepared set of noise."""
    folder = Path(_KEPT.name)
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"format: 1\nplugins: [{Path(noise.__file__)}]\ndata: {{use: local/noise, songs: 3}}\n")
    prepare(load(recipe, ["prepare.sample_rate=8000"], registry=REGISTRY), folder / "set", workers=1)
    return folder / "set"


@functools.cache
def songs() -> Path:
    """A folder of audio files."""
    from songkit.audio import write_flac

    folder = Path(_KEPT.name) / "songs"
    for index in range(3):
        song = noise.make_song(index)
        (folder / song.id).mkdir(parents=True)
        for name, track in song.tracks.items():
            write_flac(folder / song.id / f"{name}.flac", track.read(), track.sample_rate)
        (folder / song.id / "lyrics.txt").write_text("[verse]\ngolden river\n")
    return folder


@component_checks(
    *(name for name in HERE if name not in THEMSELVES),
    examples={
        "songkit/prepared": lambda: PreparedConfig(root=str(prepared())),
        "songkit/song-folder": lambda: SongFolderConfig(root=str(songs())),
    },
    registry=REGISTRY,
)
def test_conformance(check):
    check()


def test_no_plugin_is_left_out():
    assert [name for name in FOLDERS if name not in HERE] == []
    for name in THEMSELVES:
        text = (FOLDERS[name] / "tests" / "test_conformance.py").read_text(encoding="utf-8")
        assert f'@component_checks(\n    "{name}"' in text or f'@component_checks("{name}"' in text
