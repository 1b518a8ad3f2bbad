"""The planner obeys the laws of its kind, under each of the patterns."""

from __future__ import annotations

from typing import Any

from songkit.testing import component_checks
from songkit_planners.configs import StreamLMConfig


def under(config: StreamLMConfig) -> dict[str, Any]:
    return {"planners/stream-lm": config}


@component_checks("planners", examples=under(StreamLMConfig(tracks=["mix"], codebook_sizes=[32])))
def test_mixed(check) -> None:
    check()


@component_checks("planners", examples=under(StreamLMConfig(track_delay=1, codebook_sizes=[32])))
def test_parallel_delay(check) -> None:
    check()


@component_checks("planners", examples=under(StreamLMConfig(pattern="interleaved", codebook_sizes=[32])))
def test_interleaved(check) -> None:
    check()


@component_checks(
    "planners", examples=under(StreamLMConfig(tracks=["mix"], level_delay=1, codebook_sizes=[32, 16], cursor=False))
)
def test_level_delay(check) -> None:
    check()
