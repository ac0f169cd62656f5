"""Numbers -> what a person reads in a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmerank.alignment import Alignment
from mmerank.eranks import ERANKS

SKIPS_SHOWN = 10


def alignment_table(results: Sequence[Alignment]) -> Table:
    """A table with a column per result, as in the paper's Table 2.

    Args:
        results: At least one.

    Returns:
        The table, for a rich console.
    """
    table = Table(title="Image-text alignment", title_justify="left")
    table.add_column("")
    table.add_column("where / input", style="dim")
    for result in results:
        table.add_column(Text(f"{_short(result.model)}\n{_short(result.data)}"), justify="right", overflow="fold")
    for label, (point, kind) in ERANKS.items():
        name = label.replace("erank", "eRank")
        table.add_row(name, f"{point} / {kind}", *(f"{getattr(result, label):.2f}" for result in results))
    table.add_section()
    table.add_row("Image Reduction Ratio", "", *(f"{result.image_reduction_ratio:.4f}" for result in results))
    table.add_row("Image-Text Alignment", "", *(f"{result.image_text_alignment:.4f}" for result in results))
    return table


def alignment_text(results: Sequence[Alignment]) -> str:
    """Table and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(alignment_table(results))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, *(line for result in results for line in standing(result))])


def standing(result: Alignment) -> list[str]:
    """What the numbers stand on: how many examples, how many tokens, what was skipped and why.

    Args:
        result: One of them.

    Returns:
        Lines.
    """
    total = result.n + len(result.skipped)
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    tokens = ", ".join(f"{result.mean_tokens(label):.0f}" for label in ERANKS)
    lines = [
        f"{result.model}: n = {result.n} of {total} examples{skipped}",
        f"  mean tokens behind eRank1-5: {tokens}",
    ]
    for entry in result.skipped[:SKIPS_SHOWN]:
        lines.append(f"  skipped {_clean(entry.id)}: {_clean(entry.reason)}")
    if len(result.skipped) > SKIPS_SHOWN:
        lines.append(f"  and {len(result.skipped) - SKIPS_SHOWN} more; --json and summary.json have them all")
    if result.text_cut:
        lines.append(f"  text cut at the model's limit: {result.text_cut} examples")
    return lines


def _short(name: str) -> str:
    """A model or data name without the folders it lies in."""
    return "/".join(name.removesuffix("/").split("/")[-2:])


def _clean(text: str) -> str:
    """Text from data with control characters made visible and its length bounded."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:300])
    return shown if len(text) <= 300 else shown + "…"
