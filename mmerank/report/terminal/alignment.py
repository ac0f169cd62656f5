"""Numbers of `align` and `perturb` -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmerank.analysis.alike import repeated, repeated_text, unlike_rows, unlike_text
from mmerank.analysis.metrics.alignment import DECIMALS, LABELS
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.results.examination import said_of_gates
from mmerank.analysis.results.perturbation import PerturbationResult
from mmerank.eranks import ERANKS
from mmerank.report.names import short_data
from mmerank.report.terminal.intervals import interval_line, interval_text, plain
from mmerank.report.terminal.parts import airy_table, by_model, called, choice_text, few, joined, measured, skip_lines
from mmerank.report.terminal.perturbation import (
    check_lines,
    difference_text,
    matched_table,
    null_table,
    tests_notes,
    tests_table,
    told_from_zero,
)
from mmerank.report.terminal.rows import row_standing, row_tables

EXPLAINED = 1  # results beside which there is room, in 80 columns, to say where each number is read


def alignment_table(
    results: Sequence[AlignmentResult], *, beside: Sequence[Mapping[str, float]] | None = None
) -> Table:
    """A table with a column per result, as in the paper's Table 2.

    Args:
        results: At least one.
        beside: For each result, other numbers by the same names, shown behind ours in round brackets.

    Returns:
        The table, for a rich console.
    """
    others = beside or [{}] * len(results)

    def cells(label: str, decimals: int) -> list[Text]:
        values = [getattr(result, label) for result in results]
        ours = [_number(value, decimals) for value in values]
        theirs = [f" ({other[label]:.{decimals}f})" if label in other else "" for other in others]
        limits = [
            interval_text(result.intervals.get(label), decimals, value)
            for result, value in zip(results, values, strict=True)
        ]
        return [Text(joined(a + b, c, len(results))) for a, b, c in zip(ours, theirs, limits, strict=True)]

    table = by_model("Image-text alignment", results, explained=len(results) <= EXPLAINED)
    explained = len(results) <= EXPLAINED
    for label, (point, kind) in ERANKS.items():
        table.add_row(LABELS[label], *([f"{point} / {kind}"] if explained else []), *cells(label, 2))
    table.add_section()
    for label in ("image_reduction_ratio", "image_text_alignment"):
        table.add_row(LABELS[label], *([""] if explained else []), *cells(label, 4))
    if any(others):
        table.caption = "in round brackets: the paper"
    return table


def alignment_tables(results: Sequence[AlignmentResult]) -> list[Table]:
    """`alignment_table`, and behind it the tables of what else was asked for.

    Args:
        results: At least one.

    Returns:
        Tables for a rich console.
    """
    beside = (table for result in results for table in row_tables(result, called(result)))
    return [alignment_table(results), *beside]


def alignment_text(results: Sequence[AlignmentResult]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*alignment_tables(results)), *alignment_notes(results)])


def alignment_notes(results: Sequence[AlignmentResult]) -> list[str]:
    """What all results stand on, as lines, and whether they can be held against each other."""
    lines = [line for result in results for line in standing(result)]
    if unlike := unlike_rows([result.records for result in results]):
        names = [called(result) for result in results]
        lines.append(f"caution: {unlike_text(unlike, names)}")
        matched = [result.convention.match_tokens for result in results]
        lines.append(
            f"  hold {matched[0]} rows each against each other"
            if None not in matched
            else "  --match-tokens puts them on equally many"
        )
    return lines


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def standing(result: AlignmentResult, *, brackets: bool = True) -> list[str]:
    """What the numbers stand on: how many examples, how many tokens, what was skipped and why.

    Args:
        result: One of them.
        brackets: Whether its intervals stand in brackets beside the numbers.

    Returns:
        Lines.
    """
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    tokens = ", ".join(_number(result.mean_tokens(label), 0) for label in ERANKS)
    lines = [
        f"{measured(result)} examples{choice_text(result)}{skipped}",
        f"  mean tokens behind eRank1-5: {tokens}",
        *([interval_line(result.bootstrap, result.n)] if brackets else []),
        *(f"  {LABELS[label]} is undefined: {reason}" for label, reason in result.undefined.items()),
        *([f"  {said_of_gates(gates)}"] if (gates := result.source.get("zero_gates")) else []),
    ]
    lines += skip_lines(result.skipped)
    if result.text_cut:
        lines.append(
            f"  text cut at the model's limit: {result.text_cut} of the examples ({few(result.cut_examples)})"
        )
    if twice := repeated(result.records):
        lines.append(f"  caution: {repeated_text(twice)}")
    return lines + row_standing(result)


def perturbation_table(result: PerturbationResult) -> Table:
    """A row for the base and for each transform, under each number by how much it rose or fell, starred by its q.

    Args:
        result: Of one model.

    Returns:
        The table, for a rich console.
    """
    title = f"{called(result.base)} on {short_data(result.base.data)}: before and after"
    table = airy_table(title)
    table.add_column("", overflow="fold")
    for label, (point, kind) in ERANKS.items():
        table.add_column(f"{label.replace('erank', 'eRank')}\n{point}\n{kind}", justify="right")
    table.add_column("Image\nReduction\nRatio", justify="right")
    table.add_column("Image-Text\nAlignment", justify="right")
    table.add_row("base", *(f"{getattr(result.base, name):.{d}f}" for name, d in DECIMALS.items()))
    for changed in result.transforms:
        tests = result.tests[changed.transform]
        told = {name: told_from_zero(tests[name]) for name in DECIMALS}
        values = (
            f"{getattr(changed.result, name):.{d}f}\n{difference_text(changed.delta[name], d, told[name])}"
            for name, d in DECIMALS.items()
        )
        table.add_row(Text(changed.transform), *values)
    return table


def perturbation_view(result: PerturbationResult) -> RenderableType:
    """What `mmerank perturb` prints.

    Args:
        result: Of one model.

    Returns:
        Something a rich console can print.
    """
    lines = standing(result.base, brackets=False)
    if result.tests:
        lines += tests_notes(result.tests)
    lines += check_lines(result.checks, text="eRank4")
    tables = [perturbation_table(result)]
    if result.tests:
        tables.append(tests_table(result.tests, result.base.intervals))
    if result.controls:
        tables.append(null_table(result.controls))
    matched = {c.transform: c.delta_matched for c in result.transforms if c.delta_matched is not None}
    if matched:
        rows = result.base.convention.match_tokens or 0
        tables.append(matched_table(matched, rows))
        if result.tests_matched and result.base.matched:
            limits = {name: (low, high) for name, (low, high) in result.base.matched["intervals"].items()}
            tables.append(tests_table(result.tests_matched, limits, f", on {rows} rows each"))
    tables += row_tables(result.base, "base")
    for changed in result.transforms:
        tables += row_tables(changed.result, changed.transform)
    return Group(*tables, *map(Text, lines))


def perturbation_text(result: PerturbationResult) -> str:
    """What `mmerank perturb` prints, as plain text, 100 columns wide.

    Args:
        result: Of one model.

    Returns:
        Lines without a trailing newline.
    """
    return plain(perturbation_view(result))
