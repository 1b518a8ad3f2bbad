"""The Mixed Semantic LM: plans the mixed tokens of a song.

Positions are [prefix of conditions, empty step, frames]; the state at a step predicts the next frame, as in the
released model. What the miniature adds is a cursor along the lyrics: at each frame the planner is told which lyrics
token is being sung and for how long already, and predicts how far to move on. With 10^5 hours of music attention finds
this alignment by itself; with ten hours it does not, and the model babbles (docs/explanation/miniature.md).

The released planner runs on after the song while the delayed tracks catch up: it reads the end of song once, then steps
without a frame (`tail`). The miniature's refiner learns one vector for all of these states instead.
"""

from __future__ import annotations

from songkit.interfaces import Backbone
from songkit.patterns import parallel
from songkit.stream_planner import StreamPlanner
from songkit.types import Stream, TokenLayout
from songkit_levo2.configs import MixedLMConfig

__all__ = ["MixedLM", "build"]


def build(config: MixedLMConfig, *, tower: Backbone) -> MixedLM:
    """Makes the planner with random weights."""
    return MixedLM(config, tower)


class MixedLM(StreamPlanner):
    """The planner of one stream: a causal tower over mixed tokens."""

    def __init__(self, config: MixedLMConfig, tower: Backbone) -> None:
        layout = TokenLayout(config.frame_rate, (Stream("mix", 0, config.codebook_size),))
        steps = config.cursor_steps if config.cursor else 0
        super().__init__(
            layout, parallel(1), tower, cursor_steps=steps, cursor_weight=config.cursor_weight, tail=config.tail
        )
        self.config = config
