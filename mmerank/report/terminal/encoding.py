"""Numbers of `encode` -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from rich.table import Table
from rich.text import Text

from mmerank.analysis.metrics.embedded import GROUPS, UNTRAINED
from mmerank.analysis.metrics.known import quantity
from mmerank.analysis.results.encoding import NUMBERS, SIDES, EncodingResult, LayerEranks, Number
from mmerank.report.names import short_data
from mmerank.report.terminal.intervals import interval_line, interval_text, plain
from mmerank.report.terminal.parts import airy_table, called, choice_text, few, measured, skip_lines
from mmerank.report.terminal.rows import metric_table

# Layers of a model that have room; of more, some at equal distances.
SHOWN = 12
_NOTHING = "-"


def encoding_tables(results: Sequence[EncodingResult]) -> list[Table]:
    """Of one model everything; of several a row each.

    Args:
        results: At least one.

    Returns:
        Tables for a rich console.
    """
    if len(results) > 1:
        return [_models(results)]
    listed = results[0].metrics
    return [_numbers(results[0]), _layers(results[0]), *([metric_table(listed, "metrics")] if listed else [])]


def encoding_text(results: Sequence[EncodingResult]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*encoding_tables(results)), *encoding_notes(results)])


def encoding_notes(results: Sequence[EncodingResult]) -> list[str]:
    """What all results stand on, as lines.

    Args:
        results: At least one.

    Returns:
        Lines.
    """
    lines = [line for result in results for line in standing(result)]
    for n in dict.fromkeys(result.n for result in results):
        of_n = next((r for r in results if r.n == n and r.chance), next(r for r in results if r.n == n))
        lines += bounds(of_n)
    if len(results) > 1:
        return [*lines, "  intervals, and eRank by layer: --json, the report, or one model at a time"]
    (result,) = results
    each = f" over {GROUPS} groups of examples" if result.n > GROUPS else ""
    by_jackknife = f"  of eRanks of embeddings, gap and retrieval: jackknife{each}"
    return [*lines, interval_line(result.bootstrap, result.n), *([by_jackknife] if result.n > 1 else [])]


def _numbers(result: EncodingResult) -> Table:
    table = airy_table(f"{called(result)} on {short_data(result.data)}: embeddings")
    for heading in ("", "trained", f"untrained (seed {result.untrained_seed})"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in NUMBERS:
        if name in result.numbers:
            both = [result.numbers.get(name + end) for end in ("", UNTRAINED)]
            table.add_row(quantity(name).label, *(_cell(of, quantity(name).decimals) for of in both))
    return table


def _layers(result: EncodingResult) -> Table:
    """Layers of both encoders side by side."""
    by_side = [_some([of for of in result.layers if of.side == side]) for side in SIDES]
    sides = [(side, layers) for side, layers in zip(SIDES, by_side, strict=True) if layers]
    title = f"eRank by layer, of {' and of '.join(_rows_of(*of) for of in sides)}"
    table = airy_table(title)
    for side, _ in sides:
        table.add_column(f"{side}\nlayer", justify="right")
        table.add_column("\ntrained", justify="right")
        table.add_column("\nuntrained", justify="right")
    for row in zip_longest(*(layers for _, layers in sides)):
        cells: list[str | Text] = []
        for of in row:
            if of is None:
                cells += ["", "", ""]
            else:
                cells += [str(of.layer), _cell(of.trained, 2), _cell(Number(of.untrained.value, None), 2)]
        table.add_row(*cells)
    return table


def _models(results: Sequence[EncodingResult]) -> Table:
    """A row for each model and its twin."""
    names = [name for name in NUMBERS if any(name in result.numbers for result in results)]
    table = airy_table(f"Embeddings of {short_data(results[0].data)}")
    table.caption = Text("eRank of embeddings; below each model its untrained twin")
    table.caption_justify = "left"
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(quantity(name).head.replace(" ", "\n"), justify="right")
    for result in results:
        for end in ("", UNTRAINED):
            numbers = [result.numbers.get(name + end) for name in names]
            cells = [
                _NOTHING if of is None or math.isnan(of.value) else f"{of.value:.{min(3, quantity(name).decimals)}f}"
                for name, of in zip(names, numbers, strict=True)
            ]
            label = Text("  untrained", style="dim") if end else Text(called(result))
            table.add_row(label, *cells)
    return table


def _some(layers: Sequence[LayerEranks]) -> list[LayerEranks]:
    """At most `SHOWN` of them, the last among them."""
    step = -(-len(layers) // SHOWN) or 1
    return [of for i, of in enumerate(layers) if (len(layers) - 1 - i) % step == 0]


def _rows_of(side: str, layers: Sequence[LayerEranks]) -> str:
    last = layers[-1]
    kind = "patches" if side == "image" else "tokens"
    return (
        f"{last.rows:.0f} {kind}"
        if all(of.rows == last.rows for of in layers)
        else f"{kind} (at last {last.rows:.0f})"
    )


def _cell(number: Number | None, decimals: int) -> Text:
    if number is None or math.isnan(number.value):
        return Text(_NOTHING)
    return Text(f"{number.value:.{decimals}f} {interval_text(number.interval, decimals, number.value)}".rstrip())


def standing(result: EncodingResult) -> list[str]:
    """What the numbers stand on: how many examples, what was skipped and why.

    Args:
        result: One of them.

    Returns:
        Lines.
    """
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    cut = (
        f", the text of {result.text_cut} cut at the encoder's limit ({few(result.cut_examples)})"
        if result.text_cut
        else ""
    )
    return [
        f"{measured(result)} examples{choice_text(result)}{skipped}{cut}"
        + ("" if result.untrained_seed is None else f"; untrained: seed {result.untrained_seed}"),
        *(f"  {what} is undefined: {reason}" for what, reason in result.undefined.items()),
        *skip_lines(result.skipped),
    ]


def bounds(result: EncodingResult) -> list[str]:
    """What numbers of so many examples can be.

    Args:
        result: Of an encoder.

    Returns:
        Lines.
    """
    n = result.n
    joint = f", of both together 2n - 1 = {2 * n - 1}" if result.chance else ""
    lines = [f"  eRanks of embeddings are at most n - 1 = {n - 1}{joint}"]
    if result.chance:
        by_chance = ", ".join(f"{share:.3f} at {k}" for k, share in result.chance.items())
        lines.append(f"  retrieval by chance: {by_chance}; the text of an example is its response")
    return lines
