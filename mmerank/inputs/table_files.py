"""Files of rows (lines of JSON, Parquet) -> rows by number, none held in memory."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from mmerank.errors import DataError
from mmerank.files import opened
from mmerank.inputs.example import kind
from mmerank.inputs.layouts import check_layout, unpacked_name
from mmerank.inputs.lines import Digest, lines, reason

# A row, or why there is none.
Row = dict[str, Any] | DataError
JSON_LINES = (".jsonl", ".ndjson", ".json")
# How many rows are looked at to tell which fields a file of JSON lines has.
_FIRST_ROWS = 1000


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
            with .gz or .zst, or in .parquet; or a folder.
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
    if path.suffix.lower() == ".parquet":
        return _Parquet(path)
    if unpacked_name(path.name).endswith(JSON_LINES):
        return _json_table(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    raise DataError(
        f"{path}: expected a file that ends in {', '.join(JSON_LINES)}, each also with .gz or .zst, or in .parquet"
    )


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
        return ListedRows(path, content, digest.text)
    keys = ", ".join(f"{key!r:.40}" for key in list(content)[:5])
    raise DataError(f"{path}: one JSON object, with the keys {keys}; write its rows one per line, as .jsonl")


class ListedRows:
    """Rows that are held in memory.

    Args:
        path: Where they are from.
        content: Dictionaries, what is no row, or why there is none.
        fingerprint: Of the file's content.
        fields: The names of the columns. Default: those of the rows.

    Raises:
        DataError: There are none.
    """

    def __init__(self, path: Path, content: Sequence[Any], fingerprint: str, *, fields: Sequence[str] | None = None):
        self.name = str(path)
        self.fingerprint = fingerprint
        self._rows: list[Row] = [
            row if isinstance(row, (dict, DataError)) else DataError(f"{kind(row)}, expected a JSON object")
            for row in content
        ]
        self._named = fields
        if not self._rows:
            raise DataError(f"{path}: no rows")

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        """The rows, or those of the given numbers, each with its number."""
        return ((i, row) for i, row in enumerate(self._rows) if numbers is None or i in numbers)

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        return f"{'entry' if self._named is None else 'row'} {number + 1}"

    def fields(self) -> list[str]:
        """The names of the columns."""
        if self._named is not None:
            return [*self._named]
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
        return DataError(f"not valid JSON ({reason(error)})")
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
            said = "No such file" if isinstance(error, FileNotFoundError) else reason(error)
            raise DataError(f"{path}: not a Parquet file ({said})") from None
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
            raise DataError(f"{self.name}: cannot be read ({reason(error)})") from None

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
