"""Token patterns and their inverse, as properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from songkit.patterns import apply_delays, pattern_steps, revert_delays

delays = st.lists(st.integers(0, 9), min_size=1, max_size=4)


@given(delays=delays, frames=st.integers(0, 12), batch=st.integers(1, 3))
def test_reverting_gives_back_what_was_laid_out(delays: list[int], frames: int, batch: int) -> None:
    ids = torch.arange(batch * len(delays) * frames).reshape(batch, len(delays), frames)
    steps = apply_delays(ids, delays, fill=-1)
    assert steps.shape == (batch, len(delays), pattern_steps(frames, delays))
    assert torch.equal(revert_delays(steps, delays), ids)


@given(delays=delays, frames=st.integers(1, 12))
def test_each_frame_stands_at_its_delay_and_nothing_else_does(delays: list[int], frames: int) -> None:
    steps = apply_delays(torch.arange(frames).expand(1, len(delays), frames), delays, fill=-1)
    for k, delay in enumerate(delays):
        for f in range(frames):
            assert int(steps[0, k, 1 + f + delay]) == f
        assert int((steps[0, k] >= 0).sum()) == frames
    assert bool((steps[:, :, 0] == -1).all())


def test_a_wrong_number_of_delays_is_refused() -> None:
    with pytest.raises(ValueError, match="2 delays"):
        apply_delays(torch.zeros(1, 2, 3, dtype=torch.long), [1], fill=0)
    with pytest.raises(ValueError, match="0 or more"):
        apply_delays(torch.zeros(1, 1, 3, dtype=torch.long), [-1], fill=0)
