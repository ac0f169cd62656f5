"""Files that are whole or not there, whatever ends the process or the machine while they are written."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which it becomes when the block ends; of a link, it takes the link's place.

    It is on the disk before it gets its name, so that after a power loss the name never stands for half of it.

    Args:
        path: Where; its folder exists.

    Yields:
        A path beside it, which is gone when the block raises.
    """
    unfinished = _beside(path)
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


def try_whole(path: Path) -> None:
    """Try whether a file can be written with `whole`, leaving `path` as it is.

    Args:
        path: Where.

    Raises:
        OSError: It cannot.
    """
    unfinished = _beside(path)
    unfinished.touch()
    unfinished.unlink()


def own_folder(path: Path) -> None:
    """Make a folder to write to, if there is none; one that a link leads to is not taken, wherever it leads.

    Args:
        path: Where.

    Raises:
        OSError: It is a link, or cannot be made.
    """
    if path.is_symlink():
        raise OSError(f"{path.name} is a link, and files are not written through links; remove it")
    path.mkdir(parents=True, exist_ok=True)


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


def _beside(path: Path) -> Path:
    """A name of its own, since several processes may write the same file; short, since names have a limit."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}{UNFINISHED}")


def _sync_folder(folder: Path) -> None:
    """Make the new name last; not every system can open a folder, nor every file system sync one."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
