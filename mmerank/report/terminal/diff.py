"""Numbers of `diff` -> what a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.table import Table
from rich.text import Text

from mmerank.analysis.alike import read_alike
from mmerank.analysis.comparison import MANY
from mmerank.analysis.results.diff import DiffResult
from mmerank.report.terminal.inside import inside_lines, inside_table
from mmerank.report.terminal.intervals import interval_line, interval_text, plain
from mmerank.report.terminal.parts import (
    airy_table,
    by_model,
    called,
    choice_text,
    few,
    joined,
    measured,
    skip_lines,
)
from mmerank.report.terminal.rows import metric_table

# Rows where there is room for few; accuracies have no label.
_MAIN = ("erank_untrained", "erank_trained", "diff_erank", "erank_ratio", "loss_trained", "reduced_loss", "")


def diff_tables(results: Sequence[DiffResult]) -> list[Table]:
    """The results, and by layer where layers were asked for.

    Args:
        results: At least one.

    Returns:
        A column per model, or a row per model where they are many; then a table per model with layers.
    """
    main = diff_table(results) if len(results) <= MANY else sweep_table(results)
    layers = (layer_table(result) for result in results if len(result.points) > 1)
    metrics = (
        metric_table(result.metrics, f"{called(result)}: metrics") for result in results if result.metrics is not None
    )
    updates = (inside_table(result.inside, called(result)) for result in results if result.inside is not None)
    return [main, *layers, *updates, *metrics]


def sweep_table(results: Sequence[DiffResult]) -> Table:
    """A row per model, for many of them: the checkpoints of a training, as in the paper's Table 10.

    Args:
        results: At least one.

    Returns:
        The table, for a rich console.
    """
    with_loss = any(not math.isnan(result.loss_trained) for result in results)
    tasks = _tasks(results)
    names = [called(result) for result in results]
    fronts = {name[: max(name.rfind("/"), name.rfind("@")) + 1] for name in names}
    shared = fronts.pop() if len(fronts) == 1 else ""
    table = airy_table(f"Diff-eRank {shared}".rstrip("/@ "))
    table.add_column("", overflow="fold")
    losses = ("loss", "reduced\nloss") if with_loss else ()
    for heading in ("eRank\nuntrained", "eRank\ntrained", "Diff-\neRank", "ratio", *losses, *tasks):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in zip(names, results, strict=True):
        final = result.final
        eranks = (final.erank_untrained, final.erank_trained, final.diff_erank, final.erank_ratio)
        numbers = [f"{value:.2f}" for value in eranks]
        if with_loss:
            numbers += [_number(value) for value in (result.loss_trained, result.reduced_loss)]
        numbers += [_number(_accuracy(result, task)) for task in tasks]
        table.add_row(Text(name.removeprefix(shared)), *numbers)
    return table


def diff_table(results: Sequence[DiffResult], *, short: bool = False) -> Table:
    """A table with a column per model, as in the paper's Tables 1, 6, 7 and 8 turned on their side.

    Args:
        results: At least one.
        short: Whether the main numbers alone are wanted.

    Returns:
        The table, for a rich console.
    """
    table = by_model("Diff-eRank", results)
    if not short:
        table.caption = (
            "Diff-eRank: untrained - trained; by mean of eRanks: the paper's algorithm (b), else its (a)\n"
            "of the possible: eRank / min(tokens - 1, width)"
        )

    def row(name: str, number: Callable[[DiffResult], float], decimals: int, label: str = "") -> None:
        if short and label not in _MAIN:
            return
        numbers = [(number(result), result.intervals.get(label)) for result in results]
        table.add_row(
            name,
            *(
                ""
                if math.isnan(value)
                else Text(joined(f"{value:.{decimals}f}", interval_text(interval, decimals, value), len(results)))
                for value, interval in numbers
            ),
        )

    row("eRank, untrained", lambda r: r.final.erank_untrained, 2, "erank_untrained")
    if any(len(result.seeds) > 1 for result in results):
        row("  ± over seeds", lambda r: r.final.erank_untrained_stdev, 2, "spread")
    row("eRank, trained", lambda r: r.final.erank_trained, 2, "erank_trained")
    row("Diff-eRank", lambda r: r.final.diff_erank, 2, "diff_erank")
    row("  by mean of eRanks", lambda r: r.final.diff_erank_mean_of_eranks, 2, "diff_erank_mean_of_eranks")
    row("untrained / trained", lambda r: r.final.erank_ratio, 2, "erank_ratio")
    row("of the possible, untrained", lambda r: r.final.erank_fraction_untrained, 3, "erank_fraction_untrained")
    row("of the possible, trained", lambda r: r.final.erank_fraction_trained, 3, "erank_fraction_trained")
    if any(not math.isnan(result.loss_trained) for result in results):
        table.add_section()
        row("loss, untrained (nats)", lambda r: r.loss_untrained, 4, "loss_untrained")
        row("loss, trained (nats)", lambda r: r.loss_trained, 4, "loss_trained")
        row("reduced loss", lambda r: r.reduced_loss, 4, "reduced_loss")
    if tasks := _tasks(results):
        table.add_section()
        for task in tasks:
            row(f"accuracy, {task}", partial(_accuracy, task=task), 4)
    return table


def layer_table(result: DiffResult) -> Table:
    """A row per hook point of one model.

    Args:
        result: With more layers than the final one.

    Returns:
        The table, for a rich console.
    """
    table = Table(title=f"{called(result)}, by layer", title_justify="left")
    for heading in ("", "untrained", "trained", "Diff-eRank"):
        table.add_column(heading, justify="right" if heading else "left")
    for point in result.points:
        limits = result.layer_intervals[point.point]
        labels = ("erank_untrained", "erank_trained", "diff_erank")
        numbers = (
            f"{getattr(point, label):.2f} {interval_text(limits.get(label), 2, getattr(point, label))}".rstrip()
            for label in labels
        )
        table.add_row(point.point, *map(Text, numbers))
    return table


def diff_text(results: Sequence[DiffResult]) -> str:
    """Tables and standing as plain text, 100 columns wide.

    Args:
        results: At least one.

    Returns:
        Lines without a trailing newline.
    """
    return "\n".join([plain(*diff_tables(results)), *diff_notes(results)])


def diff_notes(results: Sequence[DiffResult]) -> list[str]:
    """What all results stand on, and whether they can be held against each other.

    Args:
        results: At least one.

    Returns:
        Lines.
    """
    lines = [line for result in results for line in diff_standing(result)]
    if not read_alike([[r for r in result.records if r.model == result.model] for result in results]):
        lines.append(
            "caution: the models read the same texts as different numbers of tokens, so neither losses per token nor "
            "eRanks of one are comparable with another's; hold each against its own untrained model"
        )
    return lines


def diff_standing(result: DiffResult) -> list[str]:
    """What the numbers stand on: how many texts and tokens, which twins, what was skipped and why.

    Args:
        result: One of them.

    Returns:
        Lines.
    """
    mode = "dropout on" if result.convention.untrained_mode == "train" else "dropout off"
    seeds = ", ".join(map(str, result.seeds))
    cut = f", {result.text_cut} of them cut ({few(result.cut_examples)})" if result.text_cut else ""
    return [
        f"{measured(result)} texts"
        f"{choice_text(result)}, {result.tokens:,} tokens{cut}; "
        f"untrained: seed {seeds}, {mode}{_drawn(result.initialisation)}",
        interval_line(result.bootstrap, result.n),
        *(
            f"  accuracy, {task}: over {found.n:,} questions, standard error {found.stderr:.4f}"
            for task, found in result.accuracy.items()
        ),
        *inside_lines(result.inside),
        *skip_lines(result.skipped),
    ]


def _drawn(initialisation: Mapping[str, Any]) -> str:
    """What the twins are drawn with, and whether that is the library's choice rather than the model's."""
    kept = {name: value for name, value in initialisation.items() if name not in ("stated", "given")}
    named = "".join(f", {name} {value:g}" for name, value in kept.items())
    if initialisation.get("given"):
        return f"{named} (by --init-range)"
    unstated = initialisation.get("stated") is False
    return f"{named} (a default: config.json does not state it, and Diff-eRank depends on it)" if unstated else named


def _tasks(results: Sequence[DiffResult]) -> list[str]:
    return list(dict.fromkeys(task for result in results for task in result.accuracy))


def _accuracy(result: DiffResult, task: str) -> float:
    return result.accuracy[task].value if task in result.accuracy else math.nan


def _number(value: float, decimals: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"
