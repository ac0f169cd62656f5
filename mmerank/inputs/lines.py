"""Lines of a file, read once, and hashed as they are read."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from mmerank.errors import DataError
from mmerank.files import opened

# What a line may have, unpacked: without an end to it, a text would fill the memory.
LONGEST_LINE = 256_000_000
_BLOCK = 1 << 16  # bytes


class Digest:
    """Hash of a file's content, taken while the file is read, so that it is of what was read.

    A pipe gives its content once, and a file may change between two readings.
    """

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def of(self, file: IO[bytes]) -> IO[bytes]:
        """A file whose content counts as it is read."""
        return cast(IO[bytes], _Counted(file, self._state.update))

    def add(self, content: Any) -> None:
        """Count content that is in memory."""
        self._state.update(content)

    @property
    def text(self) -> str:
        """16 hexadecimal digits."""
        return self._state.hexdigest()[:16]


class _Counted(io.RawIOBase):
    def __init__(self, file: IO[bytes], count: Callable[[bytes], None]):
        self._file = file
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        self._count(block)
        buffer[: len(block)] = block
        return len(block)


def lines(path: Path, digest: Digest | None = None, *, pipe: bool = False) -> Iterator[bytes]:
    """The lines of a file, without their ends (LF or CR LF), unpacked if its name ends in .gz or .zst.

    Args:
        path: The file, which is opened once.
        digest: Takes in the file's content as it lies on the disk. It is complete when all lines are read.
        pipe: Whether it may be a pipe.

    Yields:
        One line after the other; the end of the last one may be missing.

    Raises:
        DataError: The file is missing, cannot be read or unpacked, is UTF-16, or has a line without end.
    """
    try:
        with opened(path, pipe=pipe) as raw:
            counted = io.BufferedReader(cast(io.RawIOBase, (digest or Digest()).of(raw)), _BLOCK)
            file = _unpacked(cast(IO[bytes], counted), path.suffix.lower())
            for i, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b"")):
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{path}: line {i + 1} has {LONGEST_LINE / 1e6:g} MB and more, expected texts")
                if i == 0 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DataError(f"{path}: stored as UTF-16; save it as UTF-8")
                start = 3 if i == 0 and line.startswith(b"\xef\xbb\xbf") else 0
                yield line[start:].removesuffix(b"\n").removesuffix(b"\r")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from None


def _unpacked(file: IO[bytes], suffix: str) -> IO[bytes]:
    """A file as it was before it was packed."""
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(file))
    if suffix == ".zst":
        from pyarrow import CompressedInputStream, PythonFile

        return io.BufferedReader(cast(io.RawIOBase, _Raw(CompressedInputStream(PythonFile(file), "zstd"))), _BLOCK)
    return file


class _Raw(io.RawIOBase):
    """A stream of pyarrow as one of Python."""

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def reason(error: BaseException) -> str:
    """What an error says, in one short line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.splitlines()[0][:200] if said else type(error).__name__
