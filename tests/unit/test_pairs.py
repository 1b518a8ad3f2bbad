"""A mined folder: read back as written, checked, and a source of data that pickles small."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songkit.errors import LayoutError
from songkit.output import request_record
from songkit.pairs import CANDIDATE_COLUMNS, PAIR_COLUMNS, MinedPairs, read_table, write_codes_layout, write_table
from songkit.request import SongRequest
from songkit.types import Section, Stream, TokenLayout

LAYOUT = TokenLayout(25.0, (Stream("mix", 0, 300), Stream("vocal", 0, 300), Stream("accompaniment", 0, 40)))
REQUESTS = [
    SongRequest(id=name, sections=(Section("verse", ("la la",)), Section("inst-short")), description="pop")
    for name in ("one", "two")
]
FRAMES = {("one", 0): 4, ("one", 1): 7, ("two", 0): 0, ("two", 1): 5, ("two", 2): 3}


def codes(key: tuple[str, int]) -> np.ndarray:
    return np.random.default_rng(sum(key[0].encode()) + key[1]).integers(0, 40, (3, FRAMES[key]))


def write(root: Path, pairs: list[dict[str, Any]]) -> Path:
    (root / "codes").mkdir(parents=True)
    write_codes_layout(root / "codes" / "layout.json", LAYOUT, "u2", cursor=True)
    (root / "codes" / "ids.u2").write_bytes(b"".join(codes(key).astype("<u2").tobytes() for key in FRAMES))
    (root / "codes" / "cursor.i32").write_bytes(b"".join(np.arange(n, dtype="<i4").tobytes() for n in FRAMES.values()))
    lines = [json.dumps(request_record(request)) for request in REQUESTS]
    (root / "requests.jsonl").write_text("\n".join(lines) + "\n")
    rows = [
        {
            "request": request,
            "candidate": candidate,
            "seed": 2**62 + candidate,
            "status": "ok" if frames else "failed",
            "reason": "" if frames else "it was not sung",
            "frames": frames,
            "seconds": frames / 25,
            "finished": candidate != 1,
            "policy": "abc",
            "errors.per": frames / 10 if frames else None,
        }
        for (request, candidate), frames in FRAMES.items()
    ]
    write_table(root / "candidates.parquet", rows, CANDIDATE_COLUMNS)
    write_table(root / "pairs.parquet", pairs, PAIR_COLUMNS)
    return root


def row(request: str, chosen: int, rejected: int, strategy: str, margin: float) -> dict[str, Any]:
    return {
        "request": request,
        "chosen": chosen,
        "rejected": rejected,
        "strategy": strategy,
        "margin": margin,
        "reason": "fewer errors",
        "aspects": "{}",
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "mined", [row("one", 0, 1, "lyrics", 0.3), row("two", 2, 1, "musicality", 0.05)])


def test_pairs_are_read_back_with_their_codes_requests_and_scores(root: Path) -> None:
    pairs = MinedPairs(root)
    assert pairs.layout == LAYOUT
    assert pairs.policies == ("abc",)
    assert pairs.frames.tolist() == [[4, 7], [3, 5]]
    second = pairs.pair(1)
    assert second.request == REQUESTS[1]
    assert (second.strategy, second.margin, second.reason) == ("musicality", 0.05, "fewer errors")
    for candidate, number in ((second.chosen, 2), (second.rejected, 1)):
        assert candidate.ids.dtype == np.int64
        np.testing.assert_array_equal(candidate.ids, codes(("two", number)))
        np.testing.assert_array_equal(candidate.cursor, np.arange(FRAMES["two", number]))
        assert candidate.seed == 2**62 + number
        assert candidate.finished == (number != 1)
        assert candidate.scores == {"errors.per": pytest.approx(FRAMES["two", number] / 10)}
    failed = pairs.candidate("two", 0)
    assert failed.ids.shape == (3, 0)
    assert failed.scores == {}


def test_a_pair_is_a_song_of_the_request_with_an_id_of_its_own(root: Path) -> None:
    songs = [MinedPairs(root)[i] for i in range(2)]
    assert [song.id for song in songs] == ["one.0.1.lyrics", "two.2.1.musicality"]
    assert songs[0].sections == REQUESTS[0].sections
    assert songs[1].provenance["margin"] == 0.05


def test_strategies_and_margins_are_chosen(root: Path) -> None:
    assert [pair.strategy for pair in map(MinedPairs(root, strategies=["lyrics"]).pair, range(1))] == ["lyrics"]
    assert len(MinedPairs(root, least_margin=0.1)) == 1
    with pytest.raises(LayoutError, match="Did you mean 'lyrics'"):
        MinedPairs(root, strategies=["lyric"])
    with pytest.raises(LayoutError, match=r"no pair with a margin of 0\.5 or more"):
        MinedPairs(root, least_margin=0.5)


def test_a_reader_in_another_process_opens_the_files_again(root: Path) -> None:
    pairs = MinedPairs(root)
    before = pairs.pair(0)
    data = pickle.dumps(pairs)
    again = pickle.loads(data).pair(0)
    np.testing.assert_array_equal(again.chosen.ids, before.chosen.ids)
    assert codes(("one", 1)).astype("<u2").tobytes() not in data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "codes" / "ids.u2").write_bytes(b"ab"), r"ids\.u2 has 2 bytes, its index says 114 bytes"),
        (lambda root: (root / "codes" / "cursor.i32").unlink(), r"cursor\.i32 is missing"),
        (lambda root: (root / "candidates.parquet").unlink(), "is no finished mining"),
        (lambda root: (root / "pairs.parquet").write_bytes(b"PAR1"), r"pairs\.parquet cannot be read"),
        (lambda root: (root / "requests.jsonl").write_text(""), "request 'one', which is not in"),
        (lambda root: (root / "codes" / "layout.json").write_text("{}"), "format None"),
        (
            lambda root: write_table(root / "pairs.parquet", [{"request": "one"}], {"request": "string"}),
            r"chosen \(missing; expected int32\)",
        ),
    ],
)
def test_a_damaged_folder_is_refused(root: Path, damage: Any, message: str) -> None:
    damage(root)
    with pytest.raises(LayoutError, match=message):
        MinedPairs(root)


def test_the_same_rows_are_the_same_bytes(root: Path, tmp_path: Path) -> None:
    path = root / "candidates.parquet"
    write_table(tmp_path / "again.parquet", read_table(path, CANDIDATE_COLUMNS), CANDIDATE_COLUMNS)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()
