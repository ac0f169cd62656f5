"""Numbers of `prune-study` -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.pruning import PREDICTORS, Interaction, choice
from mmerank.analysis.results.pruning import PruningResult
from mmerank.report.names import short_data
from mmerank.report.terminal.intervals import interval_line, interval_text, plain
from mmerank.report.terminal.parts import airy_table, called, choice_text, measured, skip_lines

_WIDEST = 10  # letters of a way to choose


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
    table = airy_table(f"{called(result)} on {short_data(result.data)}")
    table.add_column("kept by", no_wrap=True)
    for head in ("change in loss", "less random", "same", "eRank2", "LLM", "after"):
        table.add_column(head, justify="right", no_wrap=True)
    eranks = [_cell(result, f"erank_{at}") for at in ("connector", "llm")]
    whole = (Text(f"loss {numbers['loss_whole'].value:.2f}"), Text(), Text(), *eranks)
    table.add_row(Text(f"all: {_rows(result, 'whole')}", style="bold"), *whole)
    for keep in result.convention.keep:
        table.add_row(Text(f"{keep:g}: {_rows(result, choice('random', keep))}", style="bold"))
        for by in result.convention.by:
            name = choice(by, keep)
            table.add_row(
                Text(by.rpartition(":")[2][:_WIDEST]),
                _with_interval(result, f"loss_change/{name}"),
                _spread(result, name) if by == "random" else _with_interval(result, f"over_random/{name}"),
                *(_cell(result, f"{front}/{name}") for front in ("agreement", "erank_kept")),
                *(_cell(result, f"{front}/{name}") for front in ("erank_kept_before", "erank_kept_after")),
            )
    return table


def _rows(result: PruningResult, name: str) -> str:
    """How many rows are kept, on average."""
    counts = [of.n for of in result.records if of.point == "llm" and of.input.partition("#")[0] == name]
    mean = float(np.mean(counts))
    return f"{mean:.0f}" if len(set(counts)) == 1 else f"{mean:.1f}"


def _spread(result: PruningResult, name: str) -> Text:
    sd = result.numbers.get(f"draw_sd/{name}")
    return Text("-" if sd is None else f"sd {sd.value:.2f}", style="dim")


def _with_interval(result: PruningResult, name: str) -> Text:
    number = result.numbers[name]
    if math.isnan(number.value):
        return Text("-")
    return Text(f"{number.value:+.2f} {interval_text(number.interval, 2, number.value)}".rstrip())


def _cell(result: PruningResult, name: str) -> Text:
    value = result.numbers[name].value
    return Text("-" if math.isnan(value) else f"{value:.2f}")


def _interactions(result: PruningResult) -> list[Table]:
    """A row for each share and predictor."""
    found = [of for of in result.interactions if math.isfinite(of.found.slope)]
    if not found:
        return []
    table = airy_table("loss under attention less diversity, per unit of a picture's")
    table.add_column("kept")
    table.add_column("")
    for head in ("slope", "r", "p", "q"):
        table.add_column(head, justify="right")
    for i, of in enumerate(found):
        first = i == 0 or found[i - 1].keep != of.keep
        numbers = (slope_text(of), f"{of.found.r:+.2f}", f"{of.found.p:.2g}", f"{of.q:.2g}")
        table.add_row(f"{of.keep:g}" if first else "", PREDICTORS[of.predictor], *numbers)
    return [table]


def slope_text(of: Interaction) -> str:
    """A slope with its interval.

    Args:
        of: With a slope.

    Returns:
        As in `+0.021 [0.01, 0.03]`.
    """
    slope = of.found.slope
    decimals = min(4, max(2, 2 - math.floor(math.log10(abs(slope))))) if slope else 2
    return f"{slope:+.{decimals}f} {interval_text(of.found.interval, decimals, slope)}".rstrip()


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
    drawn = f"mean of {draws} draws, sd over them" if draws > 1 else "one draw"
    lines += [
        f"  loss: of the response, nats a token; random: {drawn}; same: share of the",
        "  tokens whose likeliest is the same; eRank2, LLM, after: of the kept rows behind the connector, and at",
        "  the LLM before and after; compare at equal rows, since fewer have a lower eRank for that alone",
    ]
    if any(_interactions(of) for of in results):
        lines.append("  a positive slope: the higher the eRank, the more speaks for diversity; p by permutation")
    return [*lines, interval_line(results[0].bootstrap, min(result.n for result in results))]
