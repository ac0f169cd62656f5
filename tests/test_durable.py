from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmerank.durable import remove_unfinished, whole


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), whole(path) as unfinished:
        unfinished.write_text("second, in pa")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    steps: list[tuple[str, bool]] = []
    sync = os.fsync

    def spy(handle: int) -> None:
        steps.append((Path(f"/proc/self/fd/{handle}").readlink().name, path.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    with whole(path) as unfinished:
        unfinished.write_text("content")
    assert steps == [(unfinished.name, False), (tmp_path.name, True)]


def test_two_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole(path) as one, whole(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    old, new, kept = tmp_path / ".a.1.unfinished", tmp_path / ".b.2.unfinished", tmp_path / "c.parquet"
    for path in (old, new, kept):
        path.write_text("x")
    os.utime(old, (time.time() - 1000,) * 2)
    remove_unfinished(tmp_path, older_than=600)
    assert sorted(tmp_path.iterdir()) == [new, kept]
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    remove_unfinished(tmp_path / "gone")
