"""Requests to the two texts that LeLM was trained on: lyrics in LeVo's format, and a style with its tags.

The format is that of the released samples (tencent-ailab/SongGeneration at b1b03ec): `[intro-short] ; [verse] A line.
Another line. ; [outro-short]`. Sections are joined by ` ; `, lines by a full stop; a section in Latin letters ends with
one, one in Chinese characters does not, and has no space behind it either. Punctuation is ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from songkit.errors import RequestError
from songkit.request import SongRequest
from songkit.types import TIERS, Section

__all__ = ["NO_TEXT", "check_lines", "line_problems", "lyrics_text", "null_style", "style_text"]

NO_TEXT = "."
"""Stands where LeVo 2 is told nothing: as the lyrics of pure music, and as a style without a description."""

_PURE_MUSIC = "[Pure-Music]"
_CHINESE = re.compile("[\u3400-\u9fff]")
_TAG = re.compile(r"\[[^\]]*\]|<\|[^|]*\|>")
_ASCII = str.maketrans(
    {
        "，": ",",
        "、": ",",
        "。": ".",
        "！": "!",
        "？": "?",
        "；": ",",
        "：": ":",
        "（": "(",
        "）": ")",
        "…": "",
        "‘": "'",
    }
    | {"’": "'", "“": '"', "”": '"', "「": '"', "」": '"', "—": "-", "–": "-", ";": ","}
)


def lyrics_text(sections: Sequence[Section]) -> str:
    """Returns lyrics in LeVo's format."""
    return " ; ".join(_section_text(section) for section in sections)


def style_text(request: SongRequest, *, tiers: bool, keep_tags: bool = True) -> str | None:
    """Returns what the style conditioner reads.

    Args:
        request: Of a song.
        tiers: Whether the model knows musicality tiers and pure music (LeVo 2).
        keep_tags: Whether pure music keeps its tags where there is no description. The released program loses them.

    Returns:
        Such as `[Musicality-very-high], female, pop`; `None` where the model is told nothing.
    """
    description = request.description.lower()
    if not tiers:
        return description or None
    if request.pure_music and not description and not keep_tags:
        return NO_TEXT
    tags = [f"[Musicality-{request.tier}]", *([_PURE_MUSIC] if request.pure_music else [])]
    return ", ".join([*tags, description or NO_TEXT])


def null_style(style: str | None) -> str | None:
    """Returns the style that guidance pushes away from: the lowest tier where the highest was asked for, else none."""
    asked_for_best = style is not None and f"[Musicality-{TIERS[-1]}]" in style
    return f"[Musicality-{TIERS[0]}], {NO_TEXT}" if asked_for_best else None


def line_problems(line: str) -> list[str]:
    """Returns why a line cannot be written in LeVo's format, each reason with how to write it."""
    problems = []
    plain = " ".join(line.translate(_ASCII).split())
    foreign = sorted({letter for letter in line if ord(letter) in _ASCII})
    if foreign:
        problems.append(
            f"{line!r} holds {' '.join(foreign)}: LeVo's lyrics have ASCII punctuation and keep ';' for "
            f"the next section. Write {plain!r}."
        )
    sentences = [part.strip() for part in plain.rstrip(". ").split(".") if part.strip()]
    if len(sentences) > 1:
        problems.append(
            f"{line!r} has a full stop inside, which ends a line. Write {len(sentences)} lines: {sentences}."
        )
    tag = _TAG.search(line)
    if tag:
        problems.append(f"{line!r} holds {tag[0]}, which the model reads as a tag. Put tags on lines of their own.")
    return problems


def check_lines(request: SongRequest) -> None:
    """Raises `RequestError` with everything that keeps a request's lyrics out of LeVo's format."""
    problems = [
        f"[{section.tag}] {problem}"
        for section in request.sections
        for line in section.lines
        for problem in line_problems(line)
    ]
    if problems:
        raise RequestError(f"request '{request.id}': the lyrics need other writing:\n  " + "\n  ".join(problems))


def _section_text(section: Section) -> str:
    lines = [line.rstrip(". ") for line in section.lines]
    if not lines:
        return f"[{section.tag}]"
    if any(_CHINESE.search(line) for line in lines):
        return f"[{section.tag}] {'.'.join(lines)}"
    return f"[{section.tag}] {'. '.join(lines)}."
