"""The laws of conditioners."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from songkit.interfaces import Conditioner
from songkit.request import SongRequest
from songkit.testing import samples
from songkit.testing.checks import law, require
from songkit.testing.subject import Subject
from songkit.types import Conditions, Section

__all__: list[str] = []

CLOSE = 1e-5
SIDES = ("planner", "refiner")


@law("shapes", "conditioner")
def shapes(subject: Subject) -> None:
    """A prefix [B, P, D] of its width with a bool mask [B, P]; a tape, if there is one, is [B, L, D]. All is finite."""
    built: Conditioner = subject.build()
    for side in SIDES:
        made = _made(built, samples.requests(3), null=True, side=side)
        assert made.null is not None
        for name, part in (("conditions", made), ("null branch", made.null)):
            where = f"the {name} of the {side}"
            shape = (3, part.mask.shape[-1], built.width)
            require(part.prefix.shape == shape, f"{where} have the prefix {list(part.prefix.shape)}, not {list(shape)}")
            require(part.mask.dtype == torch.bool, f"the mask of {where} is {part.mask.dtype}; expected torch.bool")
            require(bool(torch.isfinite(part.prefix).all()), f"{where} are not finite")
            if part.tape is None:
                continue
            require(part.tape.shape[::2] == (3, built.width), f"the tape of {where} is {list(part.tape.shape)}")
            require(part.tape_lengths is not None, f"{where} have a tape without tape_lengths")
            assert part.tape_lengths is not None
            longest = int(part.tape_lengths.max())
            require(
                longest == part.tape.shape[1], f"the tape of {where} is {part.tape.shape[1]} long; its songs {longest}"
            )


@law("mask", "conditioner")
def mask(subject: Subject) -> None:
    """Padding stands in front, and every song has at least one position that counts, in the null branch as well."""
    built: Conditioner = subject.build()
    made = _made(built, samples.requests(3), null=True)
    assert made.null is not None
    for name, part in (("conditions", made), ("null branch", made.null)):
        require(bool(part.mask.any(1).all()), f"a song has no position that counts in the {name}")
        behind = (part.mask[:, :-1] & ~part.mask[:, 1:]).any()
        require(not bool(behind), f"padding of the {name} stands behind positions that count: pad on the left")


@law("null-branch", "conditioner")
def null_branch(subject: Subject) -> None:
    """The null branch is there when it is asked for, and knows neither lyrics nor description."""
    built: Conditioner = subject.build()
    [one] = samples.requests(1)
    require(_made(built, [one]).null is None, "there is a null branch that nobody has asked for")
    asked = [_made(built, [request], null=True).null for request in (one, _other_words(one))]
    require(all(part is not None for part in asked), "there is no null branch with null=True")
    first, second = (part.prefix[0][part.mask[0]] for part in asked if part is not None)
    require(_close(first, second), "the null branch is another one for other lyrics and another description")


@law("own-conditions", "conditioner")
def own_conditions(subject: Subject) -> None:
    """Song i has the conditions of request i, the same alone and in a batch, in any order."""
    built: Conditioner = subject.build()
    requests = samples.requests(3)
    for order in ((0, 1, 2), (2, 0, 1)):
        together = _made(built, [requests[i] for i in order])
        for row, number in enumerate(order):
            alone = _made(built, [requests[number]])
            for name, one, other in (
                ("prefix", together.prefix[row][together.mask[row]], alone.prefix[0][alone.mask[0]]),
                ("tape", _tape(together, row), _tape(alone, 0)),
            ):
                require(
                    _close(one, other), f"the {name} of request {number} is another one as song {row} of {len(order)}"
                )


@law("hears-words", "conditioner")
def hears_words(subject: Subject) -> None:
    """Other lyrics give other conditions, and so do their order and their sections."""
    built: Conditioner = subject.build()
    request = SongRequest(id="kit", sections=(Section("verse", ("golden river", "carry me")),))
    before = _made(built, [request])
    for name, sections in (
        ("other lyrics give", (Section("verse", ("lonely mountain", "carry me")),)),
        ("lines in another order give", (Section("verse", ("carry me", "golden river")),)),
        ("another section gives", (Section("chorus", ("golden river", "carry me")),)),
    ):
        after = _made(built, [dataclasses.replace(request, sections=sections)])
        one, other = before.prefix[0][before.mask[0]], after.prefix[0][after.mask[0]]
        require(not _close(one, other), f"{name} the same conditions")


@law("cursor", "conditioner")
def cursor(subject: Subject) -> None:
    """Where it says what is sung at each frame, it never goes back nor beyond the tape, and `align` is its inverse."""
    built: Conditioner = subject.build()
    song = samples.song(0)
    request, frames = SongRequest.of(song), round(song.seconds * 25)
    assert song.alignment is not None
    found = built.cursor(request, song.alignment, frames, 25.0)
    if found is None:
        return
    made = _made(built, [request])
    require(made.tape_lengths is not None, "there is a cursor, and no tape for it to point into")
    assert made.tape_lengths is not None
    last = int(made.tape_lengths[0]) - 1
    require(found.shape == (frames,), f"{frames} frames gave a cursor of the shape {found.shape}")
    require(bool((np.diff(found) >= 0).all()), "the cursor goes back")
    require(
        found[0] >= 0 and found[-1] <= last, f"the cursor goes from {found[0]} to {found[-1]}; the tape ends at {last}"
    )
    again = built.align(request, found, 25.0)
    require(again is not None, "align gives nothing for a cursor of its own")
    assert again is not None
    truth = [span.label for span in song.alignment.sections]
    tags = [span.label for span in again.sections]
    require(tags == truth, f"align finds the sections {tags}; sung were {truth}")
    for told, span in zip(again.sections, song.alignment.sections, strict=True):
        # Consonants come before the beat, and a cursor moves no faster than its reach: a quarter of a second.
        off = max(abs(told.start - span.start), abs(told.end - span.end))
        require(off <= 0.25, f"align is {off:.2f} s off in the section '{span.label}'")


def _made(built: Conditioner, requests: list[SongRequest], *, null: bool = False, side: str = "planner") -> Conditions:
    with torch.no_grad():
        return built(requests, null=null, side=side)


def _tape(made: Conditions, row: int) -> Tensor:
    if made.tape is None or made.tape_lengths is None:
        return torch.zeros(0)
    return made.tape[row, : int(made.tape_lengths[row])]


def _other_words(request: SongRequest) -> SongRequest:
    sections = tuple(dataclasses.replace(s, lines=tuple("paper lantern" for _ in s.lines)) for s in request.sections)
    return dataclasses.replace(request, sections=sections, description="male, rock, dark, the bpm is 80")


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=CLOSE)
