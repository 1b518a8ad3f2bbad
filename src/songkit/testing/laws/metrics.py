"""The laws of metrics: what is judged, pooled and merged."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from songkit.testing import samples
from songkit.testing.checks import law, require
from songkit.testing.judging import heard, judge, update
from songkit.testing.subject import Subject
from songkit.types import TRACKS

__all__: list[str] = []

_NEEDS = (*TRACKS, "lyrics", "description", "alignment", "reference")


@law("info", "metric")
def info(subject: Subject) -> None:
    """What a metric needs, its unit and its direction are said in terms that the program knows."""
    told = subject.build().info
    unknown = sorted(set(told.needs) - set(_NEEDS))
    require(not unknown, f"needs {', '.join(unknown)}; known are {', '.join(_NEEDS)}")
    require(bool(told.unit.strip()), "the unit is empty; write what the numbers count, such as 'share' or 'dB'")
    for name in ("higher_is_better", "per_song"):
        require(isinstance(getattr(told, name), bool), f"{name} is {getattr(told, name)!r}; expected true or false")


@law("needs", "metric")
def needs(subject: Subject) -> None:
    """What `info.needs` names is enough: a song that holds nothing else can be judged."""
    metric = subject.build()
    try:
        metric = judge(metric, range(2), bare=True)
        metric.compute()
    except Exception as error:
        told = ", ".join(sorted(metric.info.needs)) or "nothing"
        error.add_note(f"the songs held what info.needs names ({told}) and nothing else")
        raise


@law("bounds", "metric")
def bounds(subject: Subject) -> None:
    """All numbers are finite, each within its interval of `_low` and `_high`; `info.opposite` names some of them."""
    metric = judge(subject.build(), range(3))
    numbers = metric.compute()
    require(bool(numbers), "compute gave no number for three songs that hold everything")
    unknown = sorted(metric.info.opposite - set(numbers))
    require(not unknown, f"info.opposite names {', '.join(unknown)}; the numbers are {', '.join(sorted(numbers))}")
    for name, value in numbers.items():
        number = float(value)
        require(math.isfinite(number), f"{name} is {number}")
        low, high = (float(numbers.get(f"{name}_{end}", value)) for end in ("low", "high"))
        require(low <= number <= high, f"{name} is {number:g}, outside of its interval from {low:g} to {high:g}")


@law("merged", "metric")
def merged(subject: Subject) -> None:
    """States of two processes that are merged give the same as one pass over all songs, in any order."""
    whole = judge(subject.build(), range(3)).compute()
    first, second = judge(subject.build(), [2]), judge(subject.build(), [0, 1])
    first.merge_state(second)
    _same(whole, first.compute(), "after merging the states of two parts")


@law("batch", "metric")
def batch(subject: Subject) -> None:
    """Songs that are judged together, padded to one length, get the same as one by one."""
    together = subject.build()
    update(together, [0, 1])
    _same(judge(subject.build(), [0, 1]).compute(), together.compute(), "when two songs come in one batch")


@law("reset", "metric")
def reset(subject: Subject) -> None:
    """A metric that was reset knows nothing of the songs before."""
    metric = judge(subject.build(), [2])
    metric.reset()
    _same(judge(subject.build(), [0, 1]).compute(), judge(metric, [0, 1]).compute(), "after a reset")


@law("per-song", "metric")
def per_song(subject: Subject) -> None:
    """`per_song` has a row for each song in the order of coming in, with its id and, if promised, a finite number."""
    metric = judge(subject.build(), [1, 0])
    rows = metric.per_song()
    if not metric.info.per_song and not rows:
        return
    ids = [row.get("id") for row in rows]
    expected = [samples.song(number).id for number in (1, 0)]
    require(ids == expected, f"the rows are of {ids}; expected {expected}")
    for row in rows:
        numbers = [value for name, value in row.items() if name != "id" and isinstance(value, (int, float))]
        broken = [value for value in numbers if not math.isfinite(value)]
        require(not broken, f"the row of {row['id']} holds {broken}; leave out what cannot be told")
    if metric.info.per_song:
        numbers_of = [n for row in rows for n, value in row.items() if n != "id" and isinstance(value, (int, float))]
        require(bool(numbers_of), "info.per_song is true, and no row of two full songs has a number")


@law("inputs-kept", "metric")
def inputs_kept(subject: Subject) -> None:
    """Judging leaves the audio as it was: other metrics read it as well."""
    metric = subject.build()
    audio, songs, reference = heard(metric, [0, 1], bare=False)
    before = copy.deepcopy(audio)
    metric.update(audio, songs, reference)
    for name, track in before.tracks.items():
        require(torch.equal(track, audio.tracks[name]), f"the {name} track was changed in place")


def _same(one: dict[str, Tensor], other: dict[str, Tensor], when: str) -> None:
    require(set(one) == set(other), f"{sorted(set(one) ^ set(other))} is there only once {when}")
    for name, value in one.items():
        close = torch.allclose(value.double(), other[name].double(), rtol=1e-6, atol=1e-9, equal_nan=True)
        require(close, f"{name} is {float(other[name]):g} {when}, and {float(value):g} otherwise")
