"""Preference pairs as `songkit mine` writes them and `songkit/train-preference` reads them.

The folder of a mining:

    recipe.yaml, resolved.yaml     what was asked for, as written and with every default
    provenance.json                the policy, the command, the versions, the machine
    requests.jsonl                 what was sung, one request a line
    candidates.parquet             a row for each request and candidate: `CANDIDATE_COLUMNS` and a column a score
    pairs.parquet                  `PAIR_COLUMNS`
    codes/layout.json              the streams of the ids, and the type they are stored as
    codes/ids.<u1|u2|u4>           unsigned ids, candidate after candidate in the order of the table, each [K, F]
    codes/cursor.i32               the cursor of each candidate [F], where the planner follows the lyrics

Names torch nowhere, and pyarrow only when a folder is read or written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from songkit._flat import FlatFile
from songkit.components.configs import PairsConfig
from songkit.components.prepared import layout_from_json, layout_to_json, offsets
from songkit.errors import LayoutError, did_you_mean
from songkit.output import request_from_record
from songkit.request import SongRequest
from songkit.types import Song, TokenLayout

if TYPE_CHECKING:
    from pyarrow import Schema

__all__ = [
    "CANDIDATE_COLUMNS",
    "PAIR_COLUMNS",
    "Candidate",
    "MinedCandidates",
    "MinedPairs",
    "Pair",
    "build",
    "read_table",
    "write_codes_layout",
    "write_table",
]

FORMAT = 1
"""Version of the folder above."""

_REMEDY = "Mine again."

CANDIDATE_COLUMNS: Mapping[str, str] = {
    "request": "string",
    "candidate": "int32",
    "seed": "int64",
    "status": "string",
    "reason": "string",
    "frames": "int32",
    "seconds": "double",
    "finished": "bool",
    "policy": "string",
}
"""Columns of candidates.parquet with their types; a column of type double for each score follows.

`status` is `ok`, `unjudged` (it was sung, but some judge gave no number) or `failed` (it was not sung, `frames` is 0);
`reason` says why. `policy` is the digest of the weights that sang it.
"""

PAIR_COLUMNS: Mapping[str, str] = {
    "request": "string",
    "chosen": "int32",
    "rejected": "int32",
    "strategy": "string",
    "margin": "double",
    "reason": "string",
    "aspects": "string",
}
"""Columns of pairs.parquet with their types. `margin` is how much better the chosen one is, above 0, in the unit of the
strategy's score; `aspects` is a JSON object of all scores: `{"chosen": {...}, "rejected": {...}}`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One song that a policy sang for a request."""

    candidate: int
    """Its number among those of its request."""
    seed: int
    """The song's own."""
    ids: np.ndarray
    """int64 [K, F] of `layout`: the planner's streams, then the refiner's."""
    layout: TokenLayout
    cursor: np.ndarray | None
    """int64 [F]: the lyrics token that is sung at each frame, where the planner follows the lyrics."""
    finished: bool
    """Whether it ended by itself; otherwise it was cut, and its last frame teaches no ending."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the judges say, by `judge.value`."""
    policy: str = ""
    """Digest of the weights that sang it."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two songs of one request, of which the first is preferred."""

    request: SongRequest
    chosen: Candidate
    rejected: Candidate
    strategy: str
    """By which the pair was mined."""
    margin: float
    """How much better the chosen one is, above 0, in the unit of the strategy's score."""
    reason: str = ""
    """The same in words."""


class MinedCandidates:
    """The candidates of a mined folder, in a pair or not, read from memory maps.

    Attributes:
        root: The folder.
        layout: The streams of the candidates' ids.
        rows: Of candidates.parquet.
    """

    def __init__(self, root: Path) -> None:
        """Opens a mined folder.

        Args:
            root: What `songkit mine` wrote.

        Raises:
            LayoutError: The folder is no finished mining, or is damaged.
        """
        self.root = Path(root)
        self.rows = read_table(self.root / "candidates.parquet", CANDIDATE_COLUMNS)
        layout = _layout(self.root / "codes" / "layout.json")
        self.layout: TokenLayout = layout_from_json(layout["layout"])
        self._ends = offsets(np.asarray([row["frames"] for row in self.rows], np.int64))
        codes, frames = self.root / "codes", int(self._ends[-1])
        dtype = layout["dtype"]
        self._ids = FlatFile(codes / f"ids.{dtype}", f"<{dtype}", frames * len(self.layout), _REMEDY)
        self._cursor = FlatFile(codes / "cursor.i32", "<i4", frames, _REMEDY) if layout["cursor"] else None
        self._place = {(row["request"], row["candidate"]): i for i, row in enumerate(self.rows)}

    def candidate(self, request: str, candidate: int) -> Candidate:
        """Returns a candidate, whether it is in a pair or not; raises `KeyError` if there is none."""
        index = self._place[request, candidate]
        row, begin, end = self.rows[index], int(self._ends[index]), int(self._ends[index + 1])
        streams = len(self.layout)
        ids = self._ids.array[begin * streams : end * streams].reshape(streams, -1)
        return Candidate(
            candidate=candidate,
            seed=row["seed"],
            ids=ids.astype(np.int64),
            layout=self.layout,
            cursor=None if self._cursor is None else self._cursor.array[begin:end].astype(np.int64),
            finished=row["finished"],
            scores={k: v for k, v in row.items() if k not in CANDIDATE_COLUMNS and v is not None},
            policy=row["policy"],
        )

    @property
    def policies(self) -> tuple[str, ...]:
        """Digests of the weights that sang the candidates; one, unless folders were put together."""
        return tuple(dict.fromkeys(row["policy"] for row in self.rows))


