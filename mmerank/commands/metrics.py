"""`mmerank metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmerank.commands import options
from mmerank.commands.results import check_writable, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from mmerank.formulas.entry import Entry


def metrics(*, json_file: options.Json = None, debug: options.Debug = False) -> None:
    """List the metrics that mmerank.metric(NAME) computes from arrays, with range, needs, cost and source."""
    from rich.console import Console

    from mmerank.formulas.on_ladder import on_ladder
    from mmerank.formulas.table import METRICS

    check_writable(json_file)
    entries = list(METRICS.values())
    ladder = {name: found.to_dict() for name, found in on_ladder().items()}
    if write_json(
        {"metrics": [{**entry.to_dict(), "ladder": ladder.get(entry.name)} for entry in entries]}, json_file
    ):
        return
    for kind in dict.fromkeys(entry.kind for entry in entries):
        Console().print(_table(kind, [entry for entry in entries if entry.kind == kind]))
    print(
        "n rows of width d; cost in operations, up to a constant; *: follows the number of rows, compare equally many"
        "\nladder: at how many of the places where it was taken it followed the alignment of small models of known "
        "alignment, and its rank correlation at the best of them; see docs/alignment-ladder.md"
    )


def _table(kind: str, entries: list[Entry]) -> Table:
    from rich import box
    from rich.table import Table

    from mmerank.formulas.on_ladder import on_ladder

    table = Table(title=kind.capitalize(), title_justify="left", box=box.SIMPLE_HEAD, show_lines=True)
    table.add_column("name\n[dim]source\narrays; needs", overflow="fold")
    table.add_column("range\n[dim]better\ncost\nladder", no_wrap=True)
    for entry in entries:
        mark = " *" if entry.follows_rows else ""
        better = "" if entry.better == "neither" else f"{entry.better} is better"
        ladder = on_ladder().get(entry.name)
        table.add_row(
            f"{entry.name}{mark}\n[dim]{entry.source}\n{', '.join(entry.takes)}; {entry.needs}",
            f"{entry.low or '-∞'} to {entry.high or '∞'}\n[dim]{better}\n{entry.cost}\n{ladder or 'not on it'}",
        )
    return table
