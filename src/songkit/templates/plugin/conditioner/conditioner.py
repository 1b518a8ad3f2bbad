"""A conditioner that spells: every byte of lyrics and description is a position of the prefix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import RequestError
from songkit.interfaces import Conditioner
from songkit.request import SongRequest
from songkit.types import Codes, Conditions

from .configs import ConditionerConfig

__all__ = ["ByteConditioner"]


class ByteConditioner(Conditioner):
    """Embeds bytes; has no tape, and does not listen to audio prompts."""

    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.width, self.max_bytes, self.hidden = config.width, config.max_bytes, config.hidden
        self.byte = nn.Embedding(256, config.width)
        self.nothing = nn.Parameter(torch.randn(1, config.width))

    def check(self, request: SongRequest) -> None:
        """Raises `RequestError` for a request that is too long."""
        length = len(_text(request))
        if length > self.max_bytes:
            raise RequestError(f"the request has {length} bytes, expected at most {self.max_bytes}. Sing fewer lines.")

    def forward(
        self,
        requests: Sequence[SongRequest],
        *,
        prompts: Sequence[Codes | None] | None = None,
        null: bool = False,
        side: str = "planner",
        generator: torch.Generator | None = None,
    ) -> Conditions:
        """Makes the same conditions for both sides; a generator hides some of the requests."""
        rows = [self._row(request) for request in requests]
        if generator is not None:
            drawn = torch.rand(len(rows), generator=generator, device=generator.device).tolist()
            rows = [self.nothing if x < self.hidden else row for x, row in zip(drawn, rows, strict=True)]
        conditions = _padded(rows)
        if null:
            conditions.null = _padded([self.nothing] * len(rows))
        return conditions

    def _row(self, request: SongRequest) -> Tensor:
        """Returns the embeddings [P, D] of one request, at least one position."""
        ids = torch.tensor(list(_text(request)), dtype=torch.int64, device=self.nothing.device)
        return torch.cat([self.nothing, self.byte(ids)])


def _text(request: SongRequest) -> bytes:
    parts = [request.description, *(f"[{s.tag}] {' / '.join(s.lines)}" for s in request.sections)]
    return "\n".join(parts).encode()


def _padded(rows: Sequence[Tensor]) -> Conditions:
    """Puts rows [P, D] of any length into one batch; padding comes first."""
    longest = max(len(row) for row in rows)
    prefix = torch.stack([functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=prefix.device)
    return Conditions(prefix, torch.arange(longest, device=prefix.device) >= longest - lengths[:, None])
