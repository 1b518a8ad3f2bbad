"""How checks are chosen, marked and run."""

from __future__ import annotations

import dataclasses
import os
import random
import socket

import numpy as np
import pytest
import torch
from conformance import broken
from conformance.broken import BROKEN

from songkit.errors import PluginError
from songkit.plugin import KINDS
from songkit.registry import PluginRecord, Registry
from songkit.testing import LAWS, TAGS, Check, checks_for, component_checks
from songkit.testing.guard import guarded, process_state
from songkit.testing.standins import ModelConfig, stand_in

PLUGIN = PluginRecord("acme", "songkit-acme", "1.0", components=(stand_in("codec"), stand_in("planner")))
REGISTRY = Registry([PLUGIN, PluginRecord("bad", "songkit-bad", "1.0", failure=PluginError("it has no wheels"))])
CODEC = "acme/tiny-codec"


def parameters(plugin="acme", registry=REGISTRY, **options):
    return {p.id: p for p in component_checks(plugin, registry=registry, **options).args[1]}


def marks(parameter):
    return {mark.name: mark for mark in parameter.marks}


def tagged(*tags: str) -> Registry:
    component = dataclasses.replace(stand_in("codec"), tags=frozenset(tags))
    return Registry([dataclasses.replace(PLUGIN, components=(component,))])


def test_a_component_has_the_checks_of_its_kind():
    for kind in KINDS:
        component = dataclasses.replace(stand_in("codec"), kind=kind)
        names = [check.name for check in checks_for(component)]
        assert names == [law.name for law in LAWS if not law.kinds or kind in law.kinds]
        assert len(set(names)) == len(names)


def test_every_law_is_a_sentence():
    for law in LAWS:
        assert law.sentence.endswith("."), law.name
        assert set(law.kinds) <= set(KINDS), law.name


def test_a_plugins_checks_are_parameters_named_by_kind_component_and_check():
    found = parameters()
    assert {name.split(":")[0] for name in found} == {"codec", "planner"}
    check = found[f"codec:{CODEC}-padding"].values[0]
    assert isinstance(check, Check)
    check()


def test_an_expected_failure_is_strict_and_tells_why():
    found = parameters(expected_failures={CODEC: {"padding": "it hears the padding"}})
    xfail = marks(found[f"codec:{CODEC}-padding"])["xfail"]
    assert xfail.kwargs == {"reason": "it hears the padding", "strict": True}
    assert "xfail" not in marks(found[f"codec:{CODEC}-batch"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"plugin": "acne"}, "no plugin 'acne' is installed. Did you mean 'acme'?"),
        ({"plugin": "bad"}, "the plugin 'bad' is broken: it has no wheels"),
        ({"expected_failures": {"acme/tiny-codek": {}}}, "Did you mean 'acme/tiny-codec'?"),
        ({"expected_failures": {CODEC: {"pading": "why"}}}, "no check 'pading'. Did you mean 'padding'?"),
        ({"expected_failures": {CODEC: {"padding": " "}}}, "has no reason"),
        ({"examples": {"acme/nothing": ModelConfig()}}, "'acme/nothing' is no component of acme"),
    ],
)
def test_what_names_nothing_is_refused(arguments, told):
    with pytest.raises(PluginError) as caught:
        parameters(**arguments)
    assert told in str(caught.value)


def test_tags_skip_and_mark_the_checks_that_build():
    assert set(TAGS) == {"needs-files", "slow"}
    found = parameters(registry=tagged("needs-files"))
    assert "give `examples`" in marks(found[f"codec:{CODEC}-padding"])["skip"].kwargs["reason"]
    assert "skip" not in marks(found[f"codec:{CODEC}-declaration"])
    found = parameters(registry=tagged("needs-files"), examples={CODEC: ModelConfig})
    assert "skip" not in marks(found[f"codec:{CODEC}-padding"])
    found = parameters(registry=tagged("slow"))
    assert "slow" in marks(found[f"codec:{CODEC}-padding"])
    assert "slow" not in marks(found[f"codec:{CODEC}-declaration"])


def test_another_example_is_the_one_that_is_built():
    checks = checks_for(stand_in("codec"), example=lambda: ModelConfig(sizes={"mix": [0]}))
    with pytest.raises(Exception, match="ids of Stream"):
        next(check for check in checks if check.name == "layout")()


@pytest.mark.parametrize("factory", [broken.SetsVariable, broken.ChangesFolder, broken.AllCores, broken.GradientsOff])
def test_a_check_leaves_the_process_as_it_was(factory):
    [case] = [case for case in BROKEN if case.entry.component.factory.endswith(f":{factory.__name__}")]
    before = process_state()
    with pytest.raises(AssertionError):
        next(check for check in checks_for(case.entry) if check.name == case.check)()
    assert process_state() == before


def test_connections_are_refused_and_written_down():
    with guarded() as attempts:
        with pytest.raises(PermissionError, match="take files as options"):
            socket.create_connection(("192.0.2.1", 80))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, pytest.raises(PermissionError):
            one.sendto(b"hello", ("192.0.2.1", 53))
        left, right = socket.socketpair()  # between processes of this machine
        left.sendall(b"hello")
        assert right.recv(5) == b"hello"
        left.close()
        right.close()
    assert len(attempts) == 2
    assert "192.0.2.1" in attempts[0]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("torch's random state", lambda: torch.rand(1)),
        ("numpy's random state", lambda: np.random.rand()),
        ("python's random state", random.random),
        ("default dtype", lambda: torch.set_default_dtype(torch.float64)),
        ("threads", lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
        ("gradients", lambda: torch.set_grad_enabled(False)),
        ("environment", lambda: os.environ.update(SONGKIT_KIT="1")),
        ("working directory", lambda: os.chdir("/")),
    ],
)
def test_each_part_of_the_process_is_seen_and_put_back(name, change):
    before = process_state()
    with guarded():
        change()
        changed = process_state()
    assert [key for key in before if changed[key] != before[key]] == [name]
    assert process_state() == before
