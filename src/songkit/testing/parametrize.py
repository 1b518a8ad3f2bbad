"""The checks of a plugin as a parametrised pytest test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from songkit.errors import PluginError, did_you_mean
from songkit.registry import Registry
from songkit.testing.checks import Check, checks_for

__all__ = ["component_checks"]


def component_checks(
    *plugins: str,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
    examples: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> Any:
    """Returns a decorator that runs a test for every check of every component of some plugins.

        @component_checks("acme", expected_failures={"acme/codec": {"padding": "the transform sees the whole file"}})
        def test_conformance(check):
            check()

    Args:
        plugins: Their names, `acme` for the distribution `songkit-acme`; all that are installed if none is given.
        expected_failures: By id and check, why the check fails. One that passes all the same is a failure.
        examples: By id, a config to build instead of the declared example, or a function that returns it.
        registry: What is installed; found out by default.

    Raises:
        PluginError: If a plugin is not installed or broken, or if `expected_failures` or `examples` name a component
            or check that there is not, or give no reason.
    """
    import pytest

    registry = Registry.discover() if registry is None else registry
    names = plugins or [record.name for record in registry.plugins]
    for plugin in names:
        record = next((record for record in registry.plugins if record.name == plugin), None)
        if record is None:
            hint = did_you_mean(plugin, [record.name for record in registry.plugins])
            raise PluginError(f"no plugin '{plugin}' is installed.{hint} Install it: pip install -e <its folder>")
        if record.error is not None:
            raise PluginError(f"the plugin '{plugin}' is broken: {record.error}") from record.error
    entries = [entry for entry in registry.list() if entry.plugin.name in names]
    examples = examples or {}
    checks = [check for entry in entries for check in checks_for(entry, example=examples.get(entry.id))]
    reasons = _reasons(checks, expected_failures or {}, examples, names)
    parameters = []
    for check in checks:
        marks = [pytest.mark.skip(reason=check.skip)] if check.skip else []
        marks += [pytest.mark.slow] if check.slow else []
        reason = reasons.get((check.component, check.name))
        marks += [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=f"{check.kind}:{check.component}-{check.name}", marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _reasons(
    checks: list[Check], expected: Mapping[str, Mapping[str, str]], examples: Mapping[str, Any], names: Iterable[str]
) -> dict[tuple[str, str], str]:
    """Returns the reasons by component and check, after making sure that each is of something there is."""
    known = {component: [c.name for c in checks if c.component == component] for component in _components(checks)}
    for component in (*expected, *examples):
        if component not in known:
            hint = did_you_mean(component, known)
            raise PluginError(
                f"'{component}' is no component of {', '.join(names)}.{hint} There are {', '.join(known)}."
            )
    reasons = {}
    for component, failures in expected.items():
        for name, reason in failures.items():
            if name not in known[component]:
                hint = did_you_mean(name, known[component])
                raise PluginError(f"{component} has no check '{name}'.{hint} It has {', '.join(known[component])}.")
            if not reason.strip():
                raise PluginError(f"the expected failure '{name}' of {component} has no reason: say why it fails")
            reasons[component, name] = reason
    return reasons


def _components(checks: list[Check]) -> list[str]:
    return list(dict.fromkeys(check.component for check in checks))
