"""The process of a cell: `python -m mmerank.jobs.where.process PARENT PATIENCE LOCK COMMAND ...`.

It holds the cell's lock, and not whoever started it: so a cell is taken for as long as something writes to its run
folder, and no longer, whichever of the two is killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import stat
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

from mmerank.errors import MmerankError
from mmerank.jobs.cells import WRITING_S, read_cell
from mmerank.processes import TAKEN, TOO_LARGE, rank

LOOK_S = 0.5
LEAST_S = 1.0  # others look at the lock now and then


def main() -> None:
    """Take the cell and run its command; end with status TAKEN where another process has the cell."""
    parent, patience, lock, *command = sys.argv[1:]
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # by which submitit knows, in all of a job, that its time ends
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    taken = FileLock(lock)
    if rank().leads:  # the others of a launch are at the same cell
        try:
            taken.acquire(timeout=max(float(patience), LEAST_S))
        except Timeout:
            sys.exit(TAKEN)
    if stat.S_ISREG(os.fstat(1).st_mode):
        os.ftruncate(1, 0)  # what an earlier attempt said
    if "--config" in command and (why := _too_large(Path(command[command.index("--config") + 1]))):
        print(f"error: {why}", file=sys.stderr)
        sys.exit(TOO_LARGE)
    sys.argv = ["mmerank", *command]
    runpy.run_module("mmerank", run_name="__main__", alter_sys=True)


def _too_large(file: Path) -> str:
    """Why the model does not fit on this process's device; what else may be wrong with either its command says."""
    from mmerank.jobs.fit import too_large

    asked = read_cell(file)
    try:
        return too_large(str(asked["model"]), asked["options"]) if asked else ""
    except MmerankError:
        return ""


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)  # what is measured is written
    time.sleep(WRITING_S)
    os._exit(1)


if __name__ == "__main__":
    main()
