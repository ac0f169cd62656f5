"""Files that others made: read only where they are regular files, and named only where they are local."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from mmerank.errors import UsageError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Two letters at least: one is a drive. pathlib makes one slash of two.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class NotAFileError(OSError):
    """What is there is no regular file; `strerror` says what it is."""


def opened(path: str | Path, *, pipe: bool = False) -> BinaryIO:
    """A regular file, opened for reading; never what hangs, has no end, or does something when it is opened.

    Looked at before it is opened, since opening a device may do something, and once more after, since another file
    may have taken its place.

    Args:
        path: The file; links are followed.
        pipe: Take a pipe too, which is what a shell gives for `<(command)`.

    Returns:
        The file, to be closed by the caller.

    Raises:
        NotAFileError: It is something else.
        OSError: It cannot be opened.
    """
    _require_regular(Path(path).stat().st_mode, path, pipe)
    # Without waiting: what was a file a moment ago may be a pipe that nobody writes to.
    waits = 0 if pipe else getattr(os, "O_NONBLOCK", 0)
    flags = (
        os.O_RDONLY | waits | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    )
    handle = os.open(path, flags)
    try:
        _require_regular(os.fstat(handle).st_mode, path, pipe)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def regular_bytes(path: str | Path) -> bytes:
    """The content of a regular file.

    Args:
        path: The file; links are followed.

    Returns:
        All of it.

    Raises:
        OSError: As of `opened`.
    """
    with opened(path) as file:
        return file.read()


def json_of(path: str | Path) -> Any:
    """The JSON value in a regular file.

    Args:
        path: The file; links are followed.

    Returns:
        The value.

    Raises:
        OSError: As of `opened`.
        ValueError: It is not JSON, or nested too deeply; the message quotes nothing of it.
    """
    try:
        return json.loads(regular_bytes(path))
    except UnicodeDecodeError:
        raise ValueError("not valid JSON, not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON, line {error.lineno}") from None
    except ValueError:
        raise ValueError("not valid JSON, a number of too many digits") from None
    except RecursionError:
        raise ValueError("not valid JSON, nested too deeply") from None


def require_local(path: str | Path | None, what: str) -> None:
    """Refuse an address where the name of a local file or folder is needed.

    Args:
        path: What was given; None for nothing.
        what: The option, for the message.

    Raises:
        UsageError: It begins like `s3://`.
    """
    if path is not None and _URI.match(str(path)):
        raise UsageError(
            f"{what} {path}: an address; results are written to local folders, so name one and copy it from there"
        )


def _require_regular(mode: int, path: str | Path, pipe: bool) -> None:
    if stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode)):
        return
    if stat.S_ISDIR(mode):
        raise NotAFileError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    found = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
    raise NotAFileError(errno.EINVAL, f"is {found}, expected a file", str(path))
