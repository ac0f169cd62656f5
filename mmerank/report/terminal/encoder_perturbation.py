"""Numbers of `perturb` of an encoder -> what a person reads in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.results.perturbation import EncoderPerturbationResult
from mmerank.report.terminal.encoding import bounds, standing
from mmerank.report.terminal.intervals import plain
from mmerank.report.terminal.parts import airy_table, called, short
from mmerank.report.terminal.perturbation import (
    check_lines,
    difference_text,
    tests_notes,
    tests_table,
    told_from_zero,
)


def encoder_perturbation_view(result: EncoderPerturbationResult) -> RenderableType:
    """What `mmerank perturb` prints of an encoder.

    Args:
        result: Of one encoder.

    Returns:
        Something a rich console can print.
    """
    names = list(result.transforms[0].delta)
    eranks = [name for name in names if "erank" in name]
    others = [name for name in names if name not in eranks]
    groups = {"eRank": eranks, "embeddings": others}
    tables = [_values(result, title, of) for title, of in groups.items() if of]
    intervals = {name: of.interval for name, of in result.base.numbers.items() if of.interval}
    intervals |= {f"erank_{of.side}": of.trained.interval for of in result.base.layers if of.trained.interval}
    tables += [tests_table(result.tests, intervals, f": {title}", of) for title, of in groups.items() if of]
    lines = [*standing(result.base), *bounds(result.base), *tests_notes(result.tests)]
    if result.base.n > 1:
        lines.append("  of eRanks of embeddings, gap and retrieval: intervals and p by the jackknife")
    return Group(*tables, *map(Text, [*lines, *check_lines(result.checks)]))


def encoder_perturbation_text(result: EncoderPerturbationResult) -> str:
    """The same as plain text, 100 columns wide.

    Args:
        result: Of one encoder.

    Returns:
        Lines without a trailing newline.
    """
    return plain(encoder_perturbation_view(result))


def _values(result: EncoderPerturbationResult, title: str, names: list[str]) -> Table:
    """A row for the base and for each transform, under each number by how much it rose or fell."""
    table = airy_table(f"{called(result.base)} on {short(result.base.data)}: {title}, before and after")
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(quantity(name).head.replace(" ", "\n"), justify="right")
    decimals = {name: quantity(name).decimals for name in names}
    before = result.tests[result.transforms[0].transform]
    table.add_row("base", *(f"{before[name].b:.{d}f}" for name, d in decimals.items()))
    for changed in result.transforms:
        tests = result.tests[changed.transform]
        cells = (
            f"{tests[name].a:.{d}f}\n{difference_text(changed.delta[name], d, told_from_zero(tests[name]))}"
            for name, d in decimals.items()
        )
        table.add_row(Text(changed.transform), *cells)
    return table
