"""Tables that a person has in Python -> examples: of pandas and `datasets`, streamed too, or rows in a list."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mmerank.errors import DataError, first_line
from mmerank.inputs.arrow_rows import ArrowRows, undecoded
from mmerank.inputs.columns import Columns, examples_in
from mmerank.inputs.example import DataSet, DataStream, Example, Skipped, fingerprint, kind
from mmerank.inputs.table_files import Row

# Of a stream: by these, and by the columns, a run folder knows it.
FIRST = 16


def is_table(data: object) -> bool:
    """Whether this is a table that `from_memory` reads."""
    if isinstance(data, (list, tuple)):
        return not data or any(isinstance(row, Mapping) for row in data)
    return _is(data, "pandas", "DataFrame") or _is(data, "datasets", "Dataset") or is_stream(data)


def is_stream(data: object) -> bool:
    """Whether this is a streamed data set of `datasets`."""
    return _is(data, "datasets", "IterableDataset")


def from_memory(data: Any, columns: Columns, name: str | None) -> DataSet | DataStream:
    """The examples in a table in memory.

    Args:
        data: A `pandas.DataFrame`, a `datasets.Dataset` or `IterableDataset`, or a list of dictionaries.
        columns: Which is which.
        name: What the data are called. Default: what the table is.

    Returns:
        The data; of an `IterableDataset` a stream, which is read anew each time.

    Raises:
        DataError: A column is missing or not named, or there are no rows.
    """
    called = "rows" if isinstance(data, (list, tuple)) else type(data).__name__
    name = name or called
    if is_stream(data):
        return _stream(data, columns, name)
    table: Any = ArrowRows(data, called, image=columns.image) if _is(data, "datasets", "Dataset") else None
    if table is None:
        table = _Rows(list(data), called) if called == "rows" else _Frame(data, columns)
    if not len(table):
        raise DataError(f"{called}: no rows")
    entries = examples_in(table, columns, called)
    return DataSet(name, f"{fingerprint(entries)} {columns.read}", entries)


def _is(data: object, package: str, kind: str) -> bool:
    """Whether something is of a class of a package, which is not imported for it."""
    of = getattr(sys.modules.get(package), kind, None)
    return of is not None and isinstance(data, of)


class _Rows:
    """Dictionaries in a list."""

    fingerprint = ""

    def __init__(self, rows: Sequence[Any], name: str):
        self.name = name
        self._rows: list[Row] = [
            {**row} if isinstance(row, Mapping) else DataError(f"{kind(row)}, expected a dictionary") for row in rows
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        return ((i, row) for i, row in enumerate(self._rows) if numbers is None or i in numbers)

    def place(self, number: int) -> str:
        return f"row {number + 1}"

    def fields(self) -> list[str]:
        return list(dict.fromkeys(field for row in self._rows if isinstance(row, dict) for field in row))


class _Frame(_Rows):
    """A table of pandas, of which only the columns that are read are looked at."""

    def __init__(self, frame: Any, columns: Columns):
        self._columns = list(frame.columns)
        columns.check("DataFrame", self._columns)
        read = {*columns.stated.values(), "id"} & {*self._columns}
        series = {name: frame[name] for name in self._columns if name in read and self._columns.count(name) == 1}
        # What pandas has for nothing (NaN, NA, NaT) is nothing; its own numbers become Python's.
        lists = {name: of.astype(object).where(of.notna(), None).tolist() for name, of in series.items()}
        super().__init__(
            [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)], "DataFrame"
        )

    def fields(self) -> list[str]:
        return self._columns


def _stream(data: Any, columns: Columns, name: str) -> DataStream:
    what = "IterableDataset"
    found = list(data.column_names or ()) or list(next(_rows(data.take(1), what), (0, {}))[1])
    columns.check(what, found)
    dataset = undecoded(data, columns.image)

    def read() -> Iterator[Example | Skipped]:
        return columns.entries(_rows(dataset, what))

    first = list(islice(read(), FIRST))
    if not first:
        raise DataError(f"{what}: no rows")
    return DataStream(name, f"{fingerprint(first)} {columns.read}", read)


def _rows(dataset: Any, what: str) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(dataset)
    except Exception as error:  # every layer below `datasets` raises errors of its own
        raise DataError(f"{what}: cannot be read further ({first_line(error)})") from error
