"""What judges of one song share."""

from __future__ import annotations

import numpy as np

from songkit_judges.remembered import remembered


def test_the_same_recording_is_measured_once():
    calls = []

    @remembered
    def measure(audio, rate, *, tracker="a"):
        calls.append(tracker)
        return float(audio.sum()) * rate

    audio = np.arange(6.0).reshape(2, 3)
    assert measure(audio, 2) == measure(audio.copy(), 2) == 30
    assert calls == ["a"]
    measure(audio, 2, tracker="b")
    assert measure(audio, 3) == 45
    measure(audio[:1], 2)
    measure(audio.astype(np.float32), 2)
    assert len(calls) == 5


def test_a_recording_that_was_changed_in_place_is_measured_again():
    @remembered
    def loudest(audio, rate):
        return float(audio.max())

    audio = np.ones(5)
    assert loudest(audio, 1) == 1
    audio[2] = 3
    assert loudest(audio, 1) == 3
    assert loudest(audio[::2], 1) == 3  # not contiguous


def test_only_the_last_few_are_kept():
    calls = []

    @remembered
    def first(audio, rate):
        calls.append(audio[0])
        return audio[0]

    for i in range(6):
        first(np.array([i]), 1)
    first(np.array([5]), 1)
    first(np.array([0]), 1)
    assert calls == [0, 1, 2, 3, 4, 5, 0]
