"""The laws of drawings: songs of planners and refiners, step by step. What has no `drawing` obeys them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from songkit.decoding import Stage, run
from songkit.interfaces.drawing import PlanDrawing, TrackDrawing
from songkit.testing.checks import law, require
from songkit.testing.subject import Subject
from songkit.testing.towers import HOT, Given, Tower
from songkit.testing.unfolding import Unfolding

__all__: list[str] = []

GUIDED = dataclasses.replace(HOT, guidance=1.5)
SEEDS, MOST = (4, 5, 6, 7), 12


@law("drawing", "planner", "refiner")
def drawing(subject: Subject) -> None:
    """Its drawing draws what `generate` draws, ids, states and ends, however many songs are under way at once."""
    tower = Tower(subject)
    if not _has_drawing(tower):
        return
    given = _given(tower)
    codes, plan = tower.draw(given, GUIDED, SEEDS, max_frames=MOST)
    for places in (1, 3, len(SEEDS)):
        made = _add(tower, given, _unfolding(tower, given, whole=True))
        for _ in run(Stage(made, range(len(SEEDS)), places=places)):
            pass
        for row, length in enumerate(codes.lengths.tolist()):
            told = f"of song {row}, with {places} under way"
            require(
                _ids(made, row) == codes.ids[row, :, :length].tolist(), f"the ids {told}, are not those of generate"
            )
            if plan is None or not isinstance(made, PlanDrawing):
                continue
            song = made.songs[row]
            require(song.whole and song.frames == length, f"the drawing says {song.frames} frames {told}; {length} are")
            ended = plan.finished is None or song.finished == bool(plan.finished[row])
            require(ended, f"generate and the drawing do not agree whether the end {told}, is its own")
            require(song.prefix_states is not None, f"there are no states of the prefix {told}")
            assert song.prefix_states is not None
            states = torch.cat([song.prefix_states, torch.stack(song.states, 1)], 1)[0]
            own = plan.hidden[row][plan.mask[row]][-len(song.states) :]
            require(torch.equal(states[-len(song.states) :], own), f"the states {told}, are not those of generate")


@law("told", "planner")
def told(subject: Subject) -> None:
    """What its drawing tells of a song while it is drawn stays so: ids, states, and that no more will come."""
    tower = Tower(subject)
    if not _has_drawing(tower):
        return
    made = _add(tower, _given(tower), None)
    assert isinstance(made, PlanDrawing)
    before: list[tuple[list[list[int]], int, bool]] = [([], 0, False) for _ in SEEDS]
    for _ in run(Stage(made, range(len(SEEDS)))):
        for row, song in enumerate(made.songs):
            ids, states, whole = before[row]
            kept = all(now[: len(then)] == then for then, now in zip(ids, song.ids, strict=False))
            require(kept, f"ids of song {row} that were told are others a step later")
            require(len(song.states) >= states, f"states of song {row} that were told are gone a step later")
            more = (len(song.states), [len(own) for own in song.ids]) != (states, [len(own) for own in ids])
            require(not (whole and more), f"song {row} goes on after it was said to be whole")
            before[row] = [list(own) for own in song.ids], len(song.states), song.whole


@law("waits", "refiner")
def waits(subject: Subject) -> None:
    """Its drawing waits for what it reads: of a plan that is told step by step it draws what it draws of the whole."""
    tower = Tower(subject)
    if not _has_drawing(tower):
        return
    given = _given(tower)
    codes, _ = tower.draw(given, GUIDED, SEEDS)
    for together in (1, 5):  # steps that are told between two turns
        plans = _unfolding(tower, given) or []
        stage = Stage(_add(tower, given, plans), range(len(SEEDS)))
        while stage.busy:
            for plan in plans:
                for _ in range(together):
                    if not plan.whole:
                        plan.reveal()
            known = all(plan.whole for plan in plans)
            stage.turn()
            require(stage.moved > 0 or not known or not stage.busy, "it is not ready, and the plans are whole")
        for row, length in enumerate(codes.lengths.tolist()):
            same = _ids(stage.drawing, row) == codes.ids[row, :, :length].tolist()
            require(same, f"song {row} has other ids where its plan is told {together} steps a turn")


def _given(tower: Tower) -> Given:
    return tower.given((MOST, 9, MOST, 1), null=True)


def _has_drawing(tower: Tower) -> bool:
    options = {"max_frames": MOST} if tower.plans else {}
    return tower.built.drawing(sampling=GUIDED, **options) is not None


def _add(tower: Tower, given: Given, plans: Sequence[Unfolding] | None) -> PlanDrawing | TrackDrawing:
    """Returns a drawing with all songs, which have the numbers 0, 1, ..."""
    if plans is None:
        planned: PlanDrawing = tower.built.drawing(sampling=GUIDED, max_frames=MOST)
        numbers = [planned.add(given.conditions, row, seed) for row, seed in enumerate(SEEDS)]
        made: PlanDrawing | TrackDrawing = planned
    else:
        made = refined = tower.built.drawing(sampling=GUIDED)
        numbers = [refined.add(plan, given.conditions, i, SEEDS[i]) for i, plan in enumerate(plans)]
    require(
        numbers == list(range(len(SEEDS))), f"the songs that are added have the numbers {numbers}; expected 0, 1, ..."
    )
    return made


def _unfolding(tower: Tower, given: Given, *, whole: bool = False) -> list[Unfolding] | None:
    """Returns the plans of all songs, for refiners."""
    if given.plan is None:
        return None
    return [Unfolding(given.plan, row, tower.built.source_pattern, whole=whole) for row in range(len(SEEDS))]


def _ids(made: object, song: int) -> list[list[int]]:
    assert isinstance(made, PlanDrawing | TrackDrawing)
    return made.songs[song].ids if isinstance(made, PlanDrawing) else made.ids(song)
