"""Files that are whole or not there, whatever ends the process or the machine while they are written."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which it becomes when the block ends.

    It is on the disk before it gets its name, so that after a power loss the name never stands for half of it.

    Args:
        path: Where; its folder exists.

    Yields:
        A path beside it, which is gone when the block raises.
    """
    # A name of its own, since several processes may write the same file; short, since names have a limit.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    _sync_folder(path.parent)


def regular_bytes(path: Path) -> bytes:
    """What a regular file holds; never waits for a pipe, nor reads a device.

    Args:
        path: The file; links are followed.

    Returns:
        All of it.

    Raises:
        ValueError: There is something else of that name.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("not a regular file")
    with os.fdopen(handle, "rb") as file:
        return file.read()


def remove_unfinished(folder: Path, *, older_than: float = 0) -> None:
    """Remove what processes that were killed left of files they were writing; what cannot be removed stays.

    Args:
        folder: May be missing.
        older_than: Leave what was written to more recently than that, seconds.
    """
    for left in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError):
            if not older_than or time.time() - left.stat().st_mtime > older_than:
                left.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name last; not every system can open a folder, nor every file system sync one."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
