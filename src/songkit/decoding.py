"""The autoregressive engine: many songs of any length through one tower, step by step.

A `Stage` keeps up to so many songs under way; when one ends, the next takes its place. The songs of a step share the
reading of the weights, and stages take turns where one model reads what another draws. A song's numbers never depend
on its company: each attends over its own cache, and the products that songs share are made in blocks whose rows were
seen to come out the same to the last bit in a block of another size (`block_sizes`).
"""

from __future__ import annotations

import copy
import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from songkit.errors import LayoutError
from songkit.interfaces.backbone import Backbone, Cache
from songkit.interfaces.drawing import Drawing, Start
from songkit.types import Conditions

__all__ = ["BLOCK", "PLACES", "Stage", "block_sizes", "run", "run_songs", "song_rows"]

BLOCK = 4
"""Songs in the block whose numbers count: blocks of other sizes are used where they give the same."""

PLACES = 16
"""Songs under way at once unless it is told otherwise."""


class Stage:
    """Songs under way through one model."""

    def __init__(self, drawing: Drawing, songs: Iterable[int] = (), *, places: int = PLACES) -> None:
        """Takes songs as places become free.

        Args:
            drawing: Whose songs they are.
            songs: Which, asked for one by one; one that is not ready yet makes those behind it wait.
            places: How many may be under way at once.
        """
        self.drawing, self.places = drawing, places
        self.seconds: dict[int, float] = {}
        """Wall time by song: that of a turn is shared out evenly over the songs under way."""
        self.moved = 0
        """Songs that the last turn moved on."""
        self._songs, self._waiting = iter(songs), deque[int]()
        self._live: list[_Place] = []
        self._sizes = block_sizes(drawing, places)

    @property
    def busy(self) -> bool:
        """Whether songs are under way or wait."""
        return bool(self._live) or self._next() is not None

    def add(self, song: int) -> None:
        """Lets a song wait for a place."""
        self._waiting.append(song)

    @torch.no_grad()
    def turn(self) -> list[int]:
        """Moves every song on by a step that is ready for it.

        Returns:
            The songs that ended.
        """
        begin = time.perf_counter()
        self._admit()
        moving = [place for place in self._live if self.drawing.ready(place.song)]
        for block, size in self._blocks(moving):
            following = self.drawing.advance([place.song for place in block], self._states(block, size))
            for place, row in zip(block, following, strict=False):
                place.input = row
        took = (time.perf_counter() - begin) / max(1, len(self._live))
        for place in self._live:
            self.seconds[place.song] = self.seconds.get(place.song, 0.0) + took
        self.moved = len(moving)
        ended = [place.song for place in moving if self.drawing.done(place.song)]
        self._live = [place for place in self._live if place.song not in ended]
        return ended

    def _states(self, block: list[_Place], size: int) -> Tensor:
        """Moves songs on by a step, but for those that just began; returns their final states [size, G, D]."""
        rows = [place.input for place in block if place.input is not None]
        if rows:
            caches = [place.cache for place in block if place.input is not None] + [None] * (size - len(rows))
            x = _filled(torch.stack(rows), size)
            states = self.drawing.backbone.step(x.flatten(0, 1), caches).reshape(x.shape)
            if len(rows) == len(block):
                return states
            for place, state in zip([place for place in block if place.input is not None], states, strict=False):
                place.state = state
        return _filled(torch.stack([place.state for place in block]), size)

    def _admit(self) -> None:
        while len(self._live) < self.places and (song := self._next()) is not None and self.drawing.ready(song):
            begin = self.drawing.start(song)
            states, cache = self.drawing.backbone.start(begin.embeddings, begin.mask, begin.capacity)
            self.drawing.started(song, states)
            self._live.append(_Place(self._waiting.popleft(), cache, states[:, -1]))

    def _next(self) -> int | None:
        """Returns the first song that waits."""
        if not self._waiting:
            self._waiting.extend(itertools.islice(self._songs, 1))
        return self._waiting[0] if self._waiting else None

    def _blocks(self, places: list[_Place]) -> Iterator[tuple[list[_Place], int]]:
        """Yields songs that are computed together, with the size of their block."""
        largest = self._sizes[-1]
        for first in range(0, len(places), largest):
            block = places[first : first + largest]
            yield block, next(size for size in self._sizes if size >= len(block))


@dataclass
class _Place:
    """A song under way."""

    song: int
    cache: Cache
    state: Tensor
    """[G, D]: of the last position of its beginning."""
    input: Tensor | None = None
    """[G, D]: of its next position."""


def run(*stages: Stage) -> Iterator[list[list[int]]]:
    """Lets stages take turns, in order, until no song is left.

    Yields:
        For each stage the songs that ended in its turn, after every round.

    Raises:
        RuntimeError: If songs wait for each other.
    """
    while any(stage.busy for stage in stages):
        ended = [stage.turn() for stage in stages]
        if not any(stage.moved for stage in stages):
            raise RuntimeError("songs wait for something that no stage draws: this is a defect of a `Drawing.ready`")
        yield ended


