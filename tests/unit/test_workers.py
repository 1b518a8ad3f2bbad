"""Worker processes that cannot begin say why."""

from __future__ import annotations

import pytest
import starting

from songkit._workers import in_order, worker_pool
from songkit.errors import LayoutError, SongkitError


def results(how: str) -> list[int]:
    with worker_pool(starting.begin, (how,), 1) as pool:
        return list(in_order(pool, starting.work, [1, 2], window=2))


def test_what_is_wrong_while_a_worker_begins_is_raised_as_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LayoutError, match=r"^there is no such folder$"):
        results("wrong")
    assert "Traceback" not in capfd.readouterr().err


def test_a_defect_while_a_worker_begins_is_raised_with_where_it_was() -> None:
    with pytest.raises(ValueError, match="not expected") as caught:
        results("defect")
    assert ", in begin\n" in str(caught.value.__cause__)


def test_a_worker_that_was_killed_is_told_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SongkitError, match=r"a worker process died \(killed.*fewer --workers"):
        results("killed")
    assert capfd.readouterr().err == ""
