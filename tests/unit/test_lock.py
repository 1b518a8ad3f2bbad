"""The lock of a folder: one holder at a time, and no trace afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from songkit._lock import locked
from songkit.errors import OutputError


def test_a_lock_and_a_folder_made_for_it_are_gone_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path / "new", "songkit prepare"):
        assert (tmp_path / "new" / ".lock").is_file()
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "new", "songkit prepare"):
        (tmp_path / "new" / "made").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["made"]
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty", "songkit prepare"):
        pass
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_lock_is_taken_away_by_none_but_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path, "songkit prepare"):
        with pytest.raises(OutputError, match="another 'songkit prepare'"), locked(tmp_path, "songkit prepare"):
            pass
        assert (tmp_path / ".lock").exists()
        (tmp_path / ".lock").rename(tmp_path / "old")  # by hand, after which another process has one of its own
        (tmp_path / ".lock").touch()
    assert (tmp_path / ".lock").exists()


def test_a_lock_that_was_taken_away_before_it_was_held_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from songkit import _lock

    flock, calls = _lock.fcntl.flock, []

    def late(handle: object, how: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()  # who held it ends between our opening and our locking it
        calls.append(handle)
        flock(handle, how)  # type: ignore[arg-type]

    monkeypatch.setattr(_lock.fcntl, "flock", late)
    with locked(tmp_path, "songkit prepare"):
        assert len(calls) == 2
        with pytest.raises(OutputError, match="another 'songkit mine'"), locked(tmp_path, "songkit mine"):
            pass