@torch.no_grad()
def block_sizes(drawing: Drawing, places: int) -> list[int]:
    """Returns sizes of blocks of songs, up to one for so many places, that all give the numbers of `BLOCK`.

    Matrix products sum in an order that may depend on how many rows they have; which sizes agree is a matter of the
    machine's kernels, the shapes and the number type. So it is tried, once for each tower: every row of random songs
    must come out of a block of the size as it does out of blocks of `BLOCK`. Sizes that do not agree are not used.
    """
    known = _AGREE.setdefault(drawing.backbone, {})
    weight = next(drawing.backbone.parameters())
    sizes = [BLOCK]
    for size in itertools.takewhile(lambda n: n < 2 * places, (2**n for n in range(20))):
        key = (type(drawing), drawing.rows, size, weight.dtype, weight.device, torch.get_num_threads())
        if size != BLOCK and key not in known:
            known[key] = _agrees(drawing, size, weight)
        if size != BLOCK and known[key]:
            sizes.append(size)
    return sorted(sizes)


_AGREE: weakref.WeakKeyDictionary[Backbone, dict[object, bool]] = weakref.WeakKeyDictionary()


def _agrees(drawing: Drawing, size: int, weight: Tensor) -> bool:
    """Whether a block of a size gives the rows that blocks of `BLOCK` give, bit for bit."""
    rows, tower, songs = drawing.rows, drawing.backbone, max(size, BLOCK)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1 + songs, rows, tower.width, generator=draw).to(weight)
    mask = torch.ones(rows, 1, dtype=torch.bool, device=x.device)
    _, begun = tower.start(x[0, :, None], mask, 1)  # the same for all: their steps differ

    def stepped(block: int) -> list[Tensor]:
        made = []
        for part in x[1:].split(block):
            states = tower.step(part.flatten(0, 1), [copy.deepcopy(begun) for _ in part]).unflatten(0, (block, -1))
            made.append([states, *drawing.outputs(states)])
        return [torch.cat(parts) for parts in zip(*made, strict=True)]

    return all(torch.equal(one, two) for one, two in zip(stepped(BLOCK), stepped(size), strict=True))


def _filled(rows: Tensor, size: int) -> Tensor:
    """Fills up rows [N, G, D] of songs to a block of a size."""
    return rows if len(rows) == size else functional.pad(rows, (0, 0, 0, 0, 0, size - len(rows)))


Advance = Callable[[int, int, Tensor], Tensor | None]


def run_songs(
    backbone: Backbone,
    prefixes: Sequence[tuple[Tensor, Tensor]],
    advance: Advance,
    *,
    steps: Sequence[int],
) -> None:
    """Feeds songs to a backbone until `advance`, which sees one song at a time, has had enough of each.

    A `Drawing` does the same for the songs of a block together, which is faster.

    Args:
        backbone: The model.
        prefixes: For each song, embeddings [G, P, D] of its guidance rows and their mask [G, P]; padding first.
        advance: Called as `advance(song, step, states)` with the final states [G, D] of the song's last position
            (step 0: of its prefix, with states [G, P, D] of all its positions). Returns the embeddings [G, D] of the
            next position, or `None` to end the song.
        steps: For each song, how many positions may follow the prefix.
    """
    drawing = _OneByOne(backbone, prefixes, advance, steps)
    for _ in run(Stage(drawing, range(len(prefixes)), places=min(PLACES, len(prefixes)))):
        pass


class _OneByOne(Drawing):
    """Songs that a function advances one at a time."""

    def __init__(
        self,
        backbone: Backbone,
        prefixes: Sequence[tuple[Tensor, Tensor]],
        advance: Advance,
        steps: Sequence[int],
    ) -> None:
        self.backbone, self.prefixes, self.own, self.capacities = backbone, prefixes, advance, steps
        self.rows = prefixes[0][0].shape[0] if prefixes else 1
        self.steps = [0] * len(prefixes)
        self.whole: dict[int, Tensor] = {}
        self.ended: set[int] = set()

    def start(self, song: int) -> Start:
        return Start(*self.prefixes[song], self.capacities[song])

    def started(self, song: int, states: Tensor) -> None:
        self.whole[song] = states

    def advance(self, songs: Sequence[int], states: Tensor) -> Tensor:
        x = torch.zeros_like(states)
        for place, song in enumerate(songs):
            following = self.own(song, self.steps[song], self.whole.pop(song, states[place]))
            self.steps[song] += 1
            if following is None:
                self.ended.add(song)
            else:
                x[place] = following
        return x

    def done(self, song: int) -> bool:
        return song in self.ended


def song_rows(conditions: Conditions, index: int, guidance: float) -> tuple[Tensor, Tensor]:
    """Returns the prefix [G, P, D] and mask [G, P] of one song, without the padding that its batch brought.

    Args:
        conditions: Of a batch.
        index: Which song.
        guidance: With a coefficient other than 1 there are two rows: the conditions and their null branch.

    Raises:
        LayoutError: If guidance is asked for and the conditions have no null branch.
    """
    branches = [conditions]
    if guidance != 1.0:
        if conditions.null is None:
            raise LayoutError("guidance needs conditions with a null branch: call the conditioner with null=True")
        branches.append(conditions.null)
    parts = [(c.prefix[index][c.mask[index]]) for c in branches]
    longest = max(len(p) for p in parts)
    prefix = torch.stack([functional.pad(p, (0, 0, longest - len(p), 0)) for p in parts])
    lengths = torch.tensor([len(p) for p in parts], device=prefix.device)
    return prefix, torch.arange(longest, device=prefix.device) >= longest - lengths[:, None]
