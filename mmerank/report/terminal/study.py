"""What has become of a study, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def study_table(found: Sequence[Any], folder: Path, earlier: Sequence[str]) -> RenderableType:
    """The cells and their states, and what can be done next.

    Args:
        found: Cells with `state` and `reason`.
        folder: Of the study.
        earlier: Run folders that belong to an earlier form of it.

    Returns:
        For a rich console.
    """
    table = Table(title=str(folder), title_justify="left")
    for heading in ("job", "model", "data", "options", "state"):
        table.add_column(heading, overflow="fold")
    for of in found:
        options = ", ".join(f"{key} {_short(value)}" for key, value in of.cell.options.items())
        table.add_row(*(Text(word) for word in (of.cell.job, of.cell.model, of.cell.data, options, of.state)))
    counts = Counter(of.state for of in found)
    states = ("done", "failed", "running", "begun", "left")
    lines = [", ".join(f"{counts[state]} {state}" for state in states if counts[state])]
    lines += [f"failed: {of.cell.job} of {of.cell.model}: {of.reason}" for of in found if of.reason]
    if earlier:
        lines.append(f"kept, no longer in the file: {', '.join(earlier)}")
    if counts["done"]:
        scored = any(of.cell.job == "score" and of.state == "done" for of in found)
        lines.append(f"mmerank report {folder}" + (f" --scores {folder}" if scored else ""))
    return Group(table, *map(Text, lines))


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
