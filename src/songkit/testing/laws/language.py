"""The laws of planners and refiners."""

from __future__ import annotations

import dataclasses

import torch

from songkit.interfaces import TrackRefiner
from songkit.testing import samples
from songkit.testing.checks import law, require
from songkit.testing.subject import Subject
from songkit.testing.towers import GREEDY, HOT, PLAIN, Given, Tower
from songkit.types import Codes, Stream
from songkit.vocabulary import logit_scores

__all__: list[str] = []

BOTH = ("planner", "refiner")

CLOSE = 1e-4
"""Largest difference, as a share of the largest logit, of logits that are the same but for rounding."""


@law("shapes", *BOTH)
def shapes(subject: Subject) -> None:
    """Taught with F frames, it gives finite logits [B, K, F, V] or more, and states over prefix and steps."""
    tower = Tower(subject)
    given, codes = tower.given(), samples.codes(tower.layout)
    plan = tower.teach(codes, given)
    require(
        plan.codes.layout == tower.layout, f"the codes are of {plan.codes.layout}, not of its layout {tower.layout}"
    )
    require(plan.logits is not None, "there are no logits: without them it cannot be trained")
    assert plan.logits is not None
    batch, streams, frames = codes.ids.shape
    most = (batch, streams, frames + tower.plans, max(stream.size for stream in tower.layout.streams) + tower.plans)
    fits = plan.logits.dim() == 4 and plan.logits.shape[:2] == most[:2] and plan.logits.shape[2:] >= most[2:]
    require(fits, f"logits have the shape {list(plan.logits.shape)}; expected {list(most)}")
    require(bool(torch.isfinite(plan.logits).all()), "some logits are not finite")
    require(plan.mask.dtype == torch.bool, f"the mask is {plan.mask.dtype}; expected torch.bool")
    same = plan.hidden.dim() == 3 and plan.hidden.shape[:2] == plan.mask.shape
    require(same, f"states {list(plan.hidden.shape)} and mask {list(plan.mask.shape)} do not fit")
    if tower.plans:
        require(plan.hidden.shape[2] == tower.width, f"states have the width {plan.hidden.shape[2]}, not {tower.width}")
        steps, needed = plan.hidden.shape[1] - given.conditions.prefix.shape[1], tower.pattern.steps(frames)
        require(steps >= needed, f"there are states of {steps} steps; {frames} frames have {needed} in its pattern")
    for name, value in plan.losses.items():
        require(value.numel() == 1 and bool(torch.isfinite(value)), f"the loss {name} is {value}")


@law("scores", *BOTH)
def scores(subject: Subject) -> None:
    """`score` says of every id and of the end of song what the logits say, and counts nothing else of the layout."""
    tower = Tower(subject)
    given, codes = tower.given(), samples.codes(tower.layout)
    codes.ended = torch.tensor([True, False])
    logits = tower.teach(codes, given).logits
    assert logits is not None
    with torch.no_grad():
        built = tower.built
        plan = built.score(codes, given.conditions) if tower.plans else built.score(given.plan, codes, given.conditions)
    found, wanted = plan.scores, logit_scores(logits, codes)
    require(found is not None, "score gives a plan without scores")
    streams = len(tower.layout)
    told = f"the streams are {', '.join(found.streams)}; the layout's come first: {', '.join(wanted.streams)}"
    require(found.streams[:streams] == wanted.streams, told)
    require(bool(torch.isfinite(found.log_probabilities).all()), "some log-probabilities are not finite")
    frames = wanted.counted.shape[2]
    require(torch.equal(found.counted[:, :streams, :frames], wanted.counted), "it counts other frames than those sung")
    off = float((found.log_probabilities[:, :streams, :frames] - wanted.log_probabilities).abs().max())
    require(
        off < CLOSE * (1 + float(logits.abs().max())), f"log-probabilities differ from the logits' by {off:.2g} nats"
    )


