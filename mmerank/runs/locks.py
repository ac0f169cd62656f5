"""Locks of a folder: the launcher's store for the processes of one launch, files for all others."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from mmerank.durable import own_folder
from mmerank.errors import RunFolderError
from mmerank.processes import rank
from mmerank.runs.cache import reason
from mmerank.runs.launch import launch

# What a file system without locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


# Who may want a lock: processes of this launch alone, whoever writes there, or runs that share but the folder.
Who = Literal["launch", "all", "apart"]


@contextmanager
def locked(folder: Path, name: str, *, wait: bool, who: Who = "all") -> Iterator[bool]:
    """Have a lock for this process alone while the block runs; a process that dies lets go.

    Args:
        folder: There.
        name: Of the lock: a path in the folder.
        wait: Until nobody else has it.
        who: May want it. For `launch` the launcher's store is enough, if there is one; `apart` asks no store, since
            nodes may have folders of their own under one path.

    Yields:
        Whether this process has it.

    Raises:
        RunFolderError: It is a link, or the file system has no locks and no store makes up for them.
    """
    ours = None if who == "apart" else launch()
    with ExitStack() as stack:
        if ours is not None:
            lock = f"{folder}/{name}"
            if not ours.take(lock, wait=wait):
                yield False
                return
            stack.callback(ours.release, lock)
        if who != "launch" or ours is None:
            try:
                stack.enter_context(_file(folder / name).acquire(timeout=-1 if wait else 0))
            except Timeout:
                yield False
                return
            except (OSError, NotImplementedError) as error:
                none = getattr(error, "errno", errno.ENOSYS) in _NO_LOCKS
                if ours is None or not none:
                    remedy = "; name a folder on a disk with locks, or start with torchrun, which needs none"
                    raise RunFolderError(
                        f"{folder}: cannot be locked ({reason(error)}){remedy if none else ''}"
                    ) from error
                if rank().leads:
                    warnings.warn(
                        f"{folder}: cannot be locked ({reason(error)}): nothing keeps a second command from writing "
                        "there too; start none",
                        stacklevel=1,  # the same line each time, so that it is said once
                    )
        yield True


def _file(path: Path) -> FileLock:
    own_folder(path.parent)
    if path.is_symlink():  # what it leads to would be opened for writing, by some versions emptied
        raise RunFolderError(f"{path}: is a link; remove it")
    return FileLock(path)