class MinedPairs(MinedCandidates):
    """The pairs of a mined folder: a `DataSource`, whose items are the requests as songs.

    Attributes:
        frames: int64 [pairs, 2], length of the chosen and of the rejected song in frames.
    """

    def __init__(self, root: Path, *, strategies: Sequence[str] = (), least_margin: float = 0.0) -> None:
        """Opens a mined folder.

        Args:
            root: What `songkit mine` wrote.
            strategies: Which pairs to take; those of all strategies when empty.
            least_margin: Leaves out pairs of a smaller margin.

        Raises:
            LayoutError: The folder is no finished mining or is damaged, or has no pairs of a strategy.
        """
        super().__init__(root)
        pairs = read_table(self.root / "pairs.parquet", PAIR_COLUMNS)
        known = list(dict.fromkeys(pair["strategy"] for pair in pairs))
        for strategy in strategies:
            if strategy not in known:
                raise LayoutError(
                    f"{self.root} holds no pairs of the strategy '{strategy}'.{did_you_mean(strategy, known)} It holds "
                    f"{len(pairs)} pairs of {', '.join(known) or 'none'}."
                )
        self._pairs = [
            pair for pair in pairs if pair["strategy"] in (strategies or known) and pair["margin"] >= least_margin
        ]
        if not self._pairs:
            raise LayoutError(
                f"{self.root} holds no pair with a margin of {least_margin:g} or more ({len(pairs)} pairs in all). "
                "Mine with more candidates or smaller gaps."
            )
        self._requests = _requests(self.root / "requests.jsonl")
        self.frames = np.asarray(
            [[self._row(pair, side)["frames"] for side in ("chosen", "rejected")] for pair in self._pairs], np.int64
        )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> Song:
        """Returns what a pair's songs were asked to be, without audio; its id is the pair's own."""
        pair = self._pairs[index]
        request = self._requests[pair["request"]]
        return Song(
            id=f"{request.id}.{pair['chosen']}.{pair['rejected']}.{pair['strategy']}",
            sections=request.sections,
            description=request.description,
            tier=request.tier,
            provenance={name: pair[name] for name in ("request", "strategy", "margin", "reason")},
        )

    def pair(self, index: int) -> Pair:
        """Returns a pair with its codes."""
        row = self._pairs[index]
        return Pair(
            request=self._requests[row["request"]],
            chosen=self.candidate(row["request"], row["chosen"]),
            rejected=self.candidate(row["request"], row["rejected"]),
            strategy=row["strategy"],
            margin=row["margin"],
            reason=row["reason"],
        )

    def _row(self, pair: Mapping[str, Any], side: str) -> dict[str, Any]:
        place = self._place.get((pair["request"], pair[side]))
        if place is None or pair["request"] not in self._requests:
            raise LayoutError(
                f"{self.root / 'pairs.parquet'} names candidate {pair[side]} of request '{pair['request']}', which is "
                "not in candidates.parquet or requests.jsonl: the folder is damaged. Mine again."
            )
        return self.rows[place]


def build(config: PairsConfig) -> MinedPairs:
    """Builds the component `songkit/pairs`."""
    return MinedPairs(Path(config.root), strategies=config.strategies, least_margin=config.least_margin)


def write_codes_layout(path: Path, layout: TokenLayout, dtype: str, cursor: bool) -> None:
    """Writes codes/layout.json of a mined folder."""
    values = {"format": FORMAT, "layout": layout_to_json(layout), "dtype": dtype, "cursor": cursor}
    path.write_text(json.dumps(values) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Writes rows as Parquet; same rows, same bytes.

    Args:
        path: Where to write.
        rows: With a value or `None` for each column.
        columns: Types by name, as Arrow calls them; what rows have beside them is written as double.
    """
    import pyarrow
    from pyarrow import parquet

    from songkit.atomic import write_atomically

    extra = dict.fromkeys(name for row in rows for name in row if name not in columns)
    schema: Schema = pyarrow.schema({**columns, **dict.fromkeys(sorted(extra), "double")}.items())
    table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema)
    write_atomically(path, lambda file: parquet.write_table(table, file, compression="zstd"))


def read_table(path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Reads rows of a Parquet file.

    Raises:
        LayoutError: The file is missing, is no Parquet file, or lacks a column.
    """
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise LayoutError(
            f"{path} does not exist: {path.parent} is no finished mining. Make it with 'songkit mine RECIPE --out "
            f"{path.parent}', which goes on where it was interrupted."
        )
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise LayoutError(f"{path} cannot be read ({error}): the folder is damaged. Mine again.") from error
    wrong = [
        f"{name} ({table.schema.field(name).type if name in table.column_names else 'missing'}; expected {type_})"
        for name, type_ in columns.items()
        if name not in table.column_names or str(table.schema.field(name).type) != type_
    ]
    if wrong:
        raise LayoutError(f"{path} has not the columns of a mining: {', '.join(wrong)}. Mine again with this songkit.")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _layout(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path} cannot be read ({error}): the mined folder is damaged. Mine again.") from error
    if values.get("format") != FORMAT:
        raise LayoutError(
            f"{path} has format {values.get('format')!r}; this songkit reads {FORMAT}. Mine again, or install the "
            "songkit that wrote it."
        )
    return values


def _requests(path: Path) -> dict[str, SongRequest]:
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path} cannot be read ({error}): the mined folder is damaged. Mine again.") from error
    return {record["id"]: request_from_record(record, path) for record in records}
