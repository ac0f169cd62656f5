"""What blocks add to the residual stream -> what a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mmerank.report.terminal.parts import airy_table

SHOWN = 8  # blocks, of more some evenly, so that the table stays on a screen
_NOTHING = "-"
_Updates = Sequence[Mapping[str, Any]]


def inside_table(updates: _Updates, name: str) -> Table:
    """A row for attention and MLP of each block, image and text rows, or trained and untrained, side by side.

    Args:
        updates: As results have them, at least one.
        name: What to call the model.

    Returns:
        The table, for a rich console.
    """
    blocks = list(dict.fromkeys(of["block"] for of in updates))
    step = -(-len(blocks) // SHOWN)
    shown = [block for i, block in enumerate(blocks) if (len(blocks) - 1 - i) % step == 0]
    sides = [rows for rows in dict.fromkeys(of["rows"] for of in updates) if rows != "all"]
    table = airy_table(escape(f"{name}: what blocks add to the residual stream"))
    table.add_column("block", justify="right")
    table.add_column("", no_wrap=True)
    for rows in sides:
        for heading in (f"{rows}\neRank", "share\nin span", "\nlength"):
            table.add_column(heading, justify="right", no_wrap=True)
    known = {(of["block"], of["update"], of["rows"]): of for of in updates}
    for block in shown:
        for i, part in enumerate(dict.fromkeys(of["update"] for of in updates)):
            cells = [cell for rows in sides for cell in _cells(known[block, part, rows])]
            table.add_row("" if i else str(block), part, *map(Text, cells))
    notes = [
        "share in span: of the update, in that of its input (in brackets: by chance)",
        "length: of the update, against its input",
    ]
    if step > 1:
        notes.append(f"{len(blocks) - len(shown)} of {len(blocks)} blocks are left out here")
    notes.append(f"overlap{', all rows together' * ('image' in sides)} and intervals: --json, mmerank report")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def _cells(of: Mapping[str, Any]) -> tuple[str, ...]:
    if not of["n"]:
        return (_NOTHING,) * 3
    return f"{of['erank']:.2f}", f"{of['share']:.2f} ({of['share_by_chance']:.2f})", f"{of['norm_ratio']:.2f}"


def inside_lines(updates: _Updates | None) -> list[str]:
    """What was made sure of.

    Args:
        updates: As results have them; None for none.

    Returns:
        A line, or none.
    """
    if not updates:
        return []
    count, most = len({of["block"] for of in updates}), max(of["deviation"] for of in updates)
    off = f"off by at most {most:.0e} of it in any example" if most else "to the bit"
    return [f"  input, attention and MLP make up what leaves each of {count} block{'s' * (count != 1)} ({off})"]