@law("causal", *BOTH)
def causal(subject: Subject) -> None:
    """An id's logits depend on the ids that stand before it in the pattern only, and on some of them."""
    tower = Tower(subject)
    streams, frames = len(tower.layout), 5
    given = tower.given([frames] * (1 + streams * frames), alike=True)
    base = samples.codes(tower.layout, (frames,)).ids.repeat(len(given.lengths), 1, 1)
    places = [(k, f) for k in range(streams) for f in range(frames)]
    for row, (k, f) in enumerate(places, 1):  # each row differs from the first in one id
        size = tower.layout.streams[k].size
        base[row, k, f] = (base[row, k, f] + 1 + size // 2) % size
    logits = tower.teach(Codes(base, torch.tensor(given.lengths), tower.layout), given).logits
    assert logits is not None
    moved = (logits - logits[:1]).abs().amax(-1) / logits.abs().max()
    heard = False
    for row, (k, f) in enumerate(places, 1):
        for other, at in places:
            if _step(tower, k, f) < _step(tower, other, at):
                heard |= float(moved[row, other, at]) > 0
                continue
            found = float(moved[row, other, at])
            require(
                found < CLOSE,
                f"the logits of {_name(tower, other)} at frame {at} depend on the id of {_name(tower, k)} at frame "
                f"{f}, which stands {'there' if (k, f) == (other, at) else 'no earlier'} (by {found:.2g})",
            )
    require(heard, "no logits depend on any id before them")


@law("padding", *BOTH)
def padding(subject: Subject) -> None:
    """Taught in a batch, a shorter song has the logits that it has alone."""
    tower = Tower(subject)
    given, codes = tower.given(), samples.codes(tower.layout)
    together = tower.teach(codes, given).logits
    length = given.lengths[1]
    part = Codes(codes.ids[1:, :, :length], codes.lengths[1:], codes.layout)
    alone = tower.teach(part, tower.alone(given, 1)).logits
    assert together is not None
    assert alone is not None
    error = (together[1:, :, :length] - alone[:, :, :length]).abs().max() / alone.abs().max()
    require(float(error) < CLOSE, f"its logits move by {float(error):.2g} of their size beside a longer song")


@law("conditioned", *BOTH)
def conditioned(subject: Subject) -> None:
    """Other conditions give other logits, and for a refiner another plan does."""
    tower = Tower(subject)
    given, codes = tower.given(), samples.codes(tower.layout)
    before = tower.teach(codes, given).logits
    other = dataclasses.replace(given, conditions=tower.given(seed=5).conditions)
    _differ(before, tower.teach(codes, other).logits, "other conditions change no logits")
    if given.plan is not None:
        plan = dataclasses.replace(given.plan, hidden=given.plan.hidden.flip(2))
        _differ(
            before, tower.teach(codes, dataclasses.replace(given, plan=plan)).logits, "another plan changes no logits"
        )


@law("generated", *BOTH)
def generated(subject: Subject) -> None:
    """Drawn greedily, step by step, each id is the most likely one of a taught pass over the same ids."""
    tower = Tower(subject)
    given = tower.given()
    codes, plan = tower.draw(given, GREEDY, [1, 2])
    for row, length in enumerate(codes.lengths.tolist()):
        if not length:
            continue
        part = Codes(codes.ids[row : row + 1, :, :length], codes.lengths[row : row + 1], codes.layout)
        own = tower.alone(dataclasses.replace(given, lengths=tuple(codes.lengths.tolist())), row)
        if plan is not None and plan.cursor is not None:
            own.conditions.cursor = plan.cursor[row : row + 1, :length]
        taught = tower.teach(part, own)
        assert taught.logits is not None
        for k, stream in enumerate(tower.layout.streams):
            logits = taught.logits[0, k, :length, : stream.size]
            drawn = logits.gather(1, part.ids[0, k, :, None])[:, 0]
            behind = (logits.amax(1) - drawn) / logits.abs().max()
            at = int(behind.argmax())
            require(
                float(behind[at]) < CLOSE,
                f"song {row}, {_name(tower, k)}, frame {at}: an id is likelier than {int(part.ids[0, k, at])} when "
                f"it is taught (by {float(behind[at]):.2g} of the largest logit)",
            )
        if plan is not None:
            _same_states(plan.hidden[row][plan.mask[row]], taught.hidden[0][taught.mask[0]], row)


@law("guidance", *BOTH)
def guidance(subject: Subject) -> None:
    """Guidance of 1 is none: the null branch changes nothing. Towards a null branch like the conditions neither."""
    tower = Tower(subject)
    given = tower.given(null=True)
    plain = _without_null(given)
    free, _ = tower.draw(plain, PLAIN, [1, 2])
    one, _ = tower.draw(given, PLAIN, [1, 2])
    require(torch.equal(free.ids, one.ids), "with a null branch and guidance 1 other ids are drawn than without")
    like = _without_null(given)
    like.conditions.null = plain.conditions
    if like.plan is not None:
        like.plan.hidden_null, like.plan.mask_null = like.plan.hidden, like.plan.mask
    greedy, _ = tower.draw(plain, GREEDY, [1, 2])
    guided, _ = tower.draw(like, dataclasses.replace(GREEDY, guidance=3.0), [1, 2])
    require(torch.equal(greedy.ids, guided.ids), "guidance 3 away from conditions that are the same draws other ids")


@law("inside-layout", *BOTH)
def inside_layout(subject: Subject) -> None:
    """What is drawn are ids [B, K, F] of its layout, each below its stream's size, and zero beyond a song's end."""
    tower = Tower(subject)
    given = tower.given((20, 20, 7, 12))
    codes, _ = tower.draw(given, HOT, [1, 2, 3, 4])
    require(codes.layout == tower.layout, f"the codes are of {codes.layout}, not of its layout {tower.layout}")
    require(codes.ids.dtype == torch.int64, f"ids are {codes.ids.dtype}; expected torch.int64")
    shape = (4, len(tower.layout), int(codes.lengths.max()))
    require(codes.ids.shape == shape, f"ids have the shape {list(codes.ids.shape)}; expected {list(shape)}")
    for k, stream in enumerate(tower.layout.streams):
        low, high = int(codes.ids[:, k].min()), int(codes.ids[:, k].max())
        require(low >= 0 and high < stream.size, f"ids of {stream} go from {low} to {high}")
    for row, length in zip(codes.ids, codes.lengths.tolist(), strict=True):
        require(not row[:, length:].any(), "ids beyond a song's length are not zero")


@law("own-codes", *BOTH)
def own_codes(subject: Subject) -> None:
    """A song's ids are the same to the last one, whichever songs are drawn beside it."""
    tower = Tower(subject)
    given = tower.given((12, 9, 12))
    together, _ = tower.draw(given, HOT, [4, 5, 6])
    for row in range(3):
        alone, _ = tower.draw(tower.alone(given, row), HOT, [4 + row], max_frames=12)
        length = int(together.lengths[row])
        require(
            int(alone.lengths[0]) == length, f"song {row} has {int(alone.lengths[0])} frames alone, {length} in a batch"
        )
        same = torch.equal(alone.ids[0, :, :length], together.ids[row, :, :length])
        require(same, f"song {row} has other ids alone than in a batch of three")


@law("seeds", *BOTH)
def seeds(subject: Subject) -> None:
    """The same seed draws the same song, and another seed another song."""
    tower = Tower(subject)
    given = tower.given((12, 12), alike=True)
    codes, _ = tower.draw(given, HOT, [7, 8])
    again, _ = tower.draw(given, HOT, [7, 8])
    require(torch.equal(codes.ids, again.ids), "the same seeds draw other ids at the second call")
    require(
        not torch.equal(codes.ids[0], codes.ids[1]), "two songs of the same conditions and other seeds are the same"
    )


@law("max-frames", "planner")
def max_frames(subject: Subject) -> None:
    """No song is longer than `max_frames`, and one that is shorter has ended by itself."""
    tower = Tower(subject)
    for most in (1, 64):
        codes, plan = tower.draw(tower.given((most,) * 4, tape=1), HOT, [1, 2, 3, 4], max_frames=most)
        found = codes.lengths.tolist()
        require(max(found) <= most, f"songs have {found} frames; max_frames is {most}")
        finished = None if plan is None or plan.finished is None else plan.finished.tolist()
        cut = [i for i, length in enumerate(found) if finished is not None and length < most and not finished[i]]
        require(not cut, f"songs {cut} have {[found[i] for i in cut]} of {most} frames and did not end by themselves")


@law("stops", "planner")
def stops(subject: Subject) -> None:
    """A song can end by itself: of many that are drawn at a high temperature, some do."""
    tower = Tower(subject)
    most = min(512, 8 * tower.layout.streams[0].size)
    given = tower.given([most] * 4, tape=1)  # at its last lyrics token a song may end
    codes, plan = tower.draw(given, HOT, [1, 2, 3, 4], max_frames=most)
    require(bool((codes.lengths < most).any()), f"none of 4 songs ended within {most} frames")
    if plan is not None and plan.finished is not None:
        require(
            bool(plan.finished.any()), f"songs have {codes.lengths.tolist()} frames, and none is said to have finished"
        )


@law("lengths", "refiner")
def lengths(subject: Subject) -> None:
    """What is drawn has the lengths of the plan."""
    tower = Tower(subject)
    given = tower.given((11, 4, 1))
    codes, _ = tower.draw(given, HOT, [1, 2, 3])
    require(codes.lengths.tolist() == [11, 4, 1], f"plans of 11, 4 and 1 frames gave {codes.lengths.tolist()}")


@law("source", "refiner")
def source(subject: Subject) -> None:
    """It refines plans frame by frame: its source has the frame rate of its layout, and distinct streams."""
    refiner: TrackRefiner = subject.build()
    rates = refiner.source.frame_rate, refiner.layout.frame_rate
    require(rates[0] == rates[1], f"plans have {rates[0]:g} frames a second and what it makes of them {rates[1]:g}")
    for name, made in (("source", refiner.source), ("layout", refiner.layout)):
        streams = [(stream.track, stream.level) for stream in made.streams]
        require(len(set(streams)) == len(streams) > 0, f"the {name}'s streams repeat, or there are none: {made}")
    count = len(refiner.source_pattern.offsets)
    require(count == len(refiner.source), f"source_pattern is of {count} streams, and source has {len(refiner.source)}")


def _step(tower: Tower, stream: int, frame: int) -> int:
    return 1 + tower.pattern.stride * frame + tower.pattern.offsets[stream]


def _name(tower: Tower, stream: int) -> str:
    found: Stream = tower.layout.streams[stream]
    return f"{found.track}, level {found.level}"


def _differ(one: torch.Tensor | None, other: torch.Tensor | None, message: str) -> None:
    assert one is not None
    assert other is not None
    require(not torch.equal(one, other), message)


def _without_null(given: Given) -> Given:
    plan = given.plan
    return Given(
        dataclasses.replace(given.conditions, null=None),
        None if plan is None else dataclasses.replace(plan, hidden_null=None, mask_null=None),
        given.lengths,
    )


def _same_states(drawn: torch.Tensor, taught: torch.Tensor, row: int) -> None:
    count = min(len(drawn), len(taught))
    error = float((drawn[:count] - taught[:count]).abs().max() / taught.abs().max())
    require(error < CLOSE, f"the states of song {row} are off by {error:.2g} of their size when they are drawn")
