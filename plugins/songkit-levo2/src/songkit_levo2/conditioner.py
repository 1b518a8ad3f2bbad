"""LeLM's prefix: lyrics with structure embeddings, audio prompt, style words with the musicality tier.

Order and null branch follow the released model (tencent-ailab/SongGeneration at b1b03ec,
codeclm/modules/conditioners.py and generate.py): [lyrics, audio prompt, style]; null = no lyrics, no prompt, no
description, and the tier very-low when very-high was asked for (LeVo 2's musicality-aware guidance). The miniature
reads phones instead of Qwen2 BPE and leaves positions out instead of padding them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from songkit.errors import RequestError
from songkit.interfaces import Conditioner
from songkit.phonemes import unsingable
from songkit.request import SongRequest
from songkit.types import TIERS, TRACKS, Alignment, Codes, Conditions, Stream, TokenLayout
from songkit_levo2.configs import LeLMConditionerConfig
from songkit_levo2.layers import Stack
from songkit_levo2.tape import SYMBOLS, alignment_of, cursor_of, tape_of

__all__ = ["LeLMConditioner", "build", "style_tokens"]

_LOG = logging.getLogger(__name__)

_NUMBERS = 64
"""Numbers in descriptions (tempi) are told apart in steps of 4, up to 252."""


def build(config: LeLMConditionerConfig) -> LeLMConditioner:
    """Makes the conditioner with random weights."""
    return LeLMConditioner(config)


class LeLMConditioner(Conditioner):
    """Requests to the prefix of both towers and the tape of lyrics."""

    def __init__(self, config: LeLMConditionerConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        streams = tuple(Stream(track, 0, config.codebook_size) for track in TRACKS)
        self.prompts_layout = TokenLayout(config.frame_rate, streams)
        self.symbol = nn.Embedding(len(SYMBOLS), config.width)
        self.stress = nn.Embedding(3, config.width)
        self.word_start = nn.Embedding(2, config.width)
        self.structure = nn.Embedding(len(SYMBOLS), config.width)
        self.context = Stack(config.width, config.tape_depth)
        # 0 hidden, then tiers, words, numbers
        self.style = nn.Embedding(1 + len(TIERS) + len(config.style_words) + _NUMBERS, config.width)
        self.prompts = nn.ModuleDict(
            {
                side: nn.ModuleList(nn.Embedding(config.codebook_size + 1, config.width) for _ in streams)
                for side, streams in _PROMPT_STREAMS.items()
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.symbol.weight, std=0.2)  # what is sung must stand out from where and how

    def check(self, request: SongRequest) -> None:
        """Raises `RequestError` naming every line that cannot be pronounced; reports words that are not known."""
        problems = []
        for section in request.sections:
            for line in section.lines:
                foreign = unsingable(line)
                if foreign:
                    problems.append(f"[{section.tag}] {line!r}: the letters {foreign!r} are not Latin")
        if problems:
            raise RequestError(
                f"request '{request.id}': this model sings English in Latin letters and cannot pronounce:\n  "
                + "\n  ".join(problems)
                + "\nWrite these lines in English, or choose a model that sings this script."
            )
        tape_of(request.sections)
        _, unknown = style_tokens(request.description, self.config.style_words)
        if unknown:
            _LOG.warning(
                "request '%s': the model does not know the words %s of the description and ignores them",
                request.id,
                ", ".join(repr(w) for w in unknown),
            )

    def forward(
        self,
        requests: Sequence[SongRequest],
        *,
        prompts: Sequence[Codes | None] | None = None,
        null: bool = False,
        side: str = "planner",
        generator: torch.Generator | None = None,
    ) -> Conditions:
        """Makes conditions; in training, `generator` hides all of a song's conditions or only its description."""
        prompts = prompts or [None] * len(requests)
        rows, tapes = [], []
        for request, prompt in zip(requests, prompts, strict=True):
            hide_all = hide_style = False
            if self.training and generator is not None:
                chance = torch.rand(2, generator=generator, device=generator.device).tolist()
                hide_all, hide_style = chance[0] < self.config.null_dropout, chance[1] < self.config.style_dropout
            tape = self._tape(request, hidden=hide_all)
            style = self._style(
                request, hidden=hide_all or hide_style, tier=None if hide_all and hide_style else request.tier
            )
            parts = [tape[:1] if hide_all else tape]
            if prompt is not None and not hide_all and set(_PROMPT_STREAMS[side]) <= set(prompt.layout.tracks):
                parts.append(self._prompt(prompt, side))
            rows.append(torch.cat([*parts, style]))
            tapes.append(tape)
        conditions = _pad(rows, tapes)
        if null:
            hidden = [
                torch.cat([self._tape(r, hidden=True)[:1], self._style(r, hidden=True, tier=_null_tier(r.tier))])
                for r in requests
            ]
            conditions.null = _pad(hidden, [self._tape(r, hidden=True) for r in requests])
        return conditions

    def own(self, side: str) -> Iterable[nn.Parameter]:
        """The towers share everything but the embeddings of audio prompts, as in LeVo."""
        return self.prompts[side].parameters()

    def cursor(self, request: SongRequest, alignment: Alignment, frames: int, frame_rate: float) -> np.ndarray:
        """Returns which lyrics token is sung at each frame, int64 [F]."""
        return cursor_of(request.sections, alignment, frames, frame_rate, reach=self.config.cursor_reach)

    def align(self, request: SongRequest, cursor: np.ndarray, frame_rate: float) -> Alignment:
        """Returns when sections, lines and phones happen, given the lyrics token of each frame."""
        return alignment_of(request.sections, cursor, frame_rate)

    def _tape(self, request: SongRequest, *, hidden: bool) -> Tensor:
        """Embeddings [L, D] of the lyrics; all the same where they are hidden."""
        tape = tape_of(request.sections)
        device = self.symbol.weight.device
        if hidden:
            return self.symbol(torch.zeros(len(tape.symbols), dtype=torch.int64, device=device))
        to = lambda a: torch.from_numpy(a).to(device)  # noqa: E731  # four calls of one expression
        x = self.symbol(to(tape.symbols)) + self.stress(to(tape.stresses)) + self.word_start(to(tape.word_starts))
        return self.context((x + self.structure(to(tape.structures)))[None])[0]

    def _style(self, request: SongRequest, *, hidden: bool, tier: str | None) -> Tensor:
        """Embeddings [M, D]: the tier, then the words of the description."""
        tokens = [0 if tier is None else 1 + TIERS.index(tier)]
        if not hidden:
            tokens += style_tokens(request.description, self.config.style_words)[0]
        return self.style(torch.tensor(tokens, device=self.style.weight.device))

    def _prompt(self, prompt: Codes, side: str) -> Tensor:
        """Embeddings [1 + F, D] of the audio prompt; an end-of-song id stands before its codes, as in LeVo."""
        total: Tensor | None = None
        tables: nn.ModuleList = self.prompts[side]  # type: ignore[assignment]  # ModuleDict yields Module
        for table, track in zip(tables, _PROMPT_STREAMS[side], strict=True):
            ids = prompt.ids[0, prompt.layout.index(track)]
            ids = ids[: round(self.config.prompt_seconds * self.config.frame_rate)]
            end = ids.new_full((1,), self.config.codebook_size)
            part = table(torch.cat([end, ids]).to(self.symbol.weight.device))
            total = part if total is None else total + part
        assert total is not None
        return total


