"""A request under construction: it remembers the line of everything in it, so that every fault has its place."""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from songkit.errors import RequestError, did_you_mean
from songkit.request import STRUCTURE_TAGS, SongRequest, line_problems, safe_id, section_problems
from songkit.types import TIERS, Section

__all__ = ["HEADERS", "Draft", "header_values", "read_text_file"]

MAX_BYTES = 1_000_000
"""Largest request file; two hours of lyrics are a tenth of it."""

HEADERS = ("id", "description", "tier", "prompt", "pure_music")
"""What a request says besides its lyrics."""

_BARE = ("intro", "outro", "inst")
_ANSWERS = {"yes": True, "true": True, "no": False, "false": False}
_log = logging.getLogger(__name__)


def read_text_file(path: Path) -> str:
    """Returns the text of a request file (`-`: standard input), line ends made one, byte order mark left out."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot read the request: {error.strerror}. Check the path.") from error
    if len(data) > MAX_BYTES:
        size = f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "more than 1 MB"
        raise RequestError(
            f"{path}: the request has {size}; requests are at most 1 MB. Is this the right file? Split a long list of "
            "songs."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(
            f"{path}:{line}: byte {error.start} ({data[error.start]:#04x}) is not UTF-8. Save the file as UTF-8."
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise RequestError(f"{path}: the file is empty. Write sections such as [verse] with their lines below.")
    return text


@dataclass
class Draft:
    """Headers, sections and lines as they are read, and what is wrong with them."""

    path: Path
    first_line: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    sections: list[tuple[str, int, list[tuple[str, int]]]] = field(default_factory=list)
    """Tag and line number, and the same of the words below."""
    problems: list[tuple[int, str]] = field(default_factory=list)
    loose: int = 0

    def add_problem(self, line: int, problem: str) -> None:
        """Adds a fault."""
        self.problems.append((line, problem))

    def set_header(self, name: str, value: str, line: int) -> None:
        """Takes one of `HEADERS`."""
        if name in self.headers:
            self.add_problem(line, f"'{name}' is given a second time. Delete one of the two.")
        self.headers[name] = value
        if name == "tier" and value not in TIERS:
            hint = did_you_mean(value, TIERS) or f" Tiers: {', '.join(TIERS)}."
            self.add_problem(line, f"unknown tier '{value}'.{hint}")
        if name == "pure_music" and value.lower() not in _ANSWERS:
            self.add_problem(line, f"pure_music is '{value}'. Write yes or no.")
        if name == "prompt" and not self._prompt(value).is_file():
            self.add_problem(line, f"the prompt {self._prompt(value)} is not a file. Check the path.")

    def open_section(self, name: str, line: int) -> None:
        """Begins a section; its tag may have capitals, a number, or lack the length of an intro."""
        tag = re.sub(r"[\s_]+", "-", re.sub(r"[\s\d]+$", "", name.strip().lower()))
        if tag in _BARE:
            _log.warning("%s:%d: [%s] is read as [%s-short]", self.path, line, tag, tag)
            tag = f"{tag}-short"
        self.sections.append((tag, line, []))

    def add_line(self, words: str, line: int) -> None:
        """Adds a line to the open section; an empty one is left out."""
        if words:
            self.sections[-1][2].append((words, line))

    def add_loose_line(self, words: str, line: int, header: str = "") -> None:
        """Takes a line before the first section, which has no place; `header` is what it may have been meant as."""
        self.loose += 1
        if self.loose == 1:
            hint = did_you_mean(header.lower(), HEADERS) if header else ""
            self.add_problem(
                line,
                f"the line {words[:60]!r} stands before the first section tag.{hint} Put a tag such as [verse] on a "
                f"line above it. Tags: {', '.join(STRUCTURE_TAGS)}.",
            )

    def finish(self) -> SongRequest:
        """Returns the request, or raises `RequestError` with every fault in the order of lines."""
        request = SongRequest(
            id=self.headers.get("id", safe_id(self.path.stem)),
            sections=tuple(Section(tag, tuple(words for words, _ in lines)) for tag, _, lines in self.sections),
            description=self.headers.get("description", ""),
            tier=self.headers.get("tier", TIERS[-1]),
            prompt_audio=self._prompt(self.headers["prompt"]) if self.headers.get("prompt") else None,
            pure_music=_ANSWERS.get(self.headers.get("pure_music", "no").lower(), False),
        )
        located = list(self.problems)
        for section, (_, number, lines) in zip(request.sections, self.sections, strict=True):
            located += [(number, problem) for problem in section_problems(section)]
            located += [(line, problem) for words, line in lines for problem in line_problems(words)]
        told = {problem for _, problem in located}
        if not self.loose:  # where a tag is missing, what follows from that is no news
            located += [(self.first_line, problem) for problem in request.validate() if problem not in told]
        if located:
            lines_of_message = (f"{self.path}:{line}: {problem}" for line, problem in sorted(located))
            raise RequestError("\n".join(dict.fromkeys(lines_of_message)))
        return request

    def _prompt(self, value: str) -> Path:
        return self.path.parent / value


def header_values(request: SongRequest, path: Path) -> list[tuple[str, str]]:
    """Returns the headers of a request that is written to `path`; what is not said needs none."""
    values = [("id", request.id)]
    if request.description:
        values.append(("description", request.description))
    if request.tier != TIERS[-1]:
        values.append(("tier", request.tier))
    if request.prompt_audio is not None:
        prompt = os.path.relpath(request.prompt_audio, path.parent)
        values.append(("prompt", prompt))
    if request.pure_music:
        values.append(("pure_music", "yes"))
    return values
