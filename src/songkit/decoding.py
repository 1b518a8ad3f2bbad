"""The autoregressive engine: runs songs through a backbone, a block at a time.

Every matrix product of a step has the shape of a full block, whether its places are taken or not, and each song
attends over its own cache: so a song's numbers never depend on its company. `advance` sees one song at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from songkit.errors import LayoutError
from songkit.interfaces.backbone import Backbone, Cache
from songkit.types import Conditions

__all__ = ["BLOCK", "run_songs", "song_rows"]

BLOCK = 4
"""Songs in a block. Larger blocks share more of the reading of weights; a lone song pays for empty places."""

Advance = Callable[[int, int, Tensor], Tensor | None]


@torch.no_grad()
def run_songs(
    backbone: Backbone,
    prefixes: Sequence[tuple[Tensor, Tensor]],
    advance: Advance,
    *,
    steps: Sequence[int],
) -> None:
    """Feeds songs to a backbone, step by step, until `advance` has had enough of each.

    Args:
        backbone: The model.
        prefixes: For each song, embeddings [G, P, D] of its guidance rows and their mask [G, P]; padding first.
        advance: Called as `advance(song, step, states)` with the final states [G, D] of the song's last position
            (step 0: of its prefix, with states [G, P, D] of all its positions). Returns the embeddings [G, D] of the
            next position, or `None` to end the song.
        steps: For each song, how many positions may follow the prefix.
    """
    for first in range(0, len(prefixes), BLOCK):
        songs = list(range(first, min(first + BLOCK, len(prefixes))))
        caches: list[Cache | None] = [None] * BLOCK
        waiting: dict[int, Tensor] = {}
        for place, song in enumerate(songs):
            embeddings, mask = prefixes[song]
            states, caches[place] = backbone.start(embeddings, mask, steps[song])
            following = advance(song, 0, states)
            if following is None:
                caches[place] = None
            else:
                waiting[place] = following
        rows = prefixes[first][0].shape[0]
        x = prefixes[first][0].new_zeros(BLOCK * rows, backbone.width)
        step = 0
        while waiting:
            step += 1
            for place, row in waiting.items():
                x[place * rows : (place + 1) * rows] = row
            states = backbone.step(x, caches)
            for place in list(waiting):
                following = advance(first + place, step, states[place * rows : (place + 1) * rows])
                if following is None:
                    caches[place] = None
                    del waiting[place]
                else:
                    waiting[place] = following


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
