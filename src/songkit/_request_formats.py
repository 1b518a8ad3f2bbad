"""The three file formats of requests: plain text, LeVo's JSON Lines, LRC.

Each parser gathers all faults of its file and raises once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from songkit._request_draft import HEADERS, Draft, header_values
from songkit.errors import RequestError, did_you_mean
from songkit.request import SongRequest

__all__ = ["TIMED_LINE", "format_levo", "format_lrc", "format_text", "parse_levo", "parse_lrc", "parse_text"]

TIMED_LINE = re.compile(r"^[ \t]*((?:\[\d{1,4}:\d{1,2}(?:[.:]\d{1,3})?\][ \t]*)+)", re.MULTILINE)
"""Matches a line of LRC up to its words."""

_TIME = re.compile(r"(\d+):(\d+(?:[.:]\d+)?)")
_SECTION_LINE = re.compile(r"\[([^\[\]:]*)\](.*)")
_HEADER_LINE = re.compile(r"([A-Za-z_]+)\s*:\s*(.*)")
_LRC_HEADER = re.compile(r"\[([A-Za-z#_]+):(.*)\]")
_WORD_TIME = re.compile(r"<\d{1,4}:\d{1,2}(?:[.:]\d{1,3})?>")
_LRC_METADATA = frozenset(("ti", "ar", "al", "au", "lr", "by", "offset", "length", "re", "tool", "ve", "#"))
_LEVO_FIELDS = ("idx", "gt_lyric", "descriptions", "prompt_audio_path", "auto_prompt_audio_type", "tier", "pure_music")

_LEVO_HEADERS = {
    "idx": "id",
    "descriptions": "description",
    "prompt_audio_path": "prompt",
    "tier": "tier",
    "pure_music": "pure_music",
}
"""The headers that LeVo's fields, and our two additions, stand for."""

_log = logging.getLogger(__name__)


# --- plain text ----------------------------------------------------------------------------------------------


def parse_text(text: str, path: Path) -> SongRequest:
    """Reads one request from plain text."""
    draft = Draft(path)
    for number, raw in enumerate(text.split("\n"), 1):
        line = " ".join(raw.split())
        section = _SECTION_LINE.fullmatch(line)
        header = _HEADER_LINE.fullmatch(line)
        if section:
            draft.open_section(section[1], number)
            if section[2].strip():
                draft.add_problem(number, f"words follow the tag [{section[1]}]. Put them on lines of their own.")
                draft.add_line(section[2].strip(), number)
        elif line and draft.sections:
            draft.add_line(line, number)
        elif header and header[1].lower() in HEADERS:
            draft.set_header(header[1].lower(), header[2], number)
        elif line:
            draft.add_loose_line(line, number, header[1] if header else "")
    return draft.finish()


def format_text(request: SongRequest, path: Path) -> str:
    """Returns a request as plain text for a file at `path`."""
    headers = "".join(f"{name}: {value}\n" for name, value in header_values(request, path))
    sections = ("\n".join((f"[{s.tag}]", *s.lines)) + "\n" for s in request.sections)
    return "\n".join((headers, *sections))


# --- LeVo's JSON Lines ---------------------------------------------------------------------------------------


def parse_levo(text: str, path: Path) -> list[SongRequest]:
    """Reads all requests of LeVo's JSON Lines."""
    requests: list[SongRequest] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            request = _levo_draft(line, number, path).finish()
        except RequestError as error:
            problems.append(str(error))
            continue
        if request.id in first_line:
            problems.append(
                f"{path}:{number}: the idx '{request.id}' is already that of line {first_line[request.id]}. "
                "Give each song its own."
            )
        first_line.setdefault(request.id, number)
        requests.append(request)
    if problems:
        raise RequestError("\n".join(problems))
    return requests


def format_levo(request: SongRequest, path: Path) -> str:
    """Returns a request as one line of LeVo's JSON Lines, with its line end, for a file at `path`."""
    sections = []
    for section in request.sections:
        lines = [line for line in (_levo_sentence(line) for line in section.lines) if line]
        words = ".".join(lines)
        sections.append(f"[{section.tag}] {words}{'.' if words.isascii() else ''}" if lines else f"[{section.tag}]")
    fields: dict[str, Any] = {"idx": request.id, "gt_lyric": " ; ".join(sections)}
    names = {name: field for field, name in _LEVO_HEADERS.items()}
    fields.update((names[name], value) for name, value in header_values(request, path) if name != "id")
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _levo_draft(line: str, number: int, path: Path) -> Draft:
    draft = Draft(path, first_line=number)
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}:{number}: not JSON: {error}. Each line is one object in braces.") from error
    if not isinstance(fields, dict):
        raise RequestError(f"{path}:{number}: expected an object with idx and gt_lyric, found {line[:60]!r}.")
    for name, value in fields.items():
        if name not in _LEVO_FIELDS:
            draft.add_problem(number, f"unknown field '{name}'.{did_you_mean(name, _LEVO_FIELDS)}")
        elif name == "auto_prompt_audio_type" and value:
            draft.add_problem(
                number,
                f"auto_prompt_audio_type {value!r} picks a recording from LeVo's own collection, which is not part of "
                "songkit. Name a recording in prompt_audio_path, or put the genre into descriptions.",
            )
        elif value is not None and not isinstance(value, str) and not (name == "idx" and type(value) is int):
            draft.add_problem(number, f"'{name}' is {json.dumps(value)[:60]}; expected a string.")
    texts = {name: str(value) for name, value in fields.items() if isinstance(value, str | int) and value != ""}
    for name, header in _LEVO_HEADERS.items():
        if name in texts:
            draft.set_header(header, " ".join(texts[name].split()), number)
    for name in ("idx", "gt_lyric"):
        if name not in fields:
            draft.add_problem(number, f"'{name}' is missing. Every song has an idx and a gt_lyric.")
    for part in texts.get("gt_lyric", "").split(";"):
        found = _SECTION_LINE.fullmatch(" ".join(part.split()))
        if found:
            draft.open_section(found[1], number)
            if found[2].isascii() and found[2].strip() and not found[2].rstrip().endswith("."):
                _log.warning(
                    "%s:%d: [%s] does not end in a full stop. It is read as if it did; LeVo's lyrics end each "
                    "sentence with one: write '%s.'",
                    path,
                    number,
                    found[1],
                    found[2].strip()[-40:],
                )
            for sentence in found[2].split("."):
                draft.add_line(sentence.strip(), number)
        elif part.strip():
            draft.add_loose_line(part.strip(), number)
    return draft


