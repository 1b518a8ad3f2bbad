"""The conformance kit on the codecs."""

from songkit.testing import component_checks


@component_checks("dac")
def test_conformance(check) -> None:
    check()
