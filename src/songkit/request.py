"""`SongRequest`, the one input schema of songkit, and its readers and writers.

Three formats hold requests, and `read_requests` tells them apart:

- plain text: optional header lines (`id: ...`, `description: ...`, `tier: ...`, `prompt: PATH`, `pure_music: yes`),
  then sections, each a line with its tag in brackets (`[verse]`) and its sung lines below;
- LeVo's JSON Lines: `idx`, `gt_lyric` (sections joined by ` ; `, sentences by `.`), `descriptions`,
  `prompt_audio_path`; many songs in a file;
- LRC: lines with time tags, of which only the order counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from songkit.atomic import write_atomically
from songkit.errors import RequestError, did_you_mean
from songkit.types import TIERS, Section, Song

__all__ = [
    "INSTRUMENTAL_TAGS",
    "STRUCTURE_TAGS",
    "SUNG_TAGS",
    "SongRequest",
    "read_requests",
    "write_levo",
    "write_lrc",
    "write_text",
]

SUNG_TAGS = ("verse", "chorus", "bridge")
"""Tags of sections that hold words."""

INSTRUMENTAL_TAGS = (
    *(f"{part}-{length}" for part in ("intro", "outro", "inst") for length in ("short", "medium", "long")),
    "silence",
)
"""Tags of sections without words."""

STRUCTURE_TAGS = SUNG_TAGS + INSTRUMENTAL_TAGS
"""All section tags, in the order of LeVo's vocabulary."""

_SAFE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class SongRequest:
    """What to sing and how. `validate` tells what is wrong with it; the readers return valid requests only."""

    id: str
    """Name of the song and of its output folder: letters, digits, `-`, `_` and `.`, at most 100 characters."""
    sections: tuple[Section, ...]
    """The lyrics in order."""
    description: str = ""
    """Comma-separated tags, such as `female, pop, bright, piano, the bpm is 104`."""
    tier: str = TIERS[-1]
    """Musicality to aim at, one of `songkit.types.TIERS`."""
    prompt_audio: Path | None = None
    """Audio whose style the song takes up."""
    pure_music: bool = False
    """Whether nobody sings; there are no lines then, and there need be no sections."""

    @classmethod
    def of(cls, song: Song) -> SongRequest:
        """Returns the request that `song` would answer; without a known tier it is the highest."""
        return cls(id=song.id, sections=song.sections, description=song.description, tier=song.tier or TIERS[-1])

    def validate(self) -> list[str]:
        """Returns everything that is wrong with the request, each as a sentence with its remedy."""
        problems = [*_id_problems(self.id)]
        if self.tier not in TIERS:
            hint = did_you_mean(self.tier, TIERS) or f" Tiers: {', '.join(TIERS)}."
            problems.append(f"unknown tier '{self.tier}'.{hint}")
        if not self.description.isprintable():
            problems.append("the description holds a line break or a control character. Write it on one line.")
        for section in self.sections:
            problems += section_problems(section)
            problems += [problem for line in section.lines for problem in line_problems(line)]
        sung = any(section.lines for section in self.sections)
        if self.pure_music and sung:
            problems.append("pure music has no sung lines. Delete the lines, or 'pure_music'.")
        elif not self.pure_music and not sung:
            problems.append(
                "there is no sung line. Put words below a [verse], [chorus] or [bridge] line, or say 'pure_music: yes'."
            )
        return problems


def read_requests(path: str | Path) -> list[SongRequest]:
    """Reads all requests of a file.

    Args:
        path: Plain text, JSON Lines (`.jsonl`, or a first character `{`) or LRC (`.lrc`, or time tags); `-` is
            standard input.

    Returns:
        At least one valid request; ids are distinct.

    Raises:
        RequestError: If the file cannot be read as UTF-8 text below 1 MB or a request is wrong; the message
            names every fault with its line.
    """
    from songkit import _request_formats as formats
    from songkit._request_draft import read_text_file

    path = Path(path)
    text = read_text_file(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json") or text.lstrip().startswith("{"):
        return formats.parse_levo(text, path)
    if suffix == ".lrc" or formats.TIMED_LINE.search(text):
        return [formats.parse_lrc(text, path)]
    return [formats.parse_text(text, path)]


def write_text(path: str | Path, request: SongRequest) -> None:
    """Writes a request as plain text; `read_requests` gives it back.

    Raises:
        RequestError: If the request is not valid.
        OutputError: If the file cannot be written.
    """
    from songkit import _request_formats as formats

    _write(Path(path), formats.format_text(_valid(request), Path(path)))


def write_levo(path: str | Path, requests: Iterable[SongRequest]) -> None:
    """Writes requests as LeVo's JSON Lines.

    LeVo's lyrics end a sentence at each `.` and a section at each `;`: full stops inside a line are left out and
    semicolons become commas. A tier other than the highest is kept in a field `tier`, which LeVo does not read.

    Raises:
        RequestError: If a request is not valid.
        OutputError: If the file cannot be written.
    """
    from songkit import _request_formats as formats

    _write(Path(path), "".join(formats.format_levo(_valid(r), Path(path)) for r in requests))


def write_lrc(path: str | Path, request: SongRequest, starts: Iterable[float] | None = None) -> None:
    """Writes a request as LRC.

    Args:
        path: Where to write.
        request: What to write.
        starts: When each sung line starts, in seconds; by default one every four seconds, to keep the order.

    Raises:
        RequestError: If the request is not valid, or `starts` has another length than the sung lines.
        OutputError: If the file cannot be written.
    """
    from songkit import _request_formats as formats

    _write(Path(path), formats.format_lrc(_valid(request), Path(path), starts))


def section_problems(section: Section) -> list[str]:
    """Returns what is wrong with a section apart from its lines."""
    if section.tag not in STRUCTURE_TAGS:
        hint = did_you_mean(section.tag, STRUCTURE_TAGS) or f" Tags: {', '.join(STRUCTURE_TAGS)}."
        return [f"unknown section tag [{section.tag}].{hint}"]
    if section.tag in INSTRUMENTAL_TAGS and section.lines:
        return [
            f"[{section.tag}] is instrumental but holds the line {section.lines[0]!r}. "
            "Move the words below a [verse], [chorus] or [bridge] line."
        ]
    if section.tag in SUNG_TAGS and not section.lines:
        return [f"[{section.tag}] has no words. Add lines below it, or use [inst-short] for music alone."]
    return []


def line_problems(line: str) -> list[str]:
    """Returns what is wrong with a line of lyrics."""
    if not any(c.isalnum() for c in line):
        return [f"the line {line!r} holds no word. Delete it."]
    if not line.isprintable():
        return [f"the line {line!r} holds a control character. Delete it."]
    if line != " ".join(line.split()):
        return [f"the line {line!r} has stray spaces. Trim it."]
    if line.startswith("["):
        return [f"the line {line!r} starts with a bracket but is no section tag. Close or delete the bracket."]
    return []


def _id_problems(name: str) -> list[str]:
    if _SAFE_ID.fullmatch(name):
        return []
    return [
        f"the id {name!r} cannot name a folder: use letters, digits, '-', '_' and '.', no leading dot, at most "
        f"100 characters; for example '{safe_id(name)}'."
    ]


def safe_id(name: str) -> str:
    """Returns `name` with everything that an id may not hold replaced by `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:100] or "song"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def _valid(request: SongRequest) -> SongRequest:
    problems = request.validate()
    if problems:
        raise RequestError("\n".join(f"request {request.id!r}: {problem}" for problem in problems))
    return request
