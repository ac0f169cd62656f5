"""Intervals and comparisons -> what a person reads in a terminal; for analyses that are run again, without torch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.statistics.bootstrap import ROUGH, Bootstrap, Interval
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.report.terminal.parts import short


def interval_text(interval: Interval | None, decimals: int, value: float | None = None) -> str:
    """Limits with the digits that their distance leaves a meaning.

    Args:
        interval: Low and high; None for nothing.
        decimals: Most decimals.
        value: What stands before it with all decimals; within the limits, as shown, where it is within them.

    Returns:
        `[low, high]`, or nothing.

    Example:
        >>> interval_text((17.926, 18.812), 2), interval_text((17.926, 18.112), 2), interval_text((142.3, 231.1), 2)
        ('[17.9, 18.8]', '[17.93, 18.11]', '[142, 231]')
        >>> interval_text((0.7012, 0.8115), 4), interval_text((0.7012, 0.8115), 4, 0.8115)
        ('[0.70, 0.81]', '[0.7012, 0.8115]')
    """
    if interval is None:
        return ""
    low, high = interval
    shown = decimals
    if high > low:
        # Rounding moves a limit by at most an eighth of half the width.
        shown = min(decimals, max(0, math.ceil(-math.log10((high - low) / 8))))
    if value is not None and low <= value <= high:
        if not round(low, shown) <= round(value, decimals) <= round(high, shown):
            shown = decimals
    return f"[{_rounded(low, shown):.{shown}f}, {_rounded(high, shown):.{shown}f}]"


def interval_line(bootstrap: Bootstrap, n: int, made_by: str = "bootstrap") -> str:
    """What the intervals are, and how far to trust them.

    Args:
        bootstrap: How they were made.
        n: Number of examples.
        made_by: Their kind.

    Returns:
        A line.
    """
    if n < 2:
        return "  no intervals: they need at least 2 examples"
    rough = f"; rough, since n < {ROUGH}" if n < ROUGH else ""
    return f"  in brackets: {100 * bootstrap.level:.4g} % {made_by} intervals over examples{rough}"


def comparison_table(comparison: ComparisonResult) -> Table:
    """A row per quantity of A - B.

    Args:
        comparison: From `mmerank.compare`.

    Returns:
        The table, for a rich console.
    """
    rows = ", on equally many rows" if comparison.matched else ""
    groups = f" in {comparison.groups} groups" if comparison.groups else ""
    a, b = short(comparison.a), short(comparison.b)
    if a == b:
        a, b = comparison.a, comparison.b
    title = Text(f"{a} - {b}{rows}, n = {comparison.n}{groups}")
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("difference", "q", "d_z", "MDE"):
        table.add_column(heading, justify="right")
    for found in comparison.differences:
        known = quantity(found.quantity)
        decimals = known.decimals
        finite = math.isfinite(found.low) and math.isfinite(found.high)
        interval = interval_text((found.low, found.high) if finite else None, decimals, found.difference)
        table.add_row(
            known.label,
            f"{_rounded(found.difference, decimals):+.{decimals}f} {interval}".rstrip(),
            q_text(found.q),
            _shown(found.d_z, 2),
            _shown(found.smallest_detectable, decimals),
        )
    return table


def comparison_notes(comparisons: Sequence[ComparisonResult], *, alike: bool = False) -> list[str]:
    """How the comparisons were made.

    Args:
        comparisons: At least one, all made in the same way.
        alike: Whether it is said elsewhere which numbers stand on other numbers of rows.

    Returns:
        Lines.
    """
    first = comparisons[0]
    by_jackknife = not first.permutations  # statistics of pairs, which are not resampled
    name = {"bh": "Benjamini-Hochberg", "by": "Benjamini-Yekutieli"}[first.false_discovery]
    swaps = f"all {first.permutations}" if first.exact else f"{first.permutations} random"
    n = min(comparison.groups or comparison.n for comparison in comparisons)
    lines = [
        interval_line(first.bootstrap, n, "jackknife" if by_jackknife else "bootstrap"),
        f"  q: {'t by the jackknife' if by_jackknife else f'permutation test, {swaps} swaps'}; {name} over "
        f"{first.tests} tests",
        "  d_z: mean / sd of the examples' differences; MDE: detectable at this n with 80 % power",
    ]
    if opposed := dict.fromkeys(name for comparison in comparisons for name in comparison.opposed):
        lines.append(f"  {opposed_note(opposed)}")
    if first.groups:
        lines.append("  examples of one group, as the questions about a picture, are drawn and swapped together")
    unlike = dict.fromkeys(name for comparison in comparisons for name in comparison.unlike)
    if unlike and not alike:
        lines.append(f"  caution: {unlike_note(unlike)}")
    if any(comparison.fixed for comparison in comparisons):
        lines.insert(2, "  q -: equal in every example, which is not among the tests")
    left = max(comparison.unpaired for comparison in comparisons)
    return [*lines, f"  only on one side, not compared: up to {left} examples"] if left else lines


def opposed_note(opposed: Iterable[str]) -> str:
    """What a d_z means whose sign is not that of the difference.

    Args:
        opposed: Quantities, as in `ComparisonResult.opposed`; at least one.

    Returns:
        A sentence without its end.
    """
    named = ", ".join(quantity(name).label for name in opposed)
    return f"d_z of {named} has the other sign: each example has its own number, the data set one of means over them"


def unlike_note(unlike: Iterable[str]) -> str:
    """What a difference means of numbers that stand on other numbers of rows.

    Args:
        unlike: Quantities, as in `ComparisonResult.unlike`; at least one.

    Returns:
        A sentence without its end.
    """
    named = ", ".join(quantity(name).label for name in unlike)
    return f"{named} stand on other numbers of rows in one than in the other, which they mostly follow"


def comparison_text(comparisons: Sequence[ComparisonResult]) -> str:
    """Tables and notes as plain text, 100 columns wide.

    Args:
        comparisons: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*map(comparison_table, comparisons)), *comparison_notes(comparisons)])


def plain(*tables: RenderableType) -> str:
    """What a rich console would show, without colours, 100 columns wide.

    Args:
        tables: What it prints.

    Returns:
        Lines without trailing spaces.
    """
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(*tables, sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def q_text(q: float) -> str:
    """A q with three decimals, `-` where nothing was tested."""
    return "<0.001" if q < 0.001 else _shown(q, 3)


def _rounded(value: float, decimals: int) -> float:
    """Without the sign of a zero."""
    return round(value, decimals) + 0.0


def _shown(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"
