"""Song requests to conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from songkit.request import SongRequest
from songkit.types import Alignment, Codes, Conditions, TokenLayout

__all__ = ["Conditioner"]


class Conditioner(nn.Module, ABC):
    """Turns requests into what planners and refiners of one width see."""

    width: int
    prompts_layout: TokenLayout | None = None
    """The streams of audio prompts that it reads, where the codes have them; `None` if it reads no codes."""
    pure_music: bool = False
    """Whether it can ask for music that nobody sings to."""

    @abstractmethod
    def check(self, request: SongRequest) -> None:
        """Raises `RequestError` with every reason why this conditioner cannot express a request."""

    @abstractmethod
    def forward(
        self,
        requests: Sequence[SongRequest],
        *,
        prompts: Sequence[Codes | None] | None = None,
        null: bool = False,
        side: str = "planner",
        generator: torch.Generator | None = None,
    ) -> Conditions:
        """Makes conditions for a batch of B requests.

        Args:
            requests: What to sing, in which style and tier.
            prompts: For each song, the codes [1, K, F] of the audio to continue in style, or `None`.
            null: Whether to add the null branch that guidance pushes away from.
            side: `"planner"` or `"refiner"`: the towers embed an audio prompt differently.
            generator: In training, chooses which conditions are hidden.
        """

    def own(self, side: str) -> Iterable[nn.Parameter]:
        """Returns the parameters that only one side reads; training that side leaves all others as they are."""
        return ()

    def cursor(self, request: SongRequest, alignment: Alignment, frames: int, frame_rate: float) -> np.ndarray | None:
        """Returns which lyrics token is sung at each frame, int64 [F], or `None` if there is no tape."""
        return None

    def align(self, request: SongRequest, cursor: np.ndarray, frame_rate: float) -> Alignment | None:
        """Returns when sections and lines happen, given the lyrics token of each frame; the inverse of `cursor`.

        Args:
            request: What was sung.
            cursor: int64 [F], as a planner gives it in `Plan.cursor`.
            frame_rate: Frames per second.

        Returns:
            An alignment with `sections` (one span for each section of the request that was reached) and `lines` (one
            for each sung line that was reached), or `None` if this conditioner's tape does not say.
        """
        return None
