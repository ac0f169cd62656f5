"""Numbers of `generate` -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.results.generation import GenerationResult
from mmerank.analysis.results.numbered import Numbered
from mmerank.report.names import short_data
from mmerank.report.terminal.intervals import interval_line, interval_text, plain
from mmerank.report.terminal.parts import airy_table, called, choice_text, clean, measured, skip_lines

# Responses that are shown, and how much of each.
SHOWN, LETTERS = 2, 68


def generation_tables(results: Sequence[GenerationResult]) -> list[Table]:
    """A row for each number, a column for each model.

    Args:
        results: At least one, of the same data.

    Returns:
        Tables for a rich console.
    """
    convention = results[0].convention
    table = airy_table(
        f"{convention.sampling}, at most {convention.max_new_tokens} tokens on {short_data(results[0].data)}"
    )
    table.add_column("")
    for result in results:
        table.add_column(Text(called(result)), justify="right", overflow="fold")
    names = list(dict.fromkeys(name for result in results for name in result.numbers))
    for name in names:
        table.add_row(quantity(name).label, *(_cell(of.numbers.get(name), name, of.n) for of in results))
    return [table]


def generation_text(results: Sequence[GenerationResult]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*generation_tables(results)), *generation_notes(results)])


def generation_notes(results: Sequence[GenerationResult]) -> list[str]:
    """What all results stand on, as lines.

    Args:
        results: At least one.

    Returns:
        Lines.
    """
    lines = []
    for result in results:
        skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
        lines += [
            f"{measured(result)} examples{choice_text(result)}{skipped}",
            *skip_lines(result.skipped),
            *(f"  written for {clean(of.example)}: {_begun(of.text)}" for of in result.responses[:SHOWN]),
        ]
    stride = results[0].convention.stride
    return [
        *lines,
        "  an eRank is at most the number of rows less one: hold responses of unlike length against each other at",
        f"  equal rows; differences are per {stride} rows, from the mean of the eRanks before (VERL)",
        interval_line(results[0].bootstrap, min(result.n for result in results)),
    ]


def _begun(text: str) -> str:
    shown = clean(" ".join(text.split()))
    return shown if len(shown) <= LETTERS else f"{shown[: LETTERS - 1]}…"


def _cell(number: Numbered | None, name: str, n: int) -> Text:
    if number is None or math.isnan(number.value):
        return Text("-")
    decimals = quantity(name).decimals
    fewer = f"  n = {number.n}" if number.n < n else ""
    return Text(
        f"{number.value:.{decimals}f} {interval_text(number.interval, decimals, number.value)}".rstrip() + fewer
    )
