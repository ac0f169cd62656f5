"""Tables of what stands behind a before and after: intervals and tests, nulls, differences on equally many rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.alignment import ALIGNMENT, DECIMALS, LABELS
from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.perturbation import Null
from mmerank.analysis.results.before_after import Checks
from mmerank.analysis.statistics.bootstrap import ROUGH, Interval
from mmerank.analysis.statistics.paired import ComparisonResult, PairedDifference
from mmerank.report.terminal.intervals import q_text

ALPHA = 0.05  # a q below it has a star


def difference_text(difference: float, decimals: int, starred: bool = False) -> str:
    """A difference with its sign, and perhaps a star; `=` only where it is exactly 0.

    Args:
        difference: After minus before.
        decimals: Of it.
        starred: Whether it is told from 0, see `told_from_zero`.

    Returns:
        A short text.

    Example:
        >>> difference_text(0.5, 2, True), difference_text(-0.5, 2), difference_text(0.0, 2)
        ('+0.50*', '-0.50', '=')
    """
    return "=" if difference == 0 else f"{difference:+.{decimals}f}{'*' * starred}"


def told_from_zero(test: PairedDifference) -> bool:
    """Whether test and interval both say that there is a difference.

    The null of the swap test is exchangeability, which for a ratio is more than an equal ratio: where two of the
    eRanks in it are close, q can be small beside an interval that holds 0.

    Args:
        test: Of one quantity.

    Returns:
        True if q is small and 0 lies outside the interval; never where there is no interval.
    """
    return test.q < ALPHA and (test.low > 0 or test.high < 0)


def tests_table(
    tests: Mapping[str, ComparisonResult],
    base: Mapping[str, Interval],
    of: str = "",
    names: Sequence[str] = tuple(ALIGNMENT),
) -> Table:
    """Limits, q and smallest detectable difference of what each transform can move.

    Args:
        tests: By transform.
        base: Intervals of the base.
        of: What the title adds.
        names: Quantities, each in a column.

    Returns:
        The table, for a rich console.
    """
    table = _by_quantity(f"Intervals and tests of the differences{of}", names=names)
    decimals = {name: quantity(name).decimals for name in names}
    if base:
        cells = (
            f"{base[name][0]:.{d}f}\n{base[name][1]:.{d}f}" if name in base else "" for name, d in decimals.items()
        )
        table.add_row("base", "from\nto", *cells)
    for name, comparison in tests.items():
        if set(comparison.fixed) >= set(names):
            continue
        found = {d.quantity: d for d in comparison.differences}
        cells = ("" if of in comparison.fixed else _tested(found[of], d) for of, d in decimals.items())
        table.add_row(Text(name), "from\nto\nq\nMDE", *cells)
    return table


def tests_notes(tests: Mapping[str, ComparisonResult]) -> list[str]:
    """What stars, limits and q mean, and how far to trust them.

    Args:
        tests: By transform; at least one.

    Returns:
        Lines.
    """
    first = next(iter(tests.values()))
    name = {"bh": "Benjamini-Hochberg", "by": "Benjamini-Yekutieli"}[first.false_discovery]
    lines = [
        f"  = no change at all; * an interval without 0, and q < {ALPHA:g}",
        f"  q: over {first.tests} tests ({name}), n = {first.n}",
    ]
    if any(comparison.fixed for comparison in tests.values()):
        lines.append("  left blank: what the transform moves in no example, which is not among the tests")
    if first.exact:
        swaps = f"all {first.permutations} swaps within examples; no p can be below {min(1, 2 / 2**first.n):.2g}"
    else:
        swaps = f"{first.permutations} random swaps within examples"
    lines.append(f"  p: permutation test, {swaps}")
    if first.n < 2:
        return [*lines, "  no intervals: they need at least 2 examples"]
    rough = f", rough since n < {ROUGH}" if first.n < ROUGH else ""
    return [
        *lines,
        f"  from, to: {100 * first.bootstrap.level:.4g} % bootstrap interval over examples{rough}",
        "  MDE: what a test at 5 % finds with 80 % power, given this n and spread",
    ]


def check_lines(checks: Checks, text: str = "of texts") -> list[str]:
    """What must be rounding.

    Args:
        checks: Of a perturbation.
        text: What the eRank is called that transforms of the picture leave as it is.

    Returns:
        Lines; none where nothing was looked at.
    """
    found = {text: checks.text, "any eRank": checks.reuse, "identity": checks.identity}
    shown = ", ".join(f"{name} {value:.1e}" for name, value in found.items() if not math.isnan(value))
    head = "  largest differences that should be rounding, of examples measured again alone"
    return [head, f"    {shown}"] if shown else []


def null_table(controls: Sequence[Null]) -> Table:
    """The base's eRank5 and Image-Text Alignment against those of pictures with other examples' texts.

    Args:
        controls: At least one.

    Returns:
        The table, for a rich console.
    """
    draws = len(controls[0].draws["erank5"])
    table = Table(
        title=f"Against pictures with other texts, {draws} draws: no p below {min(1, 2 / (draws + 1)):.2g}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("null", "", "here", "null mean ± sd", "z", "p"):
        table.add_column(heading, justify="left" if heading in ("null", "") else "right")
    for null in controls:
        for name, test in null.tests.items():
            d = DECIMALS[name]
            spread = f" ± {test.null_sd:.{d}f}" if math.isfinite(test.null_sd) else ""
            z = f"{test.z:+.1f}" if math.isfinite(test.z) else "-"
            mean = f"{test.null_mean:.{d}f}{spread}"
            table.add_row(null.control, LABELS[name], f"{test.value:.{d}f}", mean, z, f"{test.p:.3f}")
    return table


def matched_table(matched: Mapping[str, Mapping[str, float | None]], tokens: int) -> Table:
    """By how much each number rose or fell on equally many rows everywhere.

    Args:
        matched: `delta_matched` by transform.
        tokens: How many rows.

    Returns:
        The table, for a rich console.
    """
    table = _by_quantity(f"Differences on {tokens} rows each", "n")
    for name, found in matched.items():
        cells = (_found(found[quantity], d) for quantity, d in DECIMALS.items())
        table.add_row(Text(name), str(found["n"]), *cells)
    return table


def _by_quantity(title: str, beside: str = "", names: Sequence[str] = tuple(ALIGNMENT)) -> Table:
    """An empty table with a column per quantity."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("", overflow="fold")
    table.add_column(beside, no_wrap=True)
    for name in names:
        table.add_column(quantity(name).head, justify="right", no_wrap=True)
    return table


def _tested(found: PairedDifference, decimals: int) -> str:
    limits = (f"{x:+.{decimals}f}" if math.isfinite(x) else "-" for x in (found.low, found.high))
    smallest = found.smallest_detectable
    return "\n".join([*limits, q_text(found.q), f"{smallest:.{decimals}f}" if math.isfinite(smallest) else "-"])


def _found(difference: float | None, decimals: int) -> str:
    return "-" if difference is None else difference_text(difference, decimals)
