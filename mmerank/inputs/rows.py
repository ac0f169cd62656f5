"""Rows of a table -> examples, each with an id, or skipped."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mmerank.errors import DataError
from mmerank.inputs.example import Example, Skipped, kind
from mmerank.inputs.table_files import Row, Table


def examples_of(
    table: Table,
    example: Callable[[str, dict[str, Any]], Example | None],
    numbers: Sequence[int] | None = None,
    own_id: Callable[[dict[str, Any]], str | None] | None = None,
) -> Iterator[Example | Skipped]:
    """The examples in a table.

    Args:
        table: Rows.
        example: Id and row -> its example; None if the row is not one of the data set's. A `DataError` that it
            raises becomes the reason of a `Skipped`.
        numbers: Take these rows, in this order. Default: all.
        own_id: The id that a row has itself. Default: its field `id`, where that is text.

    Returns:
        One entry for a row.
    """
    rows = table.rows() if numbers is None else _in_order(table, numbers)
    return entries_of(rows, example, own_id or _own_id, table.place)


def entries_of(
    rows: Iterable[tuple[int, Row]],
    example: Callable[[str, dict[str, Any]], Example | None],
    own_id: Callable[[dict[str, Any]], str | None],
    place: Callable[[int], str],
) -> Iterator[Example | Skipped]:
    """The examples in numbered rows, which may have no end.

    Args:
        rows: Number, from 0, and row.
        example: As for `examples_of`.
        own_id: As for `examples_of`.
        place: Where a row stands, by its number, for messages.

    Yields:
        One entry for a row.
    """
    taken: set[str] = set()
    for number, row in rows:
        name = str(number + 1)
        try:
            if isinstance(row, DataError):
                raise row
            name = own_id(row) or name
            found = example(name, row)
        except DataError as error:
            yield Skipped(name, f"{place(number)}: {error}")
            continue
        if found is not None and name in taken:
            yield Skipped(name, f"{place(number)}: the id occurs twice; the first record is kept")
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
