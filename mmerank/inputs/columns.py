"""Which column of a table is which, and the rows of the table as examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmerank.errors import DataError, UsageError
from mmerank.inputs.example import Example, Skipped, kind, no_picture
from mmerank.inputs.rows import column_text, entries_of, without_repeated_texts
from mmerank.inputs.sources import Place, as_list, picture_sources
from mmerank.inputs.table_files import Row, Table


@dataclass(frozen=True)
class Columns:
    """The names of the columns that examples are made of.

    Attributes:
        image: With the picture, or a list of several; None for texts alone.
        response: With the answer, the caption or the text.
        instruction: With what the model is asked; empty for none; None where nobody said so.
        id: With what an example is known by. Default: `id` where there is such a column, else rows are numbered.
    """

    image: str | None = None
    response: str | None = None
    instruction: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}: expected the name of a column, got {value!r:.100}")
            if value == "" and name != "instruction":
                raise UsageError(f"{name}: expected the name of a column, got nothing")

    @property
    def stated(self) -> dict[str, str]:
        """Those that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def read(self) -> str:
        """What a fingerprint says of them: the same rows read by other columns are other data."""
        return " ".join(f"{name}={value}" for name, value in self.stated.items())

    def check(self, data: str, found: Sequence[object]) -> None:
        """Refuse what does not say which column is which, or names one that is not there.

        Args:
            data: What the columns are of, for the message.
            found: Those there are.

        Raises:
            DataError: Says what is missing, and which columns there are.
        """
        # A blank at an end, as of "a, b" in a table of commas, is not seen otherwise.
        listed = ", ".join(str(of) if str(of) == str(of).strip() else repr(of) for of in found) or "none"
        if self.response is None:
            raise DataError(f"{data}: say which column holds the text, response=COLUMN; columns: {listed}")
        if missing := [name for name in self.stated.values() if name and name not in found]:
            raise DataError(f"{data}: no column {missing[0]!r}; columns: {listed}")
        if twice := [name for name in self.stated.values() if [*found].count(name) > 1]:
            raise DataError(f"{data}: column {twice[0]!r} is there several times; columns: {listed}")
        if self.image is not None and self.instruction is None:
            raise DataError(
                f"{data}: say whether there is an instruction, since numbers with and without one differ: "
                'instruction=COLUMN, or nothing in its place, instruction="", for captions alone (in commands '
                '--instruction COLUMN or --instruction ""); '
                f"columns: {listed}"
            )

    def own_id(self, row: dict[str, Any]) -> str | None:
        """The id in a row, text or a whole number; DataError where a column was named for it that has none."""
        value = row.get(self.id or "id")
        if isinstance(value, float) and value.is_integer():  # what pandas makes of whole numbers where one is missing
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        # What cannot be written as UTF-8 cannot stand in a report.
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        if self.id is not None:
            raise DataError(f"{self.id} is {kind(value)}, expected an id, text or a whole number")
        return None

    def example(self, name: str, row: dict[str, Any], within: Place | None) -> Example:
        """The example in a row.

        Args:
            name: Its id.
            row: Values by column.
            within: See `mmerank.inputs.sources.picture_source`.

        Returns:
            The example.

        Raises:
            DataError: The row has no text, no picture, or nothing that can be one.
        """
        assert self.response is not None  # `check` saw to it
        response = column_text(row, self.response)
        asked = column_text(row, self.instruction) if self.instruction else ""
        if self.image is None:
            return Example(name, None, asked, response)
        value = row.get(self.image)
        if value is None or (isinstance(value, str) and not value.strip()):  # what CSV has in the place of nothing
            raise DataError("no image")
        if (source := picture_sources(value, within)) is None:
            found = no_picture(as_list(value))
            raise DataError(f"{self.image} is {found}, expected a path, the content of a file or a PIL picture")
        return Example(name, source, asked, response)

    def entries(self, rows: Iterable[tuple[int, Row]], within: Place | None = None) -> Iterator[Example | Skipped]:
        """The examples in numbered rows, which may have no end.

        Args:
            rows: Number, from 0, and row.
            within: See `mmerank.inputs.sources.picture_source`.

        Returns:
            One entry for a row.
        """
        return entries_of(
            rows, lambda name, row: self.example(name, row, within), self.own_id, lambda number: f"row {number + 1}"
        )


def examples_in(
    table: Table, columns: Columns, data: str, *, within: Place | None = None, repeated: bool = False
) -> tuple[Example | Skipped, ...]:
    """All examples in a table.

    Args:
        table: Rows.
        columns: Which is which.
        data: What the table is called, for messages.
        within: See `mmerank.inputs.sources.picture_source`.
        repeated: Keep texts that occurred before; of pictures they are kept always.

    Returns:
        One entry for each row.

    Raises:
        DataError: As of `Columns.check`.
    """
    columns.check(data, table.fields())
    entries = entries_of(
        table.rows(), lambda name, row: columns.example(name, row, within), columns.own_id, table.place
    )
    # Many pictures may well have the same answer.
    return tuple(entries if columns.image is not None or repeated else without_repeated_texts(entries))
