"""LeLM's prefix as released: lyrics and style by Qwen2's encoding, the codes of an audio prompt, all of fixed lengths.

[lyrics, audio prompt, style], in tencent-ailab/SongGeneration at b1b03ec (codeclm/modules/conditioners.py). Padding
counts: the released towers attend to it, and its embeddings are zero. The null branch has no lyrics and no prompt; its
style is nothing, or the lowest tier where the highest was asked for (LeVo 2's musicality-aware guidance).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from songkit.errors import RequestError
from songkit.interfaces import Conditioner
from songkit.request import SongRequest
from songkit.types import TIERS, TRACKS, Codes, Conditions, Stream, TokenLayout
from songkit_levo2.configs import QwenConditionerConfig
from songkit_levo2.lyrics import NO_TEXT, check_lines, lyrics_text, null_style, style_text
from songkit_levo2.qwen import (
    LYRICS_ROWS,
    PADDING,
    START,
    STRUCTURES,
    STYLE_ROWS,
    lyrics_tokenizer,
    style_tokenizer,
)

__all__ = ["QwenConditioner", "build"]

_LOG = logging.getLogger(__name__)
_STRUCTURE_ROWS = 200
"""As released; 14 are in use."""
_PROMPT_STREAMS = {"planner": ("mix",), "refiner": ("vocal", "accompaniment")}


def build(config: QwenConditionerConfig) -> QwenConditioner:
    """Makes the conditioner with random weights."""
    return QwenConditioner(config)


class QwenConditioner(Conditioner):
    """Requests to the prefix of both towers."""

    def __init__(self, config: QwenConditionerConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.pure_music = config.tiers
        streams = tuple(Stream(track, 0, config.codebook_size) for track in TRACKS)
        self.prompts_layout = TokenLayout(config.frame_rate, streams)
        self.lyrics = nn.Embedding(LYRICS_ROWS, config.width, padding_idx=PADDING)
        self.structure = nn.Embedding(_STRUCTURE_ROWS, config.width, padding_idx=0)
        self.style = nn.Embedding(STYLE_ROWS[config.tiers], config.width, padding_idx=PADDING)
        # Ids, the end of song that stands before a prompt's codes, and nothing.
        rows = config.codebook_size + 2
        self.prompts = nn.ModuleDict(
            {
                side: nn.ModuleList(nn.Embedding(rows, config.width, padding_idx=rows - 1) for _ in tracks)
                for side, tracks in _PROMPT_STREAMS.items()
            }
        )
        self.before_prompt = nn.ParameterDict(
            {side: nn.Parameter(0.02 * torch.randn(1, config.width)) for side in _PROMPT_STREAMS}
        )
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                with torch.no_grad():
                    module.weight[module.padding_idx] = 0
        self._lyrics_ids, self._style_ids = (
            lyrics_tokenizer(stops=config.tiers).ids,
            style_tokenizer(tiers=config.tiers).ids,
        )

    def check(self, request: SongRequest) -> None:
        """Raises `RequestError` with everything in the lyrics that LeVo's format or the prefix has no room for."""
        check_lines(request)
        texts = {
            "lyrics": (self._lyrics(request), self.config.lyrics_length, "Leave out lines or sections."),
            "description": (self._style(request), self.config.style_length, "Use fewer tags; sentences work worse."),
        }
        problems = [
            f"the {name} take {len(ids)} tokens, and the model reads {most}. {remedy}"
            for name, (ids, most, remedy) in texts.items()
            if len(ids) > most
        ]
        if problems:
            raise RequestError("\n".join(f"request '{request.id}': {problem}" for problem in problems))
        if not self.config.tiers and request.tier != TIERS[-1]:
            _LOG.warning("request '%s': the model knows no tiers and ignores '%s'", request.id, request.tier)

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
        rows = []
        for request, prompt in zip(requests, prompts, strict=True):
            hide_all = hide_style = False
            if self.training and generator is not None:
                chance = torch.rand(2, generator=generator, device=generator.device).tolist()
                hide_all, hide_style = chance[0] < self.config.null_dropout, chance[1] < self.config.style_dropout
            if hide_all:
                rows.append(self._hidden(request, side))
                continue
            style = [START] if hide_style else self._style(request)
            rows.append(self._prefix(self._lyrics(request), prompt, style, side))
        conditions = _conditions(rows)
        if null:
            conditions.null = _conditions([self._hidden(request, side) for request in requests])
        if self.config.behaviour == "released" and side == "planner":
            conditions.forbidden = [_mixed_ids(prompt) for prompt in prompts]
        return conditions

    def own(self, side: str) -> Iterable[nn.Parameter]:
        """The towers share everything but the embeddings of audio prompts."""
        return [*self.prompts[side].parameters(), self.before_prompt[side]]

    def _lyrics(self, request: SongRequest) -> list[int]:
        return self._lyrics_ids(NO_TEXT if request.pure_music else lyrics_text(request.sections))

    def _style(self, request: SongRequest) -> list[int]:
        return self._style_ids(self._style_text(request))

    def _style_text(self, request: SongRequest) -> str | None:
        return style_text(request, tiers=self.config.tiers, keep_tags=self.config.behaviour == "mended")

    def _hidden(self, request: SongRequest, side: str) -> Tensor:
        """The prefix [P, D] of a song's null branch."""
        return self._prefix([START], None, self._style_ids(null_style(self._style_text(request))), side)

    def _prefix(self, lyrics: list[int], prompt: Codes | None, style: list[int], side: str) -> Tensor:
        """Joins the embeddings of all parts to [P, D]."""
        device, config = self.lyrics.weight.device, self.config
        to = lambda ids: torch.tensor(ids, device=device)  # noqa: E731  # three calls of one expression
        lyrics = _padded(lyrics, config.lyrics_length, PADDING)
        words = self.lyrics(to(lyrics)) + self.structure(to(_structures(lyrics)))
        return torch.cat(
            [words, self._prompt(prompt, side), self.style(to(_padded(style, config.style_length, PADDING)))]
        )

    def _prompt(self, prompt: Codes | None, side: str) -> Tensor:
        """Embeddings [2 + F, D] of an audio prompt: a vector of its side, the end of song, and its codes."""
        frames = round(self.config.prompt_seconds * self.config.frame_rate)
        end, nothing = self.config.codebook_size, self.config.codebook_size + 1
        total = self.before_prompt[side].new_zeros(1 + frames, self.width)
        tables: nn.ModuleList = self.prompts[side]  # type: ignore[assignment]  # ModuleDict yields Module
        for table, track in zip(tables, _PROMPT_STREAMS[side], strict=True):
            ids = torch.full((1 + frames,), nothing)
            if prompt is not None and track in prompt.layout.tracks:
                codes = prompt.ids[0, prompt.layout.index(track), :frames].cpu()
                ids = functional.pad(torch.cat([torch.tensor([end]), codes]), (0, frames - len(codes)), value=nothing)
            total = total + table(ids.to(total.device))
        return torch.cat([self.before_prompt[side], total])


def _structures(lyrics: Sequence[int]) -> list[int]:
    """Returns which section each token is in: 0 before the first tag and on padding, else 1 to 13."""
    out, section, tags = [], 0, set(STRUCTURES.values())
    for token in lyrics:
        section = 0 if token == PADDING else token - START - 1 if token in tags else section
        out.append(section)
    return out


def _padded(ids: list[int], length: int, padding: int) -> list[int]:
    return ids[:length] + [padding] * (length - len(ids))


def _mixed_ids(prompt: Codes | None) -> frozenset[int]:
    if prompt is None or "mix" not in prompt.layout.tracks:
        return frozenset()
    return frozenset(prompt.ids[0, prompt.layout.index("mix")].tolist())


def _conditions(rows: list[Tensor]) -> Conditions:
    prefix = torch.stack(rows)
    return Conditions(prefix, torch.ones(prefix.shape[:2], dtype=torch.bool, device=prefix.device))
