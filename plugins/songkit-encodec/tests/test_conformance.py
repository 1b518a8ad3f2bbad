"""The conformance kit on both codecs."""

from songkit.testing import component_checks


@component_checks("encodec")
def test_conformance(check) -> None:
    check()
