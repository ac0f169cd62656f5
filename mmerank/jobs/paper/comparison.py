"""Our numbers beside those printed in the paper: what its tables and figures are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


@dataclass(frozen=True)
class Compared:
    """One number of the paper, and ours.

    Attributes:
        table: Number of the table it stands in.
        family: Of the model, as in `mmerank.report.paper.tables.FAMILIES`.
        size: Of the model, or its stage of training.
        data: Name of the data set.
        label: What was measured.
        dropout: Of the untrained model, `off` or `on`; empty where there is none behind the number.
        ours: Our number.
        paper: The paper's; NaN where it prints none.
    """

    table: int
    family: str
    size: str
    data: str
    label: str
    dropout: str
    ours: float
    paper: float

    @property
    def difference(self) -> float:
        """Relative to the paper's number; NaN where there is none, or it is 0."""
        return self.ours / self.paper - 1 if self.paper else math.nan


def comparison_table(title: str, rows: Iterable[Compared]) -> Table:
    """A row per number.

    Args:
        title: Of the table.
        rows: Any number.

    Returns:
        The table, for a rich console.
    """
    rows = list(rows)
    with_dropout = any(row.dropout for row in rows)
    table = Table(  # the longest names fit into 80 columns
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0
    )
    for heading in ("model", "data", "", *(["dropout"] if with_dropout else []), "ours", "paper", "difference"):
        number = heading in ("ours", "paper", "difference")
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    previous = None
    for row in rows:
        if previous not in (None, (row.family, row.data)) and not row.size:
            table.add_section()
        previous = (row.family, row.data)
        numbers = (f"{row.ours:.3f}", f"{row.paper:.3f}", f"{row.difference:+.1%}")
        shown = ("" if "nan" in number else number for number in numbers)
        dropout = [row.dropout] if with_dropout else []
        table.add_row(f"{row.family} {row.size}".strip(), row.data, row.label, *dropout, *shown)
    return table


def row_dict(row: Compared) -> dict[str, Any]:
    """A row as `--json` prints it; a number that does not exist is null.

    Args:
        row: Any.

    Returns:
        JSON values, with the difference.
    """
    plain = {**asdict(row), "difference": row.difference}
    return {name: None if value != value else value for name, value in plain.items()}  # NaN differs from itself
