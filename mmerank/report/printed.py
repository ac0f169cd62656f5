"""The forms of a table, whatever it is printed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmerank.runs.jobs import JOBS

CHANGES = (
    "with a sign: change from the base, its interval, and q over all tests of the run (paired permutation test); "
    "*: told from 0 (q < 0.05, and an interval without 0); =: unchanged"
)
ROWS = (
    "rows: all of them, or so many drawn at random at each of the five places, mean over the draws and over the "
    "examples that have as many"
)
MARKS = (
    "bold: highest of the models where all else is equal, of losses lowest; †: not told from it (paired permutation "
    "test, q ≥ 0.05 over all tests of the same metric between models of these data, or 0 within the interval of the "
    "difference)"
)


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        value: As printed; empty where there is none.
        interval: `[low, high]`, or empty.
        paper: The paper's, or empty.
        mark: As in `mmerank.report.numbers.all_numbers`.
        change: From the base, of a transform, with a star where it is told from 0; or empty.
        change_interval: Of the change, or empty.
        change_q: Of the change, or empty.
    """

    value: str
    interval: str = ""
    paper: str = ""
    mark: str = ""
    change: str = ""
    change_interval: str = ""
    change_q: str = ""


@dataclass(frozen=True)
class Printed:
    """A table as it is printed.

    Attributes:
        job: Of its runs.
        title: Above it.
        heads: Of the columns of numbers.
        rows: Names (data, model, and of a transform its name), number of examples, cells.
        named: Heads of the columns of names, of which there may be fewer.
        level: Of the intervals.
    """

    job: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], int, tuple[Cell, ...]], ...]
    named: tuple[str, ...] = ("data", "model", "transform")
    level: float = 0.95

    @property
    def first(self) -> bool:
        """Whether it holds the main numbers of its runs."""
        return self.title == JOBS[self.job].title

    @property
    def names(self) -> tuple[str, ...]:
        """Heads of the columns of names."""
        return self.named[: len(self.rows[0][0])]

    @property
    def telling(self) -> list[int]:
        """Columns of names that tell rows apart, and the last one."""
        last = len(self.names) - 1
        return [i for i in range(last + 1) if i == last or len({names[i] for names, _, _ in self.rows}) > 1]

    def group(self, names: Sequence[str]) -> str:
        """What a row shares with those beside it, where only its last name is its own: data and model."""
        return ", ".join(names[i] for i in self.telling[:-1])

    @property
    def shared(self) -> list[str]:
        """What all rows have in common, as `model demo-llava`."""
        names = self.rows[0][0]
        return [f"{self.names[i]} {names[i]}" for i in range(len(names)) if i not in self.telling]

    @property
    def legend(self) -> str:
        """What its marks and brackets mean."""
        marked = any(cell.mark for _, _, cells in self.rows for cell in cells)
        changed = any(cell.change for _, _, cells in self.rows for cell in cells)
        matched = self.names[-1] == "rows"
        return "; ".join(
            [
                *([MARKS] if marked else []),
                f"in brackets: {100 * self.level:.4g} % intervals",
                *([CHANGES] if changed else []),
                *([ROWS] if matched else []),
            ]
        )


@dataclass(frozen=True)
class Listed:
    """A table of which each cell is text as it is printed.

    Attributes:
        title: Above it.
        names: Heads of the columns of names.
        heads: Of the columns of numbers.
        rows: Names, and numbers.
        legend: What its marks and brackets mean; empty where it has none.
    """

    title: str
    names: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    legend: str = ""


def renamed(table: Printed, names: Mapping[str, str]) -> Printed:
    """A table in which data sets, transforms and numbers are called otherwise.

    Args:
        table: Any.
        names: What to call what stands there.

    Returns:
        The table.
    """
    return replace(
        table,
        heads=tuple(names.get(head, head) for head in table.heads),
        rows=tuple((tuple(names.get(name, name) for name in row), n, cells) for row, n, cells in table.rows),
    )
