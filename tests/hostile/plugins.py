"""Hostile plugin files and run folders: code that nobody asked for is not run, and code that was asked for may fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hostile.attack import CODE, Case

__all__ = ["CASES"]

_PLUGIN = """
from dataclasses import dataclass
from songkit.plugin import Component, hookimpl

@dataclass(kw_only=True)
class Config:
    "A source."
    songs: int = 1
    "How many."

@hookimpl
def songkit_components():
    return [Component(kind="source", name="mine", config=Config, factory=f"{__name__}:Config", example=Config())]
"""
_USE = "data: {use: local/mine}\n"
_RESOLVED = "_components: {data: {id: local/mine, revision: 1, distribution: x, version: '1'}}\n"


def _unwanted(name: str, *says: str, recipe: str = "", files: dict[str, str] | None = None) -> Case:
    """A plugin that would leave the canary, which must not be run."""
    content = f"format: 1\nplugins: [./evil.py]\n{_USE}{recipe}"
    return Case(f"unasked: {name}", says, {"evil.py": CODE + _PLUGIN, "hostile.yaml": content, **(files or {})})


def _place(name: str, place: str, *says: str, prepare: Callable[[Path], object] | None = None) -> Case:
    """A plugin that is no python file."""
    files = {"hostile.yaml": f"format: 1\nplugins: [{place}]\n", "notes.txt": CODE, "lib.so": CODE, "old.pyc": CODE}
    return Case(f"file: {name}", ("hostile.yaml:2:11", *says), files, prepare=prepare)


def _failing(name: str, code: str | bytes, *says: str, file: str = "mine.py") -> Case:
    """A plugin that the user asked for, and that does this."""
    recipe = f"format: 1\nplugins: [./{file}]\n{_USE}"
    return Case(f"code: {name}", (f"{file}", *says), {file: code, "hostile.yaml": recipe}, code_runs=True)


def _hook(body: str) -> str:
    return f"from songkit.plugin import Component, hookimpl\n@hookimpl\ndef songkit_components():\n    {body}\n"


def _declared(**fields: str) -> str:
    given = {"kind": "'source'", "name": "'mine'", "config": "Config", "factory": "'x:y'", "example": "Config()"}
    text = ", ".join(f"{key}={value}" for key, value in {**given, **fields}.items())
    return _PLUGIN.rpartition("    return")[0] + f"    return [Component({text})]\n"


def _run(name: str, resolved: str | bytes) -> Case:
    """A run's folder with this record of its recipe."""
    words = ("train", "levo2/mini/vae", "--out", "run", "--resume", "--dry-run")
    return Case(f"run folder: {name}", ("run/resolved.yaml",), {"run/resolved.yaml": resolved}, words)


_LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 99)}]\n" for before, after in zip("abcd", "bcde", strict=True)
)

