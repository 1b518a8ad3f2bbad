"""The candidates of a mining while they are being made: what a killed process leaves is gone on with.

    .candidates/ids.<u1|u2|u4>     ids of each candidate, [K, F], one after the other
    .candidates/cursor.i32         its cursor [F], if it has one
    .candidates/rows.jsonl         its row of the table; a candidate counts when its line is whole

The codes of a candidate are durable before its line is written, and files that are longer than the lines tell are cut
when they are opened again. So no candidate is lost or there twice, wherever a process died.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from songkit._prepare_audio import sync, writing
from songkit.errors import LayoutError
from songkit.pairs import write_codes_layout
from songkit.types import TokenLayout

__all__ = ["Journal", "read_rows"]

_FOLDER = ".candidates"
_ROWS = "rows.jsonl"
_CURSOR = "cursor.i32"


class Journal:
    """Appends candidates, and turns into the folder `codes` when all are there.

    Attributes:
        rows: Of the candidates that are there.
    """

    def __init__(self, root: Path, layout: TokenLayout) -> None:
        """Names the journal of a mined folder; `with` opens it.

        Args:
            root: The mined folder.
            layout: Of the ids.
        """
        self.root, self.layout = root, layout
        self.dtype = next(d for d in ("u1", "u2", "u4") if max(s.size for s in layout.streams) <= 2 ** (8 * int(d[1])))
        self._ids = f"ids.{self.dtype}"
        self.rows: list[dict[str, Any]] = []
        self._cursors: list[bool] = []  # of the candidates that are there, whether each has one
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Journal:
        folder = self.root / _FOLDER
        with writing(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            self._files = {name: (folder / name).open("ab") for name in (self._ids, _CURSOR, _ROWS)}
            lines = list(_lines(folder / _ROWS))
            frame = len(self.layout) * int(self.dtype[1])
            sizes = {
                self._ids: [frame * row["frames"] for row, _, _ in lines],
                _CURSOR: [4 * row["frames"] * cursor for row, cursor, _ in lines],
                _ROWS: [size for _, _, size in lines],
            }
            ends = {name: [0, *itertools.accumulate(own)] for name, own in sizes.items()}
            whole = len(lines)
            while any(file.tell() < ends[name][whole] for name, file in self._files.items()):
                whole -= 1  # a power cut may keep a line and lose what it tells of
            for name, file in self._files.items():
                file.truncate(ends[name][whole])
            self.rows = [row for row, _, _ in lines[:whole]]
            self._cursors = [cursor for _, cursor, _ in lines[:whole]]
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for file in self._files.values():
            # After a failure what could not be flushed cannot be closed either; the first error is the one to tell.
            with contextlib.suppress(OSError) if failure else writing(self.root):
                file.close()

    def append(self, row: dict[str, Any], ids: np.ndarray, cursor: np.ndarray | None) -> None:
        """Adds a candidate: its row, its ids [K, F], and its cursor [F] where there is one."""
        line = json.dumps({"row": row, "cursor": cursor is not None}, ensure_ascii=False)
        self._write(self._ids, ids.astype(f"<{self.dtype}").tobytes())
        if cursor is not None:
            self._write(_CURSOR, cursor.astype("<i4").tobytes())
        self._write(_ROWS, line.encode() + b"\n")
        self.rows.append(row)
        self._cursors.append(cursor is not None)

    def finish(self) -> None:
        """Gives the codes their place; the rows have been written elsewhere."""
        for file in self._files.values():
            file.close()
        sung = [cursor for row, cursor in zip(self.rows, self._cursors, strict=True) if row["frames"]]
        if len(set(sung)) > 1:
            raise LayoutError(
                f"{sum(sung)} of {len(sung)} songs have a cursor: a planner follows the lyrics or does not."
            )
        described = self.root / _FOLDER / "layout.json"
        with writing(described):
            write_codes_layout(described, self.layout, self.dtype, any(sung))
            sync(described)
        with writing(self.root):
            if not any(sung):
                (self.root / _FOLDER / _CURSOR).unlink()
            (self.root / _FOLDER).rename(self.root / "codes")
            sync(self.root)
            (self.root / "codes" / _ROWS).unlink()

    def _write(self, name: str, content: bytes) -> None:
        file = self._files[name]
        with writing(self.root / _FOLDER / name):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def read_rows(root: Path) -> list[dict[str, Any]]:
    """Returns the rows of an unfinished mining without touching it."""
    path = root / _FOLDER / _ROWS
    return [row for row, _, _ in _lines(path)] if path.is_file() else []


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], bool, int]]:
    """Yields whole rows, whether their songs have a cursor, and the size of the line, up to the first damaged one."""
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            written = json.loads(line) if line.endswith(b"\n") else {}
            row, cursor = written["row"], written["cursor"]
        except (ValueError, KeyError, TypeError):
            return
        yield row, cursor, len(line)