def _levo_sentence(line: str) -> str:
    return " ".join(line.replace(".", " ").replace(";", ",").split())


# --- LRC -----------------------------------------------------------------------------------------------------


def parse_lrc(text: str, path: Path) -> SongRequest:
    """Reads one request from LRC.

    Lines are put in the order of their times. Sections start at lines that hold a tag alone; in a file without
    tags they are the blocks between empty lines: `[chorus]` where the same words come again, else `[verse]`.
    """
    draft = Draft(path)
    timed: list[tuple[float, int, str]] = []  # (seconds, line number, words or tag or nothing)
    waiting: list[tuple[int, str]] = []  # lines without a time take that of the next line that has one
    for number, raw in enumerate(text.split("\n"), 1):
        line = " ".join(raw.split())
        timed_line = TIMED_LINE.match(line)
        header = _LRC_HEADER.fullmatch(line)
        if timed_line:
            times = _TIME.findall(timed_line[1])
            words = " ".join(_WORD_TIME.sub(" ", line[timed_line.end() :]).split())
            starts = [60.0 * int(minutes) + float(seconds.replace(":", ".")) for minutes, seconds in times]
            timed += [(min(starts), *entry) for entry in waiting]
            timed += [(start, number, words) for start in starts]
            waiting = []
        elif header and header[1].lower() in HEADERS:
            draft.set_header(header[1].lower(), header[2].strip(), number)
        elif header and header[1].lower() in _LRC_METADATA:
            continue
        elif header:
            hint = did_you_mean(header[1].lower(), (*HEADERS, *_LRC_METADATA))
            draft.add_problem(number, f"unknown LRC field [{header[1]}:].{hint}")
        elif not line or _SECTION_LINE.fullmatch(line):
            waiting.append((number, line))
        else:
            draft.add_problem(number, f"the line {line!r} has no time tag. Write it as [mm:ss.xx]{line}.")
    last = timed[-1][0] if timed else 0.0
    timed += [(last, *entry) for entry in waiting]
    entries = [(number, words) for _, number, words in sorted(timed, key=lambda entry: entry[0])]
    if not any(_SECTION_LINE.fullmatch(words) for _, words in entries):
        entries = _tag_blocks(entries)
        _log.info("%s: no section tags; blocks of lines are read as verses, repeated ones as choruses", path)
    for number, words in entries:
        section = _SECTION_LINE.fullmatch(words)
        if section:
            draft.open_section(section[1], number)
            draft.add_line(section[2].strip(), number)
        elif draft.sections:
            draft.add_line(words, number)
        elif words:
            draft.add_loose_line(words, number)
    return draft.finish()


def format_lrc(request: SongRequest, path: Path, starts: Iterable[float] | None = None) -> str:
    """Returns a request as LRC for a file at `path`; see `songkit.request.write_lrc`."""
    count = sum(len(section.lines) for section in request.sections)
    times = [4.0 * i for i in range(count)] if starts is None else list(starts)
    if len(times) != count or times != sorted(times):
        raise RequestError(
            f"request '{request.id}' has {count} sung lines but {len(times)} start times, or they do not ascend. "
            "Give one time for each line, in order."
        )
    out = [f"[{name}:{value}]" for name, value in header_values(request, path)]
    upcoming = iter(times)
    for section in request.sections:
        out.append(f"[{section.tag}]")
        for line in section.lines:
            minutes, hundredths = divmod(round(next(upcoming) * 100), 6000)
            out.append(f"[{minutes:02d}:{hundredths / 100:05.2f}]{line}")
    return "\n".join(out) + "\n"


def _tag_blocks(entries: list[tuple[int, str]]) -> list[tuple[int, str]]:
    blocks: list[list[tuple[int, str]]] = [[]]
    for entry in entries:
        if entry[1]:
            blocks[-1].append(entry)
        elif blocks[-1]:
            blocks.append([])
    words = [tuple(line for _, line in block) for block in blocks]
    tagged: list[tuple[int, str]] = []
    for block, lines in zip(blocks, words, strict=True):
        if block:
            tagged += [(block[0][0], "[chorus]" if words.count(lines) > 1 else "[verse]"), *block]
    return tagged