_PROMPT_STREAMS = {"planner": ("mix",), "refiner": ("vocal", "accompaniment")}


def style_tokens(description: str, words: Sequence[str]) -> tuple[list[int], list[str]]:
    """Returns the tokens of a description and the words that have none."""
    tokens, unknown = [], []
    index = {word: i for i, word in enumerate(words)}
    for word in re.findall(r"[a-z]+(?:['&-][a-z]+)*|[0-9]+", description.lower()):
        if word.isdigit():
            tokens.append(1 + len(TIERS) + len(words) + min(int(word) // 4, _NUMBERS - 1))
        elif word in index:
            tokens.append(1 + len(TIERS) + index[word])
        elif word not in _FILLERS:
            unknown.append(word)
    return tokens, list(dict.fromkeys(unknown))


_FILLERS = frozenset(["the", "is", "bpm", "a", "an", "and", "with", "of", "in"])
"""Words of LeVo's descriptions (`the bpm is 125`) that say nothing by themselves."""


def _null_tier(tier: str) -> str | None:
    return TIERS[0] if tier == TIERS[-1] else None


def _pad(rows: list[Tensor], tapes: list[Tensor]) -> Conditions:
    device = rows[0].device
    lengths = torch.tensor([len(r) for r in rows], device=device)
    longest = int(lengths.max())
    prefix = torch.stack([nn.functional.pad(r, (0, 0, longest - len(r), 0)) for r in rows])
    mask = torch.arange(longest, device=device) >= longest - lengths[:, None]
    tape_lengths = torch.tensor([len(t) for t in tapes], device=device)
    tape = torch.stack([nn.functional.pad(t, (0, 0, 0, int(tape_lengths.max()) - len(t))) for t in tapes])
    return Conditions(prefix, mask, tape=tape, tape_lengths=tape_lengths)
