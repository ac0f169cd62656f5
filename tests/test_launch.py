"""Locks in the store of a launcher."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from mmerank.errors import RunFolderError
from mmerank.processes import ALONE, Rank
from mmerank.runs import launch as of_launch
from mmerank.runs import locks
from mmerank.runs.launch import Launch, launch

Joined = Callable[..., Launch]


class Clock:
    """In place of `time`: it stands unless it is set, and nobody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        threading.Event().wait(0.001)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(of_launch, "time", clock)
    return clock


@pytest.fixture(scope="module")
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)


@pytest.fixture
def joined(server: TCPStore, request: pytest.FixtureRequest) -> Iterator[Joined]:
    """Makes processes of one launch, in a store of its own."""
    there: list[Launch] = []

    def join(index: int, count: int = 2) -> Launch:
        store = TCPStore("127.0.0.1", server.port, None, False, timedelta(seconds=60), wait_for_workers=False)
        there.append(Launch(PrefixStore(request.node.name, store), Rank(index, count)))
        return there[-1]

    yield join
    for each in there:
        for lock in list(each._held):
            each.release(lock)


def test_one_of_many_has_a_lock(joined: Joined) -> None:
    """Each of eight processes adds one to a number 25 times, which takes a look at it and a moment."""
    number, both = [0], threading.Barrier(8)

    def work(ours: Launch) -> None:
        both.wait()
        for _ in range(25):
            assert ours.take("a", wait=True)
            seen = number[0]
            threading.Event().wait(0.0005)
            number[0] = seen + 1
            ours.release("a")

    threads = [threading.Thread(target=work, args=(joined(i, 8),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number == [200]


def test_a_lock_that_another_has(joined: Joined) -> None:
    one, other = joined(0), joined(1)
    assert one.take("a", wait=False) and not other.take("a", wait=False) and other.take("b", wait=False)
    one.release("a")
    assert other.take("a", wait=False) and not one.take("a", wait=False)


def test_the_lock_of_a_process_that_was_started_again(joined: Joined, clock: Clock) -> None:
    """At once, by whoever asks: torchrun counts no restart where members change."""
    before, other = joined(0), joined(1)
    assert before.take("a", wait=False) and not other.take("a", wait=False)
    joined(0)
    assert other.take("a", wait=False), "the one that took it is no more"
    assert not joined(0).take("a", wait=False), "whoever has it now is"


def test_the_lock_of_a_rank_that_there_is_no_more(joined: Joined, clock: Clock) -> None:
    assert joined(3, 4).take("a", wait=False)
    assert not joined(2, 4).take("a", wait=False)
    assert joined(0, 3).take("a", wait=False), "of four there are three"


def test_the_lock_of_a_process_that_shows_no_sign_of_life(
    joined: Joined, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launch, "_beat", lambda self: None)  # as of a process that is dead
    one, other = joined(0), joined(1)
    assert one.take("a", wait=False) and one.take("b", wait=False)
    assert not other.take("a", wait=False)
    clock.now = of_launch.LOST_S - 1
    assert not other.take("a", wait=False)
    one.release("b")
    assert one.take("b", wait=False)  # a sign
    clock.now = of_launch.LOST_S + 1
    assert not other.take("a", wait=False)
    clock.now = 2 * of_launch.LOST_S + 2
    assert other.take("a", wait=False) and other.take("b", wait=False)
    one.release("a")
    assert not joined(2, 3).take("a", wait=False), "it was not dead, and lets go of nothing that it has no more"


def test_who_holds_a_lock_shows_that_it_lives(joined: Joined, clock: Clock) -> None:
    one, other = joined(0), joined(1)
    assert one.take("a", wait=False)
    for _ in range(3):
        assert not other.take("a", wait=False)
        clock.now += of_launch.LOST_S + 1
        before = clock.sleeps
        while clock.sleeps < before + 3:  # its thread shows a sign between two sleeps
            threading.Event().wait(0.001)


def test_a_store_that_is_gone(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    one = joined(0)
    assert one.take("a", wait=False)

    def gone(*_: Any) -> Any:
        from torch.distributed import DistNetworkError

        raise DistNetworkError("Failed to recv, got 0 bytes.\nMore.")

    monkeypatch.setattr(one, "_store", type("Gone", (), {"add": gone, "compare_set": gone})())
    one.release("a")
    with pytest.raises(RunFolderError, match=r"store at 10.0.0.1:29500, .* does not answer \(Failed to recv, got 0"):
        one.take("a", wait=True)


@pytest.fixture
def launched(server: TCPStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    launch.cache_clear()
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield
    launch.cache_clear()


def test_strangers_need_locks_of_the_disk(tmp_path: Path, launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with locks.locked(tmp_path, ".locks/a", wait=False, who="launch") as ours:
        assert ours and not list(tmp_path.iterdir()), "the store is enough"
    with locks.locked(tmp_path, "a", wait=False) as ours:
        assert ours and (tmp_path / "a").exists()
        launch.cache_clear()
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
        with locks.locked(tmp_path, "a", wait=False) as of_a_stranger:
            assert not of_a_stranger


def test_runs_that_share_nothing_but_a_folder_ask_no_store(tmp_path: Path, launched: None) -> None:
    """Of two nodes, say, with a cache each under one path: neither waits for the other."""
    ours = launch()
    assert ours is not None
    assert Launch(vars(ours)["_store"], Rank(1, 2)).take(f"{tmp_path}/a", wait=False)
    with locks.locked(tmp_path, "a", wait=False, who="apart") as is_ours:
        assert is_ours
    with locks.locked(tmp_path, "a", wait=False) as is_ours:
        assert not is_ours


def test_what_is_started_by_one_of_several_has_no_part_in_it(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch() is not None
    launch.cache_clear()
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    assert launch() is None


def test_srun_keeps_no_store(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    assert launch() is None
