"""What lies at an address (`s3://`, `hf://`, ...), through fsspec: read whole, never listed further than asked."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from mmerank.errors import DataError, SourceError, first_line

# Two letters at least: one is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[^/]*)?://")

_GONE = (404, 410)  # answers of the web that say that there is none


def is_address(name: str) -> bool:
    """Whether a name is an address and no path."""
    return _ADDRESS.match(name) is not None


def remote_bytes(address: str) -> bytes:
    """The content of a file at an address.

    Args:
        address: Of one file.

    Returns:
        All of it.

    Raises:
        FileNotFoundError: There is none.
        DataError: What fsspec needs for such addresses is not installed.
        SourceError: It cannot be had at the moment, or not by this person.
    """
    try:
        with opened_there(address) as file:
            return file.read()
    except (FileNotFoundError, DataError):
        raise
    except Exception as error:  # every file system raises errors of its own
        raise SourceError(f"{address}: cannot be fetched ({first_line(error)})") from error


@contextmanager
def opened_there(address: str) -> Iterator[BinaryIO]:
    """A file at an address, open for reading while the block runs.

    Args:
        address: Of one file.

    Yields:
        The file; most file systems fetch only what is read of it.

    Raises:
        FileNotFoundError: There is none.
        DataError: What fsspec needs for such addresses is not installed.
        SourceError: The web does not give it.
    """
    import fsspec

    try:
        there = fsspec.open(address, "rb")
    except (ImportError, ValueError) as error:
        raise DataError(f"{address}: {first_line(error)}") from error
    with ExitStack() as stack:
        try:
            file = stack.enter_context(there)
        except FileNotFoundError as error:
            # fsspec says so of the web whatever went wrong there.
            cause = error.__cause__ or error
            answer = getattr(cause, "status", None)
            if isinstance(cause, FileNotFoundError) or answer in _GONE or not (answer or isinstance(cause, OSError)):
                raise
            raise SourceError(f"{address}: cannot be fetched ({first_line(cause)})") from error
        yield cast(BinaryIO, file)


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """A copy of a file at an address, on the local disk while the block runs.

    Args:
        address: Of one file.

    Yields:
        The copy, of the file's own name.

    Raises:
        DataError: There is none, or it cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="mmerank-") as folder:
        copy = Path(folder) / (address.rstrip("/").rpartition("/")[2] or "file")
        with explained(address), opened_there(address) as file, copy.open("wb") as here:
            shutil.copyfileobj(file, here, 1 << 20)
        yield copy


def matching(address: str) -> list[str]:
    """The addresses that a pattern with `*` means, by name; an address without one is itself.

    Args:
        address: Or a pattern.

    Returns:
        Addresses; none where nothing matches.
    """
    if not any(sign in address for sign in "*?["):
        return [address]
    with explained(address):
        import fsspec

        system, _ = fsspec.core.url_to_fs(address)
        found: list[Any] = sorted(system.glob(address))
        return [system.unstrip_protocol(path) for path in found]


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Say of an address why nothing comes from it.

    Args:
        address: Any.

    Yields:
        For the work.

    Raises:
        DataError: Whatever the file system raised.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{address}: no such file") from None
    except Exception as error:
        raise DataError(
            f"{address}: cannot be fetched ({first_line(error)}); see whether it is right and can be reached, and "
            "what credentials its file system wants"
        ) from error
