"""Token patterns: two operations that undo each other, and where everything stands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from songkit.patterns import Pattern, delayed, flat, interleaved, parallel

counts = st.integers(1, 5)
delays = st.lists(st.integers(0, 9), min_size=1, max_size=5)
patterns = st.one_of(
    counts.map(parallel),
    delays.map(delayed),
    counts.map(flat),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=5).map(
        lambda rows: interleaved([turn for turn, _ in rows], [delay for _, delay in rows])
    ),
    st.builds(Pattern, st.integers(1, 4), delays.map(tuple)),
)


@given(pattern=patterns, frames=st.integers(0, 12), batch=st.integers(1, 3))
def test_reverting_gives_back_what_was_laid_out(pattern: Pattern, frames: int, batch: int) -> None:
    streams = len(pattern.offsets)
    ids = torch.arange(batch * streams * frames).reshape(batch, streams, frames)
    steps = pattern.apply(ids, fill=-1)
    assert steps.shape == (batch, streams, pattern.steps(frames))
    assert torch.equal(pattern.revert(steps), ids)


@given(pattern=patterns, frames=st.integers(1, 12))
def test_each_frame_stands_where_the_rule_says_and_nothing_else_does(pattern: Pattern, frames: int) -> None:
    streams = len(pattern.offsets)
    steps = pattern.apply(torch.arange(frames).expand(1, streams, frames), fill=-1)[0]
    assert bool((steps[:, 0] == -1).all())
    assert bool((steps[:, -1] >= 0).any())  # not a step more than needed
    for k in range(streams):
        assert int((steps[k] >= 0).sum()) == frames
    for step in range(steps.shape[1]):
        told = {stream: frame for stream, frame in pattern.at(step) if frame < frames}
        assert told == {k: int(id) for k, id in enumerate(steps[:, step]) if id >= 0}


@given(pattern=patterns, step=st.integers(0, 30))
def test_the_lead_comes_first(pattern: Pattern, step: int) -> None:
    frames = dict(pattern.at(step))
    if pattern.lead in frames:
        assert pattern.at(step)[0][0] == pattern.lead
    # No stream is ever ahead of it, so that the lead alone can end a song.
    reached = (step - 1 - min(pattern.offsets)) // pattern.stride
    assert all(frame <= reached for frame in frames.values())


def test_the_named_patterns_are_the_published_ones() -> None:
    ids = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    lay = lambda pattern: pattern.apply(ids, fill=0)[0].tolist()  # noqa: E731  # five uses of one expression
    assert lay(parallel(2)) == [[0, 1, 2, 3], [0, 4, 5, 6]]
    assert lay(delayed([0, 1])) == [[0, 1, 2, 3, 0], [0, 0, 4, 5, 6]]
    assert lay(interleaved([0, 1])) == [[0, 1, 0, 2, 0, 3, 0], [0, 0, 4, 0, 5, 0, 6]]
    assert lay(interleaved([1, 0])) == [[0, 0, 1, 0, 2, 0, 3], [0, 4, 0, 5, 0, 6, 0]]
    assert flat(2) == interleaved([0, 1])
    # Two tracks with two levels each: tracks take turns, the upper level runs a frame behind.
    assert interleaved([0, 0, 1, 1], [0, 1, 0, 1]) == Pattern(2, (0, 2, 1, 3))


def test_patterns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="offset of 0 or more"):
        delayed([0, -1])
    with pytest.raises(ValueError, match="stride of 1 or more"):
        Pattern(0, (0,))
    with pytest.raises(ValueError, match="2 streams cannot lay out 3"):
        parallel(2).apply(torch.zeros(1, 3, 4, dtype=torch.long), fill=0)
    with pytest.raises(ValueError, match="2 streams cannot take back 3"):
        parallel(2).revert(torch.zeros(1, 3, 4, dtype=torch.long))
