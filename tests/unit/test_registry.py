"""Plugins: found by their metadata, loaded one by one, looked up with advice."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from songkit.errors import PluginError
from songkit.recipe import load
from songkit.registry import Registry

PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
from songkit.plugin import Component, hookimpl

@dataclass(kw_only=True)
class Config:
    "A thing."
    width: int = 1

@hookimpl
def songkit_components():
    return {count} * [Component(kind={kind!r}, name={name!r}, config=Config, factory="x:y", example=Config())]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Returns a function that installs a distribution with one plugin module."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(distribution, entry=None, code=None, kind="codec", name="thing", count=1, requires=(), metadata=None):
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code or PLUGIN.format(kind=kind, name=name, count=count))
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
        written = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n{needs}"
        (info / "METADATA").write_text(written if metadata is None else metadata, errors="surrogateescape")
        entry = entry or distribution.removeprefix("songkit-")
        (info / "entry_points.txt").write_text(f"[songkit]\n{entry} = {module}\n")

    yield install
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def record(name):
    [found] = [record for record in Registry.discover().plugins if record.name == name]
    return found


def test_a_plugin_is_found_by_its_metadata(install):
    install("songkit-alpha")
    entry = Registry.discover().get("codec", "alpha/thing")
    assert (entry.id, entry.plugin.distribution, entry.plugin.version) == ("alpha/thing", "songkit-alpha", "1.2")


def test_the_core_comes_through_the_same_hook_and_first():
    registry = Registry.discover()
    assert registry.plugins[0].name == "songkit"
    assert registry.get("source", "songkit/prepared").plugin.distribution == "songkit"


def test_a_broken_plugin_stops_nothing_and_is_raised_when_used(install):
    install("songkit-broken", code="import no_such_library")
    install("songkit-zeta")
    registry = Registry.discover()
    assert registry.get("codec", "zeta/thing")
    assert isinstance(record("broken").error, ModuleNotFoundError)
    with pytest.raises(PluginError, match=r"'broken/thing' cannot be used.*'no_such_library'") as caught:
        registry.get("codec", "broken/thing")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(3)", SystemExit),
        ("raise OSError('libc10_cuda.so: cannot open shared object file')", OSError),
        ("raise RuntimeError('another build of torch')", RuntimeError),
        ("class Stop(BaseException): ...\nraise Stop", BaseException),
        ("def songkit_components(:", SyntaxError),
        ("from songkit.plugin import hookimpl\n@hookimpl\ndef songkit_components(): raise SystemExit", SystemExit),
    ],
    ids=["exit", "library", "runtime", "own", "syntax", "hook"],
)
def test_whatever_loading_a_plugin_raises_stops_nothing(install, code, error):
    install("songkit-broken", code=code)
    install("songkit-zeta")
    assert Registry.discover().get("codec", "zeta/thing")
    assert isinstance(record("broken").error, error)


def test_looking_something_up_loads_its_own_plugin_only(install, tmp_path):
    install("songkit-alpha")
    install("songkit-zeta")
    (tmp_path / "recipe.yaml").write_text("format: 1\ncodec: zeta/thing\n")
    registry = Registry.discover()
    load(tmp_path / "recipe.yaml", registry=registry)
    assert "songkit_zeta" in sys.modules
    assert "songkit_alpha" not in sys.modules
    assert "alpha" in [plugin.name for plugin in registry.plugins]


def test_the_users_interrupt_is_not_kept_as_an_error(install):
    install("songkit-broken", code="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.discover().list()


@pytest.mark.parametrize("metadata", ["", "Metadata-Version: 2.1\n", "Name: songkit-broken\nVersion: \udcff\n"])
def test_damaged_metadata_stops_nothing(install, metadata):
    install("songkit-broken", metadata=metadata)
    install("songkit-zeta")
    assert Registry.discover().get("codec", "zeta/thing")
    assert "its metadata has no name or no version" in str(record("broken").error)


@pytest.mark.parametrize(
    ("requires", "told"),
    [
        (["songkit"], None),
        (["songkit[english]>=0.0.1", "pluggy<99; python_version > '3'", "nothing-such; extra == 'more'"], None),
        (["no-such-library>=2"], "it needs no-such-library>=2, which is not installed"),
        (["pluggy>=99"], r"it needs pluggy>=99, but pluggy [\d.]+ is installed\. Install what it needs"),
        (["songkit-zeta[more]"], "it needs no-such-library, which is not installed"),
        (["pluggy =< 3"], "its requirement 'pluggy =< 3' cannot be read"),
    ],
)
def test_requirements_are_compared_with_what_is_installed(install, requires, told):
    install("songkit-zeta", requires=["no-such-library; extra == 'more'", "songkit-zeta[more]; extra == 'more'"])
    install("songkit-alpha", requires=requires)
    error = record("alpha").error
    assert (error is None) if told is None else re.search(told, str(error))
    assert record("zeta").error is None


def test_a_component_whose_requirements_are_not_met_is_not_built(install, tmp_path):
    install("songkit-alpha", requires=["pluggy>=99"])
    (tmp_path / "recipe.yaml").write_text("format: 1\ncodec: alpha/thing\n")
    node = load(tmp_path / "recipe.yaml", registry=Registry.discover()).roles["codec"]
    with pytest.raises(PluginError, match=r"codec 'alpha/thing' cannot be built: it needs pluggy>=99, but pluggy"):
        node.load_factory()


def test_a_failed_import_is_told_with_the_requirement_behind_it(install):
    install("songkit-broken", code="import no_such_library", requires=["no-such-library"])
    assert "it needs no-such-library, which is not installed" in str(record("broken").error)
    assert isinstance(record("broken").error.__cause__, ModuleNotFoundError)


def test_strict_makes_a_broken_plugin_fatal(install, monkeypatch):
    install("songkit-broken", code="1 / 0")
    install("songkit-needy", requires=["no-such-library"])
    monkeypatch.setenv("SONGKIT_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"'broken' \(songkit-broken 1.2\) is broken: ZeroDivisionError") as caught:
        Registry.discover()
    assert "'needy' (songkit-needy 1.2) is broken: it needs no-such-library" in str(caught.value)
    monkeypatch.setenv("SONGKIT_STRICT_PLUGINS", "0")
    assert Registry.discover()


def test_loading_can_be_narrowed_to_some_plugins(install, monkeypatch):
    install("songkit-alpha")
    install("songkit-beta")
    monkeypatch.setenv("SONGKIT_PLUGINS", "beta, gama")
    registry = Registry.discover()
    assert {plugin.name for plugin in registry.plugins} == {"songkit", "beta", "gama"}
    with pytest.raises(PluginError, match="names 'gama', which is not installed"):
        registry.get("codec", "gama/thing")


@pytest.mark.parametrize(
    ("distribution", "entry", "advice"),
    [
        ("songkit-alpha", "beta", "'songkit-alpha' names its entry point 'beta', which belongs to 'songkit-beta'"),
        ("songkit-alpha", "songkit", "which belongs to 'songkit': a plugin's namespace"),
        ("alpha", "alpha", "Rename the distribution"),
    ],
)
def test_a_namespace_must_be_that_of_the_distribution(install, distribution, entry, advice):
    install(distribution, entry)
    [found] = [record for record in Registry.discover().plugins if record.distribution == distribution]
    assert found.components == ()
    assert advice in str(found.error)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"code": PLUGIN.format(kind="codec", name="a", count=1).replace("songkit_comp", "songkit_kom")},
            "Did you mean",
        ),
        (
            {"code": PLUGIN.format(kind="codec", name="a", count=1).replace("@hookimpl\n", "")},
            "'songkit_components' would never be called: put @hookimpl above it.",
        ),
        ({"code": "x = 1"}, "it has no hook, so it offers nothing"),
        (
            {"code": "from songkit.plugin import hookimpl\n@hookimpl\ndef songkit_components(): pass"},
            "songkit_components returns nothing",
        ),
        (
            {"code": "from songkit.plugin import hookimpl\n@hookimpl\ndef songkit_recipes(): return '/no/such'"},
            "songkit_recipes returned /no/such, which is no folder",
        ),
        ({"kind": "codek"}, "unknown kind 'codek'. Did you mean 'codec'?"),
        ({"name": "Thing"}, "not kebab-case"),
        ({"count": 2}, "declares the codec 'thing' twice"),
        (
            {"code": "from songkit.plugin import hookimpl\n@hookimpl\ndef songkit_components():\n return [3]"},
            "returned 3",
        ),
    ],
)
def test_wrong_declarations_are_told(install, settings, told):
    install("songkit-alpha", **settings)
    assert told in str(record("alpha").error)


def test_two_distributions_cannot_offer_one_id():
    class Plugin:
        """A plugin made of the hook of another."""

    from songkit.components import plugin

    Plugin.songkit_components = staticmethod(plugin.songkit_components)
    first = Registry([]).with_modules({"alpha": Plugin}, "songkit-alpha")
    with pytest.raises(PluginError, match=r"offered by both 'songkit-alpha' and 'songkit-Alpha'"):
        first.with_modules({"alpha": Plugin}, "songkit-Alpha")


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("codec", "alpha/thign", "unknown codec 'alpha/thign'. Did you mean 'alpha/thing'?"),
        ("codec", "alfa/thing", "no plugin 'alfa' is installed. Did you mean 'alpha'?"),
        ("codec", "thing", "Did you mean 'alpha/thing'?"),
        ("planner", "alpha/thing", "'alpha/thing' is a codec, not a planner."),
    ],
)
def test_a_wrong_id_is_told_with_the_right_one(install, kind, name, told):
    install("songkit-alpha")
    with pytest.raises(PluginError) as caught:
        Registry.discover().get(kind, name)
    assert told in str(caught.value)


def test_a_local_file_is_a_plugin(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(kind="reward", name="mine", count=1))
    assert Registry([]).with_local(file).get("reward", "local/mine").plugin.distribution == str(file)


def test_a_local_file_can_be_named_twice(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(kind="reward", name="mine", count=1))
    registry = Registry([]).with_local(file)
    assert registry.with_local(file) is registry


def test_two_local_files_cannot_offer_one_id(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    for file in (one, two):
        file.write_text(PLUGIN.format(kind="reward", name="mine", count=1))
    with pytest.raises(PluginError, match=r"'local/mine' is offered by both '.*one\.py' and '.*two\.py'"):
        Registry([]).with_local(one).with_local(two)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (None, "no such file"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("def f(:", "SyntaxError"),
        ("x = 1", "it has no hook"),
    ],
)
def test_a_bad_local_file_is_refused(tmp_path, code, told):
    if code:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(PluginError, match=told):
        Registry([]).with_local(tmp_path / "mine.py")


def test_recipes_are_named_by_plugin_and_path(install, tmp_path):
    code = PLUGIN.format(kind="codec", name="a", count=1)
    code += f"\n@hookimpl\ndef songkit_recipes():\n    return Path({str(tmp_path)!r}) / 'recipes'\n"
    install("songkit-alpha", code=code)
    (tmp_path / "recipes" / "deep").mkdir(parents=True)
    (tmp_path / "recipes" / "deep" / "one.yaml").write_text("format: 1\n")
    assert Registry.discover().recipes()["alpha/deep/one"] == tmp_path / "recipes" / "deep" / "one.yaml"
