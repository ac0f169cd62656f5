"""What the tables of several commands are made of."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.results.diff import DiffResult
from mmerank.analysis.results.encoding import EncodingResult
from mmerank.analysis.results.generation import GenerationResult
from mmerank.analysis.results.pruning import PruningResult
from mmerank.inputs.example import Skipped
from mmerank.report.names import short_data

_Any = AlignmentResult | DiffResult | EncodingResult | GenerationResult | PruningResult

SKIPS_SHOWN = 10
_FEW = 3  # ids in a sentence
# In 80 columns.
INLINE = 2  # results whose intervals fit behind the numbers, and not below
NARROW = 4  # results from which on the names of the rows are broken
MANY = 4  # models that have room beside each other


def airy_table(title: str) -> Table:
    """An empty table without lines between its columns, for many of them."""
    return Table(
        title=Text(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def by_model(title: str, results: Sequence[AlignmentResult | DiffResult], *, explained: bool = False) -> Table:
    """An empty table with a column per result."""
    narrow = len(results) >= NARROW
    padding = (0, 0, 0, 1) if narrow else (0, 1)
    table = Table(title=title, title_justify="left", caption_justify="left", padding=padding)
    table.add_column("", max_width=10 if narrow else None)
    if explained:
        table.add_column("where / input", style="dim")
    for result in results:
        table.add_column(Text(f"{called(result)}\n{short_data(result.data)}"), justify="right", overflow="fold")
    return table


def joined(number: str, interval: str, columns: int) -> str:
    """The interval behind the number, or below it where there are many columns."""
    return number + (" " if columns <= INLINE else "\n") * bool(interval) + interval


def choice_text(result: _Any) -> str:
    """Which of the examples of the data were taken; nothing where that is all of them."""
    if result.limit is None or result.n + len(result.skipped) < result.limit:
        return ""
    return f" (the first {result.limit})" if result.seed is None else f" (drawn with seed {result.seed})"


def skip_lines(skipped: Sequence[Skipped]) -> list[str]:
    """The first few skipped examples with their reasons, as lines."""
    lines = [f"  skipped {clean(entry.id)}: {clean(entry.reason)}" for entry in skipped[:SKIPS_SHOWN]]
    if len(skipped) > SKIPS_SHOWN:
        lines.append(f"  and {len(skipped) - SKIPS_SHOWN} more; --json and summary.json have them all")
    return lines


def short(name: str) -> str:
    """A model or data name without the folders it lies in."""
    return "/".join(name.partition("?")[0].removesuffix("/").split("/")[-2:])


def called(result: _Any) -> str:
    """The name that a model was given, or else its own, without the folders it lies in."""
    return result.name or short(result.model)


def few(names: Sequence[str]) -> str:
    """The first of several ids, and how many more there are."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(clean(name) for name in names[:_FEW]) + more


def measured(result: _Any) -> str:
    """What was measured of what, with how many of the examples: the beginning of the line below a table."""
    total = result.n + len(result.skipped)
    return f"{result.model} on {short_data(result.data)}: n = {result.n} of {total}"


def clean(text: str) -> str:
    """Text from data with control characters made visible and its length bounded."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:300])
    return shown if len(text) <= 300 else shown + "…"