CASES = [
    _unwanted("a resolved recipe", "a resolved recipe may come from somebody else", recipe=_RESOLVED),
    _unwanted("beside weights", "it came with the weights", files={"model.safetensors": ""}),
    _unwanted("in a run", "lies in the folder of a run", files={"provenance.json": "{}"}),
    _unwanted("beside a resolved recipe", "lies in the folder of a run", files={"resolved.yaml": ""}),
    Case(
        "unasked: a resolved parent",
        ("a resolved recipe may come from somebody else",),
        {
            "evil.py": CODE + _PLUGIN,
            "parent.yaml": f"format: 1\nplugins: [./evil.py]\n{_RESOLVED}",
            "hostile.yaml": f"format: 1\ndefaults: [parent]\n{_USE}",
        },
    ),
    Case(
        "unasked: not named", ("unknown source 'local/mine'",), {"mine.py": CODE, "hostile.yaml": f"format: 1\n{_USE}"}
    ),
    Case(
        "unasked: a neighbour that is a package",
        ("unknown source 'evil/mine'",),
        {
            "songkit_evil/__init__.py": CODE,
            "sitecustomize.py": CODE,
            "hostile.yaml": "format: 1\ndata: {use: evil/mine}\n",
        },
    ),
    Case(
        "unasked: listing a folder of recipes",
        ("unknown recipe",),
        {"mine.py": CODE, "conftest.py": CODE, "hostile.yaml": f"format: 1\nplugins: [./mine.py]\n{_USE}"},
        ("recipes", "cat", "hostile"),
    ),
    _place("missing", "./nowhere.py", "no such file"),
    _place("a text file", "./notes.txt", "notes.txt"),
    _place("a library that is none", "./lib.so", "lib.so"),
    _place("bytecode that is none", "./old.pyc", "old.pyc"),
    _place("a folder", "../", "no such file"),
    _place("an endless device", "/dev/zero", "no such file"),
    _place("a module's name", "os", "no such file"),
    _place("an address", "'https://example.com/evil.py'", "no such file"),
    _place("a null byte", '"a\\0.py"', "plugins"),
    _place("10^5 letters", "./" + "x" * 100_000, "plugins"),
    _place("a mapping", "{_target_: os.system}", "found a mapping"),
    _place("a number", "3", "found 3"),
    _place("a pipe", "./pipe.py", "no such file", prepare=lambda folder: os.mkfifo(folder / "pipe.py")),
    _place("a link to itself", "./a.py", "plugins", prepare=lambda folder: (folder / "a.py").symlink_to("a.py")),
    _failing("raises", "raise RuntimeError('it is broken')", "RuntimeError: it is broken"),
    _failing("exits", "import sys; sys.exit(0)", "SystemExit"),
    _failing("exits with a text", "raise SystemExit('bye')", "SystemExit: bye"),
    _failing("raises what nobody catches", "class E(BaseException): pass\nraise E('x')", "E: x"),
    _failing("raises an error of ours", "from songkit import errors\nraise errors.RecipeError('x')", "RecipeError: x"),
    _failing("divides by zero", "1 / 0", "ZeroDivisionError"),
    _failing("is no python", "def f(:\n", "SyntaxError"),
    _failing("holds null bytes", b"a = 1\0\n", "null bytes"),
    _failing("is not UTF-8", b"a = '\xff\xfe'\n", "SyntaxError"),
    _failing("nests 10^4 levels", "a = " + "(" * 10_000 + ")" * 10_000, "mine.py"),
    _failing("adds 10^5 numbers", "a = " + "+".join("1" * 100_000), "mine.py"),
    _failing("imports itself by name", "import mine", "ModuleNotFoundError"),
    _failing(
        "loads itself for ever",
        "import importlib.util as u\ns = u.spec_from_file_location('again', __file__)\n"
        "m = u.module_from_spec(s)\ns.loader.exec_module(m)\n",
        "RecursionError",
    ),
    _failing("imports what is missing", "import no_such_module_anywhere", "no_such_module_anywhere"),
    _failing("shadows a module and fails", "import json\njson.dumps\n1 / 0", "ZeroDivision", file="json.py"),
    _failing("shadows our own module", "from songkit import recipe\n1 / 0", "ZeroDivision", file="songkit.py"),
    _failing("is empty", "", "no hook"),
    _failing("has a misspelt hook", _PLUGIN.replace("songkit_components", "songkit_component"), "Did you mean"),
    _failing("has an undecorated hook", _PLUGIN.replace("@hookimpl\n", ""), "@hookimpl"),
    _failing("returns nothing", _hook("return None"), "local"),
    _failing("returns a number", _hook("return 3"), "local"),
    _failing("returns numbers", _hook("return [3]"), "returned 3"),
    _failing("returns a mapping", _hook("return {'a': 1}"), "local"),
    _failing("returns without end", _hook("import itertools; return itertools.repeat(3)"), "expected a list"),
    _failing("raises in its hook", _hook("raise RuntimeError('later')"), "RuntimeError: later"),
    _failing("exits in its hook", _hook("raise SystemExit(0)"), "SystemExit"),
    _failing("has an unknown kind", _declared(kind="'sauce'"), "Did you mean 'source'?"),
    _failing("has a path for a name", _declared(name="'../../mine'"), "kebab-case"),
    _failing("has an escape sequence for a name", _declared(name=r"'\x1b[2J'"), "kebab-case"),
    _failing("has a number for a name", _declared(name="3"), "local"),
    _failing("has a config that is no dataclass", _declared(config="int", example="3"), "local"),
    _run("a python tag", "a: !!python/object/apply:os.system ['touch CANARY']\n"),
    _run("10^5 levels", "a: " + "[" * 100_000),
    _run("billion laughs", _LAUGHS),
    _run("null bytes", "a: 1\0"),
    _run("not UTF-8", b"a: \xff\n"),
    _run("a list", "- 1\n"),
    _run("no record of components", "format: 1\n"),
    _run("a record that is text", "format: 1\n_components: os.system\n"),
]
