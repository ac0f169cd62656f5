"""Columns of the records in one part, and whether their numbers are possible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmerank.runs.record import INSIDE, MATCHED, NO_VALUE, OF_ROWS, VALUE

# Spectra are stored in float32, so what follows from them agrees with what was computed in float64 to its rounding.
ROUNDING = 1e-6
# An entropy at its upper bound may lie above it by what `precision` mixed leaves of eigenvalues that are 0.
SLACK = 1e-4
# Of an update, by its name in a record.
SHARES = tuple(of.name for of in INSIDE if of.name not in ("norm_ratio", "deviation"))
# Rows whose spectra are looked at together, so that what is computed of them is small beside them.
SLICE = 10_000

Column = NDArray[Any]


class DamagedPart(ValueError):
    """A part that does not hold what a run writes; the message says what is wrong, not of which file."""


class Columns:
    """The columns of a part, and what is looked at in all of them.

    Args:
        table: The records of a part.

    Raises:
        DamagedPart: A number is missing; so do the checks for what cannot be.
    """

    def __init__(self, table: pa.Table):
        self.table = table
        for name in table.column_names:
            may_lack = pa.types.is_list(table.schema.field(name).type) or name.startswith((VALUE, MATCHED))
            if not may_lack and table[name].null_count:
                raise DamagedPart(f"no {name} in {table[name].null_count} records")
        self._numbers: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._numbers:
            self._numbers[name] = self.table[name].to_numpy()
        return self._numbers[name]

    def equals(self, name: str, value: str) -> Column:
        """Which rows have a value."""
        found: Column = pc.equal(self.table[name], value).to_numpy()
        return found

    def lacks(self, name: str) -> bool:
        """Whether there is no such column."""
        return name not in self.table.column_names

    def example(self, row: int) -> str:
        """Id of the example that a row is of."""
        return str(self.table["example"][row].as_py())

    def coded(self, *names: str) -> tuple[Column, list[Any]]:
        """A number for each row, the same for the same values, and the values by number."""
        codes = np.zeros(self.table.num_rows, np.int64)
        for name in names:
            column = self.table[name].combine_chunks().dictionary_encode()
            codes = codes * len(column.dictionary) + column.indices.to_numpy()
        _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        kept = self.table.select(list(names)).take(pa.array(first))
        return codes, list(zip(*(column.to_pylist() for column in kept.columns), strict=True))

    def require(self, holds: Column, name: str) -> None:
        """DamagedPart with the first value for which it does not hold."""
        if not holds.all():
            row = int(holds.argmin())
            found = self.table[name][row].as_py()
            shown = f"{len(found)} numbers" if isinstance(found, list) else repr(found)
            raise DamagedPart(f"{name} of example {self.example(row)!r} cannot be {shown}")

    def between(self, name: str, most: Any) -> Column:
        """Which rows lie between 0 and `most`, to rounding."""
        found: Column = (self[name] >= -SLACK) & (self[name] <= most)
        return found

    def check_numbers(self, *, centred: bool) -> None:
        """Sizes, spectrum, and what is computed of it."""
        n, d = self["n"], self["d"]
        self.require(n >= 2, "n")
        self.require(d >= 1, "d")
        self.require(self["text_cut"] >= 0, "text_cut")
        self.require(self.between("entropy", np.log(np.minimum(n - 1 if centred else n, d)) + SLACK), "entropy")
        offsets, values = self._lists("spectrum", np.ones(len(n), bool))
        lengths = np.diff(offsets)
        self.require((lengths >= 1) & (lengths <= np.minimum(n, d)), "spectrum")
        sound = np.empty((4, len(n)), bool)
        for start in range(0, len(n), SLICE):
            rows = slice(start, start + SLICE)
            here = offsets[start : start + SLICE + 1]
            with np.errstate(all="ignore"):
                sound[:, rows] = self._spectra(values[here[0] : here[-1]], here[:-1] - here[0], rows)
        for holds, name in zip(sound, ("spectrum", "entropy", "participation_ratio", "top_share"), strict=True):
            self.require(holds, name)

    def _spectra(self, values: Column, starts: Column, rows: slice) -> Column:
        """Whether each spectrum is one, and entropy, participation ratio and largest share are its own, (4, rows)."""

        def total(of: Column) -> Column:
            found: Column = np.add.reduceat(of, starts, dtype=np.float64)
            return found

        falls = np.ones(len(values), bool)
        falls[1:] = values[1:] <= values[:-1]
        falls[starts] = True
        falls &= values >= 0
        is_one = np.logical_and.reduceat(falls, starts) & (np.abs(total(values) - 1) <= ROUNDING)
        entropy = -total(values * np.log(np.maximum(values, np.finfo(np.float32).tiny)))
        return np.stack(
            [
                is_one,
                np.abs(entropy - self["entropy"][rows]) <= ROUNDING * (1 + entropy),
                np.abs(total(values * values) * self["participation_ratio"][rows] - 1) <= 2 * ROUNDING,
                np.abs(values[starts] - self["top_share"][rows]) <= ROUNDING * values[starts],
            ]
        )

    def check_lists(self, name: str, lengths: Column | None, where: Column, *, most: float | None) -> None:
        """A list of so many numbers where it was asked for: entropies up to `most` or NaN, or finite ones."""
        wanted = where if lengths is not None else np.zeros_like(where)
        offsets, values = self._lists(name, wanted)
        if lengths is None:
            return
        self.require(np.diff(offsets) == np.where(wanted, lengths, 0), name)
        self._check_values(name, offsets, values, most)

    def there(self, name: str) -> Column:
        """Which records have a value."""
        found: Column = self.table[name].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
        return found

    def check_pictures(self, name: str, where: Column) -> None:
        """Entropies of the rows of two or more pictures, or NaN, and at these rows alone."""
        there = self.there(name)
        offsets, values = self._lists(name, there)
        self.require(~there | (where & (np.diff(offsets) > 1)), name)
        most = np.repeat(np.log(np.maximum(self["n"], 1.0)) + SLACK, np.diff(offsets))
        self._check_values(name, offsets, values, most)

    def check_contributions(self, where: Column) -> None:
        """At these rows alone, of each row of the example: a difference of entropies, a text, and perhaps a place."""
        n = self["n"].astype(np.int64)
        offsets, values = self._lists("contributions", where)
        self.require((np.diff(offsets) == 0) | (np.diff(offsets) == n), "contributions")
        most = np.repeat(np.log(np.maximum(n, 1.0)) + SLACK, np.diff(offsets))
        self._check_each("contributions", offsets, np.isnan(values) | (np.abs(values) <= most))
        tokens = self.table["row_tokens"].combine_chunks()
        self.require((tokens.is_valid().to_numpy(zero_copy_only=False) == where), "row_tokens")
        lengths = pc.fill_null(pc.list_value_length(tokens), 0).to_numpy(zero_copy_only=False)
        self.require(lengths == np.where(where, n, 0), "row_tokens")
        if tokens.values.null_count:
            raise DamagedPart("row_tokens: a text is missing")
        offsets, values = self._lists("places", where)
        lengths = np.diff(offsets)
        self.require((lengths % 4 == 0) & (lengths <= 4 * n), "places")
        self._check_each("places", offsets, np.isnan(values) | ((values >= 0) & (values <= 1)))

    def check_inside(self, where: Column) -> None:
        """At updates alone, of three sets of rows: shares of 1, a ratio of lengths, and how far the sum is off."""
        for name, most in dict.fromkeys(SHARES, 1 + SLACK).items() | {("norm_ratio", np.inf)}:
            offsets, values = self._lists(name, where)
            self.require(np.diff(offsets) == np.where(where, len(OF_ROWS), 0), name)
            self._check_each(name, offsets, np.isnan(values) | ((values >= 0) & (values <= most)))
        self.require(np.where(where, self["deviation"] >= 0, np.isnan(self["deviation"])), "deviation")

    def _check_values(self, name: str, offsets: Column, values: Column, most: float | Column | None) -> None:
        fine = np.isfinite(values) if most is None else np.isnan(values) | ((values >= -SLACK) & (values <= most))
        self._check_each(name, offsets, fine)

    def _check_each(self, name: str, offsets: Column, fine: Column) -> None:
        """DamagedPart with the first list that has a value which is not fine."""
        self.require(np.add.reduceat(np.append(~fine, False), offsets[:-1]) * (np.diff(offsets) > 0) == 0, name)

    def check_embeddings(self, where: Column) -> None:
        """Embeddings of finite numbers at these rows alone, of one width for the models and sides that have one."""
        offsets, values = self._lists("embedding", where)
        widths = np.diff(offsets)
        self.require((widths > 0) == where, "embedding")
        if not np.isfinite(values).all():
            raise DamagedPart("an embedding that is not finite")
        models, keys = self.coded("model")
        for i in range(len(keys)):
            if len({*widths[where & (models == i)].tolist()}) > 1:
                raise DamagedPart(f"embeddings of different lengths of {keys[i][0]!r}")

    def check_rows(self, where: Column) -> None:
        """Whole rows of finite numbers, no more than there are, of every example at a place or of none."""
        there = self.table["rows_image"].is_valid().to_numpy()
        places, _ = self.coded("transform", "point", "input")
        wanted = where & (np.bincount(places, there)[places] > 0)
        counts = np.zeros(len(where), np.int64)
        for name in ("rows_image", "rows_text"):
            offsets, values = self._lists(name, wanted)
            lengths = np.diff(offsets)
            counts += lengths
            self.require((lengths % self["d"] == 0) & (counts <= self["n"].astype(np.int64) * self["d"]), name)
            if not np.isfinite(values).all():
                raise DamagedPart(f"{name} that are not finite")

    def check_metrics(self, names: Sequence[str]) -> None:
        """At each place a metric has a finite number of every example, or a reason for none; or none has either."""
        places, _ = self.coded("transform", "point", "input")
        try:
            reasons = [json.loads(said) if said else {} for said in self.table[NO_VALUE].to_pylist()]
        except ValueError:
            raise DamagedPart(f"{NO_VALUE}: not the reasons of missing numbers") from None
        for row, of_row in enumerate(reasons):
            if not (isinstance(of_row, dict) and of_row.keys() <= {*names} and all(map(_is_text, of_row.values()))):
                raise DamagedPart(f"{NO_VALUE} of example {self.example(row)!r}: not the reasons of missing numbers")
        for name in names:
            numbers = self.table[name].to_numpy()  # NaN where there is none
            there = self.table[name].is_valid().to_numpy()
            self.require(~there | np.isfinite(numbers), name)
            told = np.array([name in of_row for of_row in reasons])
            taken = np.bincount(places, there | told)[places] > 0
            self.require(np.where(taken, there ^ told, True), name)

    def _lists(self, name: str, wanted: Column) -> tuple[Column, Column]:
        """Where each row's list begins, with the end of the last, and all the numbers."""
        column = self.table[name].combine_chunks()
        self.require(column.is_valid().to_numpy(zero_copy_only=False) == wanted, name)
        offsets, values = column.offsets.to_numpy(), column.values
        if values.null_count:
            raise DamagedPart(f"{name}: a number is missing")
        return offsets, values.to_numpy()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
