"""The engine: songs of any length in places that are taken again, each with the numbers it has alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from songkit import decoding
from songkit.components.configs import TransformerConfig
from songkit.components.transformer import Transformer
from songkit.decoding import BLOCK, Stage, block_sizes, run, run_songs
from songkit.interfaces.drawing import Drawing, Start

WIDTH = 16


class Counted(Drawing):
    """Songs that last as long as they are told, and keep their states."""

    def __init__(self, lengths: Sequence[int], tower: type[Transformer] = Transformer) -> None:
        torch.manual_seed(0)
        self.backbone = tower(TransformerConfig(dim=WIDTH, layers=2, heads=2, feed_forward=32)).eval()
        self.lengths, self.rows = lengths, 2
        self.states: list[list[Tensor]] = [[] for _ in lengths]
        self.company: list[int] = []

    def start(self, song: int) -> Start:
        draw = torch.Generator().manual_seed(song)
        x = torch.randn(self.rows, 3 + song, WIDTH, generator=draw)
        return Start(x, torch.ones(self.rows, 3 + song, dtype=torch.bool), self.lengths[song])

    def advance(self, songs: Sequence[int], states: Tensor) -> Tensor:
        self.company.append(len(songs))
        for song, state in zip(songs, states, strict=False):
            self.states[song].append(state)
        return torch.tanh(states)

    def done(self, song: int) -> bool:
        return len(self.states[song]) == self.lengths[song]


def finished(drawing: Drawing, songs: Sequence[int], places: int) -> list[int]:
    return [song for [ended] in run(Stage(drawing, songs, places=places)) for song in ended]


LENGTHS = [5, 2, 9, 1, 4, 7, 3, 6, 8, 2, 5]


@pytest.mark.parametrize("places", [1, 3, 4, 8, 16])
def test_a_song_has_the_states_it_has_alone_in_any_number_of_places(places: int) -> None:
    together = Counted(LENGTHS)
    ended = finished(together, range(len(LENGTHS)), places)
    assert sorted(ended) == list(range(len(LENGTHS)))
    for song in (0, 2, 10):
        alone = Counted(LENGTHS)
        finished(alone, [song], 1)
        assert torch.equal(torch.stack(alone.states[song]), torch.stack(together.states[song]))


def test_the_place_of_a_song_that_ended_is_taken_by_the_next() -> None:
    drawing = Counted(LENGTHS)
    finished(drawing, range(len(LENGTHS)), 4)
    assert max(drawing.company) == 4
    assert sum(drawing.company) == sum(LENGTHS)
    # Places stay empty only when no song is left to take them: after the last has begun, at most its length.
    assert len(drawing.company) <= sum(LENGTHS) / 4 + max(LENGTHS)
    assert len(drawing.company) < sum(max(LENGTHS[i : i + 4]) for i in range(0, len(LENGTHS), 4))


def test_songs_are_asked_for_when_a_place_is_free() -> None:
    asked: list[int] = []

    def songs():
        for song in range(6):
            asked.append(song)
            yield song

    stage = Stage(Counted([2] * 6), songs(), places=2)
    stage.turn()
    assert asked == [0, 1]
    assert finished_count(stage) == 6


def finished_count(stage: Stage) -> int:
    return sum(len(ended) for [ended] in run(stage))


def test_blocks_whose_rows_come_out_otherwise_are_not_used() -> None:
    exact = Counted(LENGTHS)
    finished(exact, range(len(LENGTHS)), 8)

    class Rounding(Transformer):
        """Its numbers depend on how many rows there are, as those of many kernels do."""

        def step(self, x, caches):
            return super().step(x, caches) + 1e-3 * (len(caches) - BLOCK)

    drawing = Counted(LENGTHS, Rounding)
    assert block_sizes(drawing, 16) == [BLOCK]
    finished(drawing, range(len(LENGTHS)), 8)
    assert torch.equal(torch.stack(drawing.states[2]), torch.stack(exact.states[2]))


def test_sizes_are_tried_once_for_each_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, tried = Counted([1]), []
    monkeypatch.setattr(decoding, "_agrees", lambda drawing, size, weight: tried.append(size) or size < 16)
    assert block_sizes(drawing, 9) == block_sizes(drawing, 16) == [1, 2, 4, 8]
    assert tried == [1, 2, 8, 16]


def test_songs_that_wait_for_nothing_are_a_defect() -> None:
    drawing = Counted([1, 1])
    drawing.ready = lambda song: song == 0
    with pytest.raises(RuntimeError, match="wait"):
        finished(drawing, [0, 1], 2)


def test_wall_time_is_shared_out_over_the_songs_under_way() -> None:
    stage = Stage(Counted([1, 60]), [0, 1])
    for _ in run(stage):
        pass
    assert 0 < stage.seconds[0] < stage.seconds[1]


def test_a_function_may_advance_songs_one_at_a_time() -> None:
    tower = Counted([]).backbone
    prefixes = [(torch.randn(1, 2 + song, WIDTH), torch.ones(1, 2 + song, dtype=torch.bool)) for song in range(3)]
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def advance(song: int, step: int, states: Tensor) -> Tensor | None:
        seen.append((song, step, tuple(states.shape)))
        return torch.ones(1, WIDTH) if step < song else None

    run_songs(tower, prefixes, advance, steps=[3] * 3)
    own = [shape for song, _, shape in seen if song == 2]
    assert own == [(1, 4, WIDTH), (1, WIDTH), (1, WIDTH)]
    assert [step for song, step, _ in seen if song == 1] == [0, 1]
