"""`mmerank glossary`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmerank.commands import options


def glossary(
    term: Annotated[
        list[str] | None,
        typer.Argument(metavar="TERM", help="As eRank3, alignment, matched rows. Default: all.", show_default=False),
    ] = None,
    *,
    debug: options.Debug = False,
) -> None:
    """What the words mean: eRank1 to eRank5, both ratios, hook points, matched rows, q, Diff-eRank."""
    from mmerank.report.glossary import GLOSSARY, said_of

    found = said_of(" ".join(term)) if term else GLOSSARY

    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, said in found.items():
        table.add_row(name, said)
    console = Console()
    console.print(table, width=min(console.width, 100))
