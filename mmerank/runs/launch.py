"""Locks among the processes of one launch, kept by the store of the launcher: no disk and no port of our own.

torchrun and `accelerate launch` keep a store of torch.distributed that all of their processes reach. It orders only
who does what; what is done is what the run folder has. So a lock that is wrongly taken for free costs time, changes
no number, and none is held for ever: one whose holder was started again, or shows no sign of life, is free.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from mmerank.errors import RunFolderError, first_line
from mmerank.processes import AGENT_STORE, Rank, rank

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

BEAT_S = 2.0  # between signs of life of who holds a lock
LOST_S = 60.0  # without one: its process or node is lost
LOOK_S = 0.05
CONNECT_S = 60.0
_FREE = ""


class Launch:
    """The locks of a launch. They are not reentrant.

    Args:
        store: Which all of its processes reach.
        me: Which one this is.
    """

    def __init__(self, store: Store, me: Rank):
        self._store = store
        self._count = me.count
        self._name = f"{me.index}-{secrets.token_hex(8)}"  # of this process, and of none that is started in its place
        self._seen: dict[str, tuple[int, float]] = {}  # of other holders: signs of life, and when that many were seen
        self._held: set[str] = set()
        self._holding = threading.Event()
        # After a change of members torchrun starts processes anew in the same store, and counts no restart.
        store.set(f"rank/{me.index}", self._name)
        threading.Thread(target=self._beat, daemon=True).start()

    def take(self, lock: str, *, wait: bool) -> bool:
        """Take a lock.

        Args:
            lock: Its name.
            wait: Until it is free.

        Returns:
            Whether this process has it.

        Raises:
            RunFolderError: The store does not answer.
        """
        from torch.distributed import DistError

        try:
            self._store.add(f"beats/{self._name}", 1)  # nobody shall judge by how long it had no lock
            while not self._is_taken(lock):
                if not wait:
                    return False
                time.sleep(LOOK_S)
        except DistError as error:
            raise RunFolderError(_lost(error)) from None
        self._held.add(lock)
        self._holding.set()
        return True

    def release(self, lock: str) -> None:
        """Let go of a lock that this process has; where the store is lost nobody waits for it.

        Args:
            lock: Its name.
        """
        from torch.distributed import DistError

        self._held.discard(lock)
        if not self._held:
            self._holding.clear()
        try:
            self._store.compare_set(f"lock/{lock}", self._name, _FREE)
        except DistError:
            pass

    def _is_taken(self, lock: str) -> bool:
        """Try once."""
        expected = _FREE
        while True:
            holder = self._store.compare_set(f"lock/{lock}", expected, self._name).decode()
            if holder in (self._name, expected):
                return holder == self._name
            if not self._is_gone(holder):
                return False
            expected = holder

    def _is_gone(self, holder: str) -> bool:
        index = holder.partition("-")[0]
        if int(index) >= self._count:
            return True
        if self._store.check([f"rank/{index}"]) and self._store.get(f"rank/{index}").decode() != holder:
            return True
        beats, now = self._store.add(f"beats/{holder}", 0), time.monotonic()
        before, since = self._seen.get(holder, (-1, now))
        if beats != before:
            self._seen[holder] = (beats, now)
            return False
        return now - since > LOST_S

    def _beat(self) -> None:
        from torch.distributed import DistError

        while self._holding.wait():
            try:
                self._store.add(f"beats/{self._name}", 1)
            except DistError:
                return  # whoever takes a lock next says so
            time.sleep(BEAT_S)


@cache
def launch() -> Launch | None:
    """The launch that this process belongs to.

    Returns:
        None where nothing launched it, or what did keeps no store (`srun`).

    Raises:
        RunFolderError: The store does not answer.
    """
    # Of one process as well: the next that torchrun starts in its place may have others beside it.
    if os.environ.get(AGENT_STORE) != "True":
        return None
    from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(host, port, None, False, timedelta(seconds=CONNECT_S), wait_for_workers=False)
        # Agents count restarts each for itself, so the number of restarts says nothing here.
        known = PrefixStore(f"mmerank/{os.environ.get('TORCHELASTIC_RUN_ID', '')}", store)
        return Launch(known, rank())
    except DistError as error:
        raise RunFolderError(_lost(error)) from None


def _lost(error: Exception) -> str:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return (
        f"the launcher's store at {where}, in which processes agree on who does what, does not answer "
        f"({first_line(error)}); what is measured stays, and the same command continues"
    )
