"""The rows of a data set of `datasets`, whose pictures are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mmerank.errors import DataError
from mmerank.inputs.pictures import Encoded
from mmerank.inputs.sources import Place, picture_content
from mmerank.inputs.table_files import Row

# What `datasets` calls the types of text.
_TEXT = ("string", "large_string", "string_view")


class ArrowRows:
    """Rows by number, memory-mapped where `datasets` maps them.

    Args:
        rows: A `datasets.Dataset`, or rows in a list.
        name: For messages.
        fingerprint: What the content is known by; empty where nothing is known, and pictures must be looked at.
        image: The column of pictures, or of lists of them, if there is one.
        within: See `mmerank.inputs.sources.picture_source`.
        explained: Around whatever `datasets` does.
    """

    def __init__(
        self,
        rows: Any,
        name: str,
        *,
        fingerprint: str = "",
        image: str | None = None,
        within: Place | None = None,
        explained: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self.name, self.fingerprint = name, fingerprint
        self._explained = explained
        self._within = within
        if isinstance(rows, list):
            self._fields = list(dict.fromkeys(field for row in rows for field in row))
            self._of_text = [field for field in self._fields if any(isinstance(row.get(field), str) for row in rows)]
        else:
            features = rows.features
            self._fields = list(features)
            self._of_text = [field for field in features if getattr(features[field], "dtype", "") in _TEXT]
            rows = undecoded(rows, image)
        if isinstance(rows, list):
            self._listed = any(isinstance(row.get(image), list) for row in rows)
        else:
            self._listed = image in rows.features and _is_list(rows.features[image])
        self._rows = rows
        # A path stands in the row; what is larger is read when it is needed.
        self._late = image if image in self._fields and image not in self._of_text else None
        self._texts = rows if self._late is None or isinstance(rows, list) else rows.remove_columns([self._late])

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Row]]:
        """The rows, or those of the given numbers, each with its number."""
        for number in range(len(self)) if numbers is None else sorted(numbers):
            with self._explained():
                row = self._texts[number]
            yield number, row if self._late is None else {**row, self._late: self._picture(number, self._late)}

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        return f"row {number + 1}"

    def fields(self) -> list[str]:
        """The names of the columns."""
        return self._fields

    def text_fields(self) -> list[str]:
        """The names of the columns of text."""
        return self._of_text

    def _picture(self, number: int, column: str) -> Encoded | list[Encoded] | None:
        """The picture in a row; of a column of lists, those in the list."""
        name, stamp = f"the picture of row {number + 1}", f"{self.name} {self.fingerprint} {column} {number}"
        if not self._listed:
            return Encoded(
                name,
                lambda: picture_content(self._rows[number][column], self._within),
                stamp if self.fingerprint else "",
            )

        def encoded(place: int) -> Encoded:
            return Encoded(
                f"picture {place + 1} of row {number + 1}",
                lambda: picture_content(self._rows[number][column][place], self._within),
                f"{stamp} {place}" if self.fingerprint else "",
            )

        listed = self._rows[number][column]
        return None if listed is None else [encoded(place) for place in range(len(listed))]


def undecoded(dataset: Any, image: str | None) -> Any:
    """A data set of `datasets`, streamed or not, whose pictures stay as they are stored.

    Args:
        dataset: Any.
        image: The column of pictures, if there is one.

    Returns:
        The same, cast where it would decode them.

    Raises:
        DataError: It has a transform, which makes rows that are nowhere stored.
    """
    import datasets

    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        raise DataError(
            "the data set has a transform of its own (with_transform, set_transform), which would not be applied; "
            "put what it does into the rows with map, or give mmerank.Example objects"
        )
    dataset = dataset.with_format(None)
    features = dataset.features or {}
    stored = datasets.Image(decode=False)
    if image in features and isinstance(features[image], datasets.Image):
        return dataset.cast_column(image, stored)
    if image in features and _is_list(features[image]) and isinstance(features[image].feature, datasets.Image):
        return dataset.cast_column(image, type(features[image])(stored))
    return dataset


def _is_list(feature: Any) -> bool:
    import datasets

    return isinstance(feature, (datasets.List, datasets.LargeList))
