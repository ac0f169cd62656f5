"""Our numbers beside those printed in the paper: what the scripts for its tables and figures hand on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mmerank.errors import DataError


@dataclass(frozen=True)
class Compared:
    """One number of the paper, and ours.

    Attributes:
        table: Number of the table it stands in.
        family: Of the model, as in `mmerank.paper.FAMILIES`.
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
    table = Table(title=title, title_justify="left")
    for heading in ("model", "data", "", "dropout", "ours", "paper", "difference"):
        number = heading in ("ours", "paper", "difference")
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        numbers = (f"{row.ours:.3f}", f"{row.paper:.3f}", f"{row.difference:+.1%}")
        shown = ("" if "nan" in number else number for number in numbers)
        table.add_row(f"{row.family} {row.size}", row.data, row.label, row.dropout, *shown)
    return table


def write_rows(path: Path, rows: Iterable[Compared]) -> None:
    """Write rows as JSON; a number that does not exist is null.

    Args:
        path: The file.
        rows: Any number.
    """
    plain = [{k: None if v != v else v for k, v in asdict(row).items()} for row in rows]  # NaN differs from itself
    path.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")


def read_rows(path: Path) -> list[Compared]:
    """What `write_rows` wrote.

    Args:
        path: The file.

    Returns:
        The rows.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
        plain: list[dict[str, Any]] = [{k: math.nan if v is None else v for k, v in row.items()} for row in content]
        return [Compared(**row) for row in plain]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not what text_tables.py --json writes ({error})") from None
