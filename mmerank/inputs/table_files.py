"""Files of rows (lines of JSON, Parquet) -> rows by number, none held in memory -> examples."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import mmap
import random
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, cast

from mmerank.errors import DataError
from mmerank.files import opened
from mmerank.inputs.example import Example, Skipped, kind
from mmerank.inputs.layouts import check_layout

# A row, or why there is none.
Row = dict[str, Any] | DataError
JSON_LINES = (".jsonl", ".ndjson", ".json")
# What a line may have, unpacked: without an end to it, a text would fill the memory.
LONGEST_LINE = 256_000_000
# How many rows are looked at to tell which fields a file of JSON lines has.
_FIRST_ROWS = 1000
_BLOCK = 1 << 16  # bytes


class Table(Protocol):
    """Rows with a number each, counted from 0.

    Attributes:
        name: Where they come from.
        fingerprint: Of their content.
    """

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        """The rows in their order, or those of the given numbers, each with its number."""
        ...

    def place(self, number: int) -> str:
        """Where a row stands, for messages; counted from 1."""
        ...

    def fields(self) -> list[str]:
        """The names of the columns."""
        ...


def open_table(path: Path, patterns: Sequence[str] = ()) -> Table:
    """The rows of a file, or of the files of a folder.

    Args:
        path: A file that ends in .jsonl, .ndjson or .json (one JSON object per line, or a list of them), each also
            with .gz, or in .parquet; or a folder.
        patterns: For a folder, the files in it, in this order; of one pattern, by name. A file `NAME.gz` is also
            found as `NAME`.

    Returns:
        The rows, numbered through.

    Raises:
        DataError: A file is missing, cannot be read, is empty, or is of another kind.
    """
    check_layout(path, folder=bool(patterns))
    if not path.is_dir():
        return _open_file(path)
    found: list[Path] = []
    for pattern in patterns:
        files = sorted(path.glob(pattern)) or sorted(path.glob(pattern.removesuffix(".gz")))
        if not files:
            raise DataError(
                f"{path}: no {pattern} in this folder; expected the files {', '.join(patterns)}, or the name of one "
                "file with the rows"
            )
        found += files
    return _open_file(found[0]) if len(found) == 1 else _Joined(path, found)


def _open_file(path: Path) -> Table:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file; rows are read more than once, so save them to a file first")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".parquet"]:
        return _Parquet(path)
    if (suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]) in [[known] for known in JSON_LINES]:
        return _json_table(path)
    raise DataError(f"{path}: expected a file that ends in .jsonl, .jsonl.gz or .parquet")


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
    """The lines of a file, without their ends (LF or CR LF), unpacked if its name ends in .gz.

    Args:
        path: The file, which is opened once.
        digest: Takes in the file's content as it lies on the disk. It is complete when all lines are read.
        pipe: Whether it may be a pipe.

    Yields:
        One line after the other; the end of the last one may be missing.

    Raises:
        DataError: The file is missing, cannot be read or unpacked, or has a line without end.
    """
    try:
        with opened(path, pipe=pipe) as raw:
            counted = io.BufferedReader(cast(io.RawIOBase, (digest or Digest()).of(raw)), _BLOCK)
            # Both of them give bytes.
            file = cast(IO[bytes], gzip.open(counted) if path.suffix.lower() == ".gz" else counted)
            for i, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b"")):
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{path}: line {i + 1} has {LONGEST_LINE / 1e6:g} MB and more, expected texts")
                start = 3 if i == 0 and line.startswith(b"\xef\xbb\xbf") else 0
                yield line[start:].removesuffix(b"\n").removesuffix(b"\r")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from None


def _json_table(path: Path) -> Table:
    """The rows of a file of JSON: one per line, or in a list, which is held in memory."""
    first = next((line.strip() for line in lines(path) if line.strip()), b"")
    if first not in (b"{", b"[") and not first.startswith(b"[{"):
        return _JsonLines(path)
    digest = Digest()
    try:
        content = json.loads(b"\n".join(lines(path, digest)))
    except ValueError:
        return _JsonLines(path)  # which says of each line why it is none
    except (RecursionError, MemoryError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "too large for the memory there is"
        raise DataError(f"{path}: a JSON list, {reason}; write one object per line") from None
    if isinstance(content, list):
        return _JsonList(path, content, digest.text)
    keys = ", ".join(f"{key!r:.40}" for key in list(content)[:5])
    raise DataError(f"{path}: one JSON object, with the keys {keys}; write its rows one per line, as .jsonl")


class _JsonList:
    def __init__(self, path: Path, content: list[Any], fingerprint: str):
        self.name = str(path)
        self.fingerprint = fingerprint
        self._rows: list[Row] = [
            row if isinstance(row, dict) else DataError(f"{kind(row)}, expected a JSON object") for row in content
        ]
        if not self._rows:
            raise DataError(f"{path}: no rows")

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        return ((i, row) for i, row in enumerate(self._rows) if numbers is None or i in numbers)

    def place(self, number: int) -> str:
        return f"entry {number + 1}"

    def fields(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._rows[:_FIRST_ROWS] if isinstance(row, dict) for name in row))


class _JsonLines:
    def __init__(self, path: Path):
        digest = Digest()
        self.name = str(path)
        self._path = path
        self._length = sum(1 for _ in lines(path, digest))
        self.fingerprint = digest.text
        if not self._length:
            raise DataError(f"{path}: empty file")

    def __len__(self) -> int:
        return self._length

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        digest = Digest()
        for number, line in enumerate(lines(self._path, digest)):
            if numbers is None or number in numbers:
                yield number, _object(line)
        if digest.text != self.fingerprint:
            raise DataError(f"{self.name}: changed while it was read; start again when nothing writes to it")

    def place(self, number: int) -> str:
        return f"line {number + 1}"

    def fields(self) -> list[str]:
        first = (row for _, row in islice(self.rows(), _FIRST_ROWS))
        return list(dict.fromkeys(name for row in first if isinstance(row, dict) for name in row))


def _object(line: bytes) -> Row:
    if not line.strip():
        return DataError("empty line")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return DataError(f"not UTF-8 ({error.reason} at byte {error.start + 1})")
    except ValueError as error:  # also an integer of thousands of digits
        return DataError(f"not valid JSON ({_reason(error)})")
    except RecursionError:
        return DataError("not valid JSON (nested too deeply)")
    return row if isinstance(row, dict) else DataError(f"{kind(row)}, expected a JSON object")


class _Parquet:
    def __init__(self, path: Path):
        from pyarrow import ArrowException, BufferReader, py_buffer
        from pyarrow.parquet import ParquetFile

        self.name = str(path)
        self._errors = (ArrowException, OSError, ValueError)
        digest = Digest()
        try:
            # One opening for hash and rows: another file may take the path between two.
            with opened(path) as file:
                content = py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            digest.add(content)
            self._file = ParquetFile(BufferReader(content))
        except self._errors as error:
            reason = "No such file" if isinstance(error, FileNotFoundError) else _reason(error)
            raise DataError(f"{path}: not a Parquet file ({reason})") from None
        self.fingerprint = digest.text
        if not len(self):
            raise DataError(f"{path}: no rows")

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        start = 0
        try:
            for group in range(self._file.num_row_groups):
                end = start + self._file.metadata.row_group(group).num_rows
                wanted = [number for number in range(start, end) if numbers is None or number in numbers]
                if wanted:
                    table = self._file.read_row_group(group).take([number - start for number in wanted])
                    yield from zip(wanted, table.to_pylist(), strict=True)
                start = end
        except self._errors as error:
            raise DataError(f"{self.name}: cannot be read ({_reason(error)})") from None

    def place(self, number: int) -> str:
        return f"row {number + 1}"

    def fields(self) -> list[str]:
        return list(self._file.schema_arrow.names)


class _Joined:
    def __init__(self, folder: Path, paths: Sequence[Path]):
        self.name = str(folder)
        self._names = [path.relative_to(folder).as_posix() for path in paths]
        self._parts = [_open_file(path) for path in paths]
        self.fingerprint = hashlib.sha256("".join(p.fingerprint for p in self._parts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        start = 0
        for part in self._parts:
            end = start + len(part)
            wanted = None if numbers is None else {number - start for number in numbers if start <= number < end}
            for number, row in part.rows(wanted) if wanted is None or wanted else ():
                yield start + number, row
            start = end

    def place(self, number: int) -> str:
        for name, part in zip(self._names, self._parts, strict=True):
            if number < len(part):
                return f"{name} {part.place(number)}"
            number -= len(part)
        raise IndexError(number)

    def fields(self) -> list[str]:
        return list(dict.fromkeys(name for part in self._parts for name in part.fields()))


def _reason(error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason.splitlines()[0][:200] if reason else type(error).__name__


def examples_of(
    table: Table,
    example: Callable[[str, dict[str, Any]], Example | None],
    numbers: Sequence[int] | None = None,
) -> Iterator[Example | Skipped]:
    """The examples in a table.

    Args:
        table: Rows.
        example: Id and row -> its example; None if the row is not one of the data set's. A `DataError` that it
            raises becomes the reason of a `Skipped`.
        numbers: Take these rows, in this order. Default: all.

    Yields:
        One entry for a row.
    """
    rows = table.rows() if numbers is None else _in_order(table, numbers)
    taken: set[str] = set()
    for number, row in rows:
        name = str(number + 1)
        try:
            if isinstance(row, DataError):
                raise row
            name = _own_id(row) or name
            found = example(name, row)
        except DataError as error:
            yield Skipped(name, f"{table.place(number)}: {error}")
            continue
        if found is not None and name in taken:
            yield Skipped(name, f"{table.place(number)}: the id occurs twice; the first record is kept")
        elif found is not None:
            taken.add(name)
            yield found


def _in_order(table: Table, numbers: Sequence[int]) -> Iterator[tuple[int, Row]]:
    found = dict(table.rows(frozenset(numbers)))
    return ((number, found[number]) for number in numbers)


def _own_id(row: dict[str, Any]) -> str | None:
    name = row.get("id")
    # What cannot be written as UTF-8 cannot stand in a report.
    return name if isinstance(name, str) and name.strip() and name.isprintable() else None


def column_text(row: dict[str, Any], name: str) -> str:
    """The text in one field of a row, as it stands there; DataError if there is none."""
    if name not in row:
        raise DataError(f"no field {name!r}")
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"{name} is {kind(value)}, expected text")
    return usable(value, name)


def usable(text: str, name: str) -> str:
    """The text itself; DataError if it is blank, or no valid Unicode, which no tokenizer takes."""
    if not text.strip():
        raise DataError(f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name} is not valid Unicode (half of a surrogate pair)") from None
    return text


def without_repeated_texts(entries: Iterable[Example | Skipped]) -> Iterator[Example | Skipped]:
    """The entries, with every example but the first of a text skipped.

    Args:
        entries: In order.

    Yields:
        One entry for each.
    """
    first: dict[bytes, str] = {}
    for entry in entries:
        if isinstance(entry, Example):
            text = hashlib.sha256(f"{entry.instruction}\0{entry.response}".encode()).digest()
            if first.setdefault(text, entry.id) != entry.id:
                yield Skipped(entry.id, f"same text as {first[text]}; the first is kept")
                continue
        yield entry


def sample(n: int, size: int) -> list[int]:
    """The rows that the published code draws: `random.seed(123)`, then `random.sample(range(n), size)`.

    Args:
        n: Number of rows.
        size: Number of rows to draw; when there are fewer, all of them are taken, in random order.

    Returns:
        Row numbers, from 0, in the order drawn.
    """
    return random.Random(123).sample(range(n), min(n, size))
