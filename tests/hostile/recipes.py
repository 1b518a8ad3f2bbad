"""Hostile recipes: YAML that would run code, grow, nest, hide characters, or reach for other files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hostile.attack import CANARY, Case

__all__ = ["CASES"]

_SHELL = f"touch {CANARY}"
_REFERENCE = f"${{run:{_SHELL}}}"
_BINARY = {
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a gzip": b"\x1f\x8b\x08" + bytes(100),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch CANARY'\ntR.",
}


def _yaml(name: str, text: str, *says: str, overrides: tuple[str, ...] = (), **files: str) -> Case:
    """A recipe of format 1 with this text below."""
    others = {f"{other}.yaml": f"format: 1\n{content}" for other, content in files.items()}
    words = ("recipes", "validate", "hostile.yaml", *overrides)
    return Case(name, says, {"hostile.yaml": f"format: 1\n{text}", **others}, words)


def _raw(name: str, content: str | bytes, *says: str) -> Case:
    """A file of exactly this content."""
    return Case(name, ("hostile.yaml", *says), {"hostile.yaml": content})


def _named(name: str, recipe: str, *says: str, prepare: Callable[[Path], object] | None = None) -> Case:
    """A recipe asked for by this name."""
    return Case(name, says, words=("recipes", "show", recipe), prepare=prepare)


def _parent(name: str, parent: str, *says: str) -> Case:
    return _yaml(name, f"defaults: [{parent}]\n", "hostile.yaml:2:12 (defaults)", *says)


_TAGS = {
    "a call": f"!!python/object/apply:os.system ['{_SHELL}']",
    "a new object": f"!!python/object/new:subprocess.Popen [['sh', '-c', '{_SHELL}']]",
    "an object with state": "!!python/object:argparse.Namespace {a: 1}",
    "a name": "!!python/name:os.system",
    "a module": "!!python/module:os",
    "a tuple": "!!python/tuple [1, 2]",
    "a verbatim tag": f"!<tag:yaml.org,2002:python/object/apply:os.system> ['{_SHELL}']",
    "a function": "!function os.system",
    "an include": "!include /etc/passwd",
    "an environment variable": "!ENV ${HOME}",
    "bytes": "!!binary aGVsbG8=",
    "a set": "!!set {a, b}",
    "an ordered map": "!!omap [a: 1]",
    "a string's tag": "!!str 3",
}
_TARGETS = {
    "_target_": f"{{_target_: os.system, command: {_SHELL}}}",
    "class_path": f"{{class_path: os.system, init_args: {{command: {_SHELL}}}}}",
    "_component_": f"{{_component_: os.system, command: {_SHELL}}}",
    "a callable in use": "{use: os.system}",
    "a factory in use": "{use: 'os:system'}",
    "a builtin in use": "{use: builtins.exec}",
    "our own function in use": "{use: 'songkit.cli:main'}",
    "a path in use": "{use: ../../evil}",
    "a file in use": "{use: ./evil.py}",
    "a list in use": "{use: [os.system]}",
    "a mapping in use": "{use: {use: os.system}}",
    "an id alone that is dotted": "os.system",
    "a magic name in use": "{use: songkit/__class__}",
}
_OPTIONS = {
    "a factory as an option": "factory: 'os:system'",
    "_target_ as an option": "_target_: os.system",
    "_partial_ as an option": "_partial_: true",
    "a magic option": "__class__: 3",
    "a reduction as an option": "__reduce__: [os.system, [ls]]",
    "a mapping for a number": f"songs: {{_target_: os.system, command: {_SHELL}}}",
    "a resolver for a number": f"songs: '{_REFERENCE}'",
    "a resolver in a key": f"'{_REFERENCE}': 3",
}
_REFERENCES = {
    "a resolver of somebody": _REFERENCE,
    "decode": "${oc.decode:'[1, 2]'}",
    "create": "${oc.create:{a: 1}}",
    "select": "${oc.select:vars.a}",
    "the keys": "${oc.dict.keys:vars}",
    "the environment": "${oc.env:HOME}",
    "a resolver inside a name": f"${{vars.{_REFERENCE}}}",
    "a resolver inside the environment": f"${{oc.env:{_REFERENCE}}}",
    "an escaped resolver": f"\\{_REFERENCE}",
    "a relative reference": "${.b}",
    "the top": "${seed}",
    "a magic name": "${vars.__class__.__init__}",
    "itself": "${vars.a}",
    "nothing": "${}",
    "an unfinished one": "${vars.a",
}
_DEEP = 100_000
_NESTED = {
    "lists": "vars: {a: " + "[" * _DEEP + "]" * _DEEP + "}\n",
    "mappings": "vars: {a: " + "{a: " * _DEEP + "1" + "}" * _DEEP + "}\n",
    "unclosed lists": "vars: " + "[" * _DEEP,
    "block lists": "vars:\n  a: \n    " + "- " * _DEEP + "1\n",
    "keys": "? " * _DEEP + "1\n",
    "list keys": "vars: {" + "? [" * _DEEP + "\n",
}
_LAUGHS = "vars:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
_DOUBLED = ["vars:\n", "  a0: 0123456789\n"]
_DOUBLED_TEXT = [f'  a{i + 1}: "${{vars.a{i}}}${{vars.a{i}}}"\n' for i in range(50)]
_DOUBLED_LIST = [f'  a{i + 1}: ["${{vars.a{i}}}", "${{vars.a{i}}}"]\n' for i in range(50)]
_TEXTS = {
    "null bytes": "seed: 1\0\n",
    "a null byte in quotes": 'seed: "\\0"\n',
    "an escape sequence": 'seed: "\\e[2J\\e]0;owned\\a"\n',
    "an escape sequence as a key": '"\\e[2Jseed": 1\n',
    "an escape sequence as an id": 'data: {use: "synth/\\e[31msongs"}\n',
    "a raw escape": "seed: \x1b[2J\n",
    "text that runs backwards": 'seed: "\\u202e1 :dees"\n',
    "an invisible key": '"se\\u200bed": 1\n',
    "another alphabet's letter": '"sееd": 1\n',
    "a lone surrogate": 'seed: "\\ud800"\n',
    "a carriage return": 'seed: "1\\rerror"\n',
    "a forged message": 'seed: "1\\nerror: all is well"\n',
    "tabs": "trainer:\n\tmax_steps: 3\n",
    "two documents": "seed: 1\n--- \nseed: 2\n",
    "a directive of another YAML": "...\n%YAML 9.9\n---\nseed: 1\n",
    "a tag directive": "...\n%TAG ! tag:yaml.org,2002:python/\n---\nseed: !name:os.system\n",
    "a key twice": "seed: 1\nseed: 2\n",
    "a key of null": "~: 1\n",
    "a key that is a list": "? [a]\n: 1\n",
    "a key that is a number": "1: 2\n",
    "an unclosed quote": "seed: '" + "x" * 900_000 + "\n",
}
_NUMBERS = {
    "a million digits": "9" * 900_000,
    "a quoted million digits": "'" + "1" * 900_000 + "'",
    "a float of a million digits": "0." + "1" * 900_000,
    "an exponent without end": "1e999999999",
    "hexadecimal": "0xffffffffffffffffffff",
    "not a number": ".nan",
    "infinity": ".inf",
    "below zero": "-1",
    "true": "true",
    "a string of a megabyte": "x" * 900_000,
}


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "hostile.yaml")


def _loop(folder: Path) -> None:
    (folder / "hostile.yaml").symlink_to("hostile.yaml")


def _link(target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "hostile.yaml").symlink_to(target)


def _sparse(folder: Path) -> None:
    with (folder / "hostile.yaml").open("wb") as file:
        file.truncate(10**11)


CASES = [
    *(_yaml(f"tag: {name}", f"vars: {{a: {text}}}\n", "hostile.yaml:2:") for name, text in _TAGS.items()),
    _yaml("tag: on a key", "!!python/name:os.system seed: 1\n", "tag:yaml.org,2002:python/name:os.system"),
    _yaml("tag: in a list", f"vars: {{a: [1, {_TAGS['a call']}]}}\n", "tag:yaml.org,2002:python/object/apply"),
    _yaml(
        "tag: in a parent", "defaults: [./parent.yaml]\n", "parent.yaml:2:7", "tag", parent=f"seed: {_TAGS['a call']}\n"
    ),
    _yaml("tag: on the command line", "", "command line", "tag", overrides=(f"seed={_TAGS['a call']}",)),
    *(_yaml(f"target: {name}", f"task: {text}\n", "hostile.yaml:2:", "(task") for name, text in _TARGETS.items()),
    *(
        _yaml(f"option: {name}", f"data: {{use: synth/songs, {text}}}\n", "hostile.yaml:2:", "(data")
        for name, text in _OPTIONS.items()
    ),
    _yaml(
        "option: of the settings", f"trainer: {_TARGETS['_target_']}\n", "'_target_' is no option of TrainerSettings"
    ),
    _yaml("option: an unknown key", f"_target_: os.system\ncommand: {_SHELL}\n", "unknown key '_target_'"),
    _yaml("option: on the command line", "", "__class__", overrides=("trainer.__class__.__init__=3",)),
    *(
        _yaml(
            f"reference: {name}", "vars: {a: '" + text.replace("'", "''") + "', b: 1}\n", "hostile.yaml:2:11 (vars.a)"
        )
        for name, text in _REFERENCES.items()
    ),
    _yaml("reference: in a path", f"paths: {{a: '{_REFERENCE}'}}\n", "hostile.yaml:2:12 (paths.a)"),
    _yaml("reference: in a list", f"vars: {{a: [1, '{_REFERENCE}']}}\n", "(vars.a.1)"),
    _yaml("reference: in an id", f"data: {{use: '{_REFERENCE}'}}\n", "(data.use)"),
    _yaml("reference: in weights", f"codec: {{use: levo2/music-codec, weights: '{_REFERENCE}'}}\n", "(codec.weights)"),
    _yaml("reference: in a plugin", f"plugins: ['{_REFERENCE}']\n", "(plugins"),
    _yaml("reference: in a record", f"_components: {{data: {{id: '{_REFERENCE}'}}}}\n", "(_components.data.id)"),
    _yaml("reference: on the command line", "", "command line", overrides=(f"seed={_REFERENCE}",)),
    Case(
        "reference: in a metric's option",
        ("command line", "refers to neither `paths` nor `vars`"),
        {"songs/a.txt": ""},
        ("evaluate", "songs", "--metrics", "judges/pitch", "--set", f"pitch.voiced={_REFERENCE}"),
    ),
    *(_yaml(f"10^5 levels of {name}", text, "hostile.yaml:") for name, text in _NESTED.items()),
    _yaml("10^5 levels on the command line", "", "nested deeper than 64", overrides=("vars.a=" + "[" * _DEEP,)),
    _yaml("10^5 levels of a key", "", "expected key=value", overrides=("a." * _DEEP + "b=1",)),
    _yaml("billion laughs", _LAUGHS, "hostile.yaml:3:6", "anchors and aliases"),
    _yaml("merge keys", "vars: &a {x: 1}\ntrainer: {<<: *a}\n", "anchors and aliases"),
    _yaml("a merge key without an anchor", "trainer: {<<: {max_steps: 1}}\n", "'<<' is no option"),
    _yaml("an anchor that holds itself", "vars: &a {b: *a}\n", "anchors and aliases"),
    _yaml("an alias of nothing", "vars: {b: *a}\n", "anchors and aliases"),
    _yaml("doubled texts", "".join(_DOUBLED + _DOUBLED_TEXT), "fill in more than 1 MB"),
    _yaml("doubled texts backwards", "".join(_DOUBLED + _DOUBLED_TEXT[::-1]), "fill in more than 1 MB"),
    _yaml("doubled lists", "".join(_DOUBLED + _DOUBLED_LIST), "fill in more than 1 MB"),
    _yaml("doubled lists backwards", "".join(_DOUBLED + _DOUBLED_LIST[::-1]), "fill in more than 1 MB"),
    _yaml(
        "a chain of 5,000 references",
        "vars:\n" + "".join(f"  a{i}: '${{vars.a{i + 1}}}'\n" for i in range(5000)),
        "a chain of more than 64 references",
    ),
    _yaml("a circle of references", "vars: {a: '${vars.b}', b: '${vars.a}'}\n", "refer to each other in a circle"),
    _yaml("a circle of parents", "defaults: [other]\n", "each other's `defaults`", other="defaults: [hostile]\n"),
    _yaml("its own parent", "defaults: [./hostile.yaml]\n", "each other's `defaults`"),
    _yaml("100,000 values", "vars: {a: [" + "1," * 100_000 + "]}\n", "more than 20,000 values"),
    _yaml("9,000 unknown keys", "".join(f"k{i}: 1\n" for i in range(9000)), "unknown key 'k0'", "more faults"),
    _yaml("9,000 unknown options", "trainer:\n" + "".join(f"  k{i}: 1\n" for i in range(9000)), "'k0' is no option"),
    _yaml("9,000 unknown metrics", "metrics:\n" + "".join(f"  k{i}: x/y\n" for i in range(9000)), "unknown metric"),
    _yaml("a key of a megabyte", f"{'k' * 900_000}: 1\n", "hostile.yaml:"),
    _yaml("an id of a megabyte", f"data: {'k' * 900_000}\n", "hostile.yaml:2:7 (data)", "unknown source"),
    _yaml("a thousand parents", "defaults: [" + "p, " * 1000 + "]\n", "1000 parents; expected 64"),
    *(_yaml(f"number: {name}", f"seed: {text}\n", "hostile.yaml:2:7 (seed)") for name, text in _NUMBERS.items()),
    *(_yaml(f"text: {name}", text, "hostile.yaml:") for name, text in _TEXTS.items()),
    _raw("text: UTF-16", "format: 1\n".encode("utf-16"), "not UTF-8"),
    _raw("text: UTF-16 without a mark", "format: 1\n".encode("utf-16-le"), "not YAML"),
    _raw("text: UTF-32", "format: 1\n".encode("utf-32"), "not UTF-8"),
    _raw("text: Latin-1", "# café\nformat: 1\n".encode("latin-1"), "byte 5 is not UTF-8"),
    _raw("text: a surrogate in UTF-8", b"format: 1\nseed: \xed\xa0\x80\n", "not UTF-8"),
    _raw("text: an overlong slash", b"format: 1\nseed: ..\xc0\xaf..\n", "not UTF-8"),
    _raw("text: two marks", b"\xef\xbb\xbf\xef\xbb\xbfformat: 1\nseed: -1\n"),
    *(_raw(f"text: {name}", content) for name, content in _BINARY.items()),
    _raw("text: empty", b"", "(format): expected 1, it is missing"),
    _raw("text: a scalar", b"os.system", "a recipe is a mapping"),
    _raw("text: JSON lines", b'{"format": 1}\n{"format": 1}\n', "hostile.yaml:2:1"),
    _raw("format: too new", b"format: 999\n", "Install a newer songkit"),
    _raw("format: a text", b"format: '1'\n", "expected 1, found '1'"),
    _raw("format: true", b"format: true\n", "expected 1, found true"),
    _raw("format: enormous", b"format: " + b"9" * 500_000, "(format): expected 1"),
    _named("name: up and away", "../../../../etc/passwd", "etc/passwd"),
    _named("name: up from a recipe", "levo2/../../../../etc/passwd", "unknown recipe"),
    _named("name: up to a shipped file", "levo2/mini/../mini/vae", "unknown recipe"),
    _named("name: absolute", "/etc/passwd", "/etc/passwd"),
    _named("name: an endless device", "/dev/zero", "there is no recipe file"),
    _named("name: the memory", "/proc/self/mem", "cannot read the recipe"),
    _named("name: the home of nobody", "~nobody-at-all/x.yaml", "there is no recipe file"),
    _named("name: with a null byte", "levo2\0/mini", "unknown recipe"),
    _named("name: a file with a null byte", "./a\0.yaml", "there is no recipe file"),
    _named("name: of 10^5 letters", "x" * 100_000, "unknown recipe"),
    _named("name: a file of 10^5 letters", "./" + "x" * 100_000 + ".yaml", "there is no recipe file"),
    _named("name: undecodable", "\udcff\udcfe", "unknown recipe"),
    _named("name: empty", "", "unknown recipe"),
    _named("name: a folder", ".", "there is no recipe file"),
    _named(
        "name: a folder like a file", "hostile.yaml", "no recipe file", prepare=lambda f: (f / "hostile.yaml").mkdir()
    ),
    _named("name: a pipe", "hostile.yaml", "there is no recipe file", prepare=_pipe),
    _named("name: a link to itself", "hostile.yaml", "there is no recipe file", prepare=_loop),
    _named("name: a link to nowhere", "hostile.yaml", "there is no recipe file", prepare=_link("nowhere")),
    _named("name: a link to a device", "hostile.yaml", "there is no recipe file", prepare=_link("/dev/zero")),
    _named("name: a link to the passwords", "hostile.yaml", "/etc/passwd", prepare=_link("/etc/passwd")),
    _named("name: a hundred gigabytes", "hostile.yaml", "larger than 1 MB", prepare=_sparse),
    _yaml("parent: up and away", "defaults: [../../../../../../../etc/passwd]\n", "not a single value"),
    _parent("parent: absolute", "/nowhere/at/all", "there is no recipe file"),
    _parent("parent: with a null byte", '"a\\0b"', "unknown recipe"),
    _parent("parent: of 10^5 letters", "x" * 100_000, "unknown recipe"),
    _parent("parent: a resolver", f"'{_REFERENCE}'", "unknown recipe"),
    _parent("parent: an address", "'https://example.com/x.yaml'", "there is no recipe file"),
    _yaml("parent: a mapping", "defaults: {a: b}\n", "expected a list of recipes"),
    _yaml("parent: a list in a list", "defaults: [[a]]\n", "expected a list of recipes"),
]
