"""Numbers of `prune-study` -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.metrics.pruning import PREDICTORS, Interaction, choice
from mmerank.analysis.results.pruning import PruningResult
from mmerank.report.names import short_data
from mmerank.report.terminal.intervals import interval_line, interval_text, plain
from mmerank.report.terminal.parts import airy_table, called, choice_text, measured, skip_lines


def pruning_tables(results: Sequence[PruningResult]) -> list[Table]:
    """For each model a row for each share and way to choose rows, and the test of pictures' eRanks below.

    Args:
        results: At least one, of the same data.

    Returns:
        Tables for a rich console.
    """
    return [table for result in results for table in (_kept(result), *_interactions(result))]


def _kept(result: PruningResult) -> Table:
    numbers = result.numbers
    whole = ", ".join(
        f"{label} {numbers[name].value:.{quantity(name).decimals}f}"
        for name, label in {
            "loss_whole": "loss",
            "erank_vision": "eRank1",
            "erank_connector": "eRank2",
            "erank_llm": "at the LLM",
        }.items()
        if name in numbers
    )
    table = airy_table(f"{called(result)} on {short_data(result.data)}; all rows: {whole}")
    table.add_column("keep")
    table.add_column("by")
    for head in ("change in loss", "less random", "same\ntoken", "eRank2", "LLM\nbefore", "\nafter", "k-NN"):
        table.add_column(Text(head), justify="right")
    for keep in result.convention.keep:
        for i, by in enumerate(result.convention.by):
            name = choice(by, keep)
            last = by == result.convention.by[-1] and keep != result.convention.keep[-1]
            table.add_row(
                f"{keep:g} ({_rows(result, name)})" if i == 0 else "",
                Text(by.rpartition(":")[2]),
                _with_interval(result, f"loss_change/{name}"),
                _spread(result, name) if by == "random" else _with_interval(result, f"over_random/{name}"),
                *(_cell(result, f"{front}/{name}") for front in ("agreement", "erank_connector")),
                *(_cell(result, f"{front}/{name}") for front in ("erank_llm_before", "erank_llm", "neighbours")),
                end_section=last,
            )
    return table


def _rows(result: PruningResult, name: str) -> str:
    """How many rows are kept, on average."""
    counts = [record.n for record in result.records if record.input.partition("#")[0] == name and record.kept is not None]
    mean = float(np.mean(counts))
    return f"{mean:.0f} rows" if len(set(counts)) == 1 else f"{mean:.1f} rows"


def _spread(result: PruningResult, name: str) -> Text:
    sd = result.numbers.get(f"draw_sd/{name}")
    return Text("-" if sd is None else f"sd of draws {sd.value:.3f}", style="dim")


def _with_interval(result: PruningResult, name: str) -> Text:
    number, decimals = result.numbers[name], quantity(name).decimals
    if math.isnan(number.value):
        return Text("-")
    limits = interval_text(number.interval, decimals, number.value)
    return Text(f"{number.value:+.{decimals}f} {limits}".rstrip())


def _cell(result: PruningResult, name: str) -> Text:
    value = result.numbers[name].value
    return Text("-" if math.isnan(value) else f"{value:.2f}")


def _interactions(result: PruningResult) -> list[Table]:
    """A row for each share, a column for each predictor."""
    found = {(of.predictor, of.keep): of for of in result.interactions if math.isfinite(of.found.slope)}
    shown = [name for name in PREDICTORS if any(predictor == name for predictor, _ in found)]
    if not shown:
        return []
    table = airy_table("loss under attention less that under diversity, per unit of a picture's")
    table.add_column("keep")
    for name in shown:
        table.add_column(PREDICTORS[name], justify="right")
    for keep in result.convention.keep:
        table.add_row(f"{keep:g}", *(slope_text(found.get((name, keep))) for name in shown))
    return [table]


def slope_text(of: Interaction | None) -> str:
    """A slope with its interval and its p.

    Args:
        of: It; None where there is none.

    Returns:
        As in `+0.021 [0.01, 0.03] p 0.004`.
    """
    if of is None or math.isnan(of.found.slope):
        return "-"
    slope = of.found.slope
    decimals = min(4, max(2, 2 - math.floor(math.log10(abs(slope))))) if slope else 2
    limits = interval_text(of.found.interval, decimals, slope)
    return f"{slope:+.{decimals}f} {limits}".rstrip() + f" p {of.found.p:.2g}"


def pruning_text(results: Sequence[PruningResult]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*pruning_tables(results)), *pruning_notes(results)])


def pruning_notes(results: Sequence[PruningResult]) -> list[str]:
    """What all results stand on, as lines.

    Args:
        results: At least one.

    Returns:
        Lines.
    """
    lines = []
    for result in results:
        skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
        lines += [f"{measured(result)} examples{choice_text(result)}{skipped}", *skip_lines(result.skipped)]
    draws = results[0].convention.draws
    lines += [
        f"  loss: of the response, nats a token; random: the mean of {draws} draws; hold ways to choose rows against",
        "  each other at equal rows, since fewer rows have a lower eRank for that alone",
    ]
    if any(of.interactions for of in results):
        lines.append("  a positive slope: the higher the eRank, the more speaks for diversity; p by permutation")
    return [*lines, interval_line(results[0].bootstrap, min(result.n for result in results))]
