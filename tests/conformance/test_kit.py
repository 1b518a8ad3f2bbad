"""The kit finds what is wrong, by the right name, and nothing else; and its own components obey every law."""

from __future__ import annotations

import pytest
from conformance import broken, broken_language, broken_objectives, broken_rewards
from conformance.broken import BROKEN, BUILD_SECONDS, EVERYTHING, Broken

from songkit.testing import LAWS, checks_for
from songkit.testing.laws import every
from songkit.testing.standins import stand_in

for others in (broken_language, broken_objectives, broken_rewards):
    assert others.broken is broken.broken  # all files have filled BROKEN


def failures(entry) -> list[str]:
    found = []
    for check in checks_for(entry):
        try:
            check()
        except Exception:
            found.append(check.name)
    return found


@pytest.mark.parametrize(
    "kind", ["backbone", "codec", "conditioner", "objective", "planner", "refiner", "reward", "source"]
)
def test_the_kits_own_components_obey_every_law(kind):
    assert failures(stand_in(kind)) == []


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_component_fails_its_check(case: Broken, monkeypatch):
    if case.check == "build":
        monkeypatch.setattr(every, "BUILD_SECONDS", BUILD_SECONDS)
    [check] = [check for check in checks_for(case.entry) if check.name == case.check]
    with pytest.raises(Exception, match=r"\w") as caught:
        check()
    assert check.law in str(caught.value.__notes__)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in BROKEN if not {EVERYTHING, "build"} & {case.check, *case.also}], ids=str
)
def test_a_broken_component_fails_no_other_check(case: Broken):
    assert {case.check} <= set(failures(case.entry)) <= {case.check, *case.also}


def test_every_check_catches_a_broken_component():
    caught = {(case.check, kind) for case in BROKEN for kind in [case.entry.component.kind]}
    missing = [law for law in LAWS if not any(law.name == name and law.holds_for(kind) for name, kind in caught)]
    assert missing == []
    assert len(BROKEN) > len(LAWS)
