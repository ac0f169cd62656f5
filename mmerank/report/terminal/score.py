"""Scores of models on benchmarks, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mmerank.analysis.comparison import MANY
from mmerank.analysis.results.answers import CIRCULAR, Share, as_asked
from mmerank.analysis.results.score import ScoreResult
from mmerank.report.terminal.parts import clean, short, skip_lines


def score_tables(results: Sequence[ScoreResult]) -> list[Table]:
    """The scores, a row for each model, or where there are many numbers for each of these.

    Args:
        results: Of one benchmark.

    Returns:
        One table, and of a few models one by category where the benchmark has several.
    """
    numbers = [dict(of.numbers) for of in results]
    tables = [_table(f"Scores on {results[0].benchmark}", results, numbers)]
    if any(of.categories for of in results) and len(results) <= MANY:
        title = "acc by category" if any(of.answers for of in results) else "By task"
        tables.append(_table(title, results, [dict(of.categories) for of in results], wide=False))
    return tables


def _table(
    title: str, results: Sequence[ScoreResult], numbers: Sequence[dict[str, Share]], *, wide: bool = True
) -> Table:
    called = [of.name or short(of.model) for of in results]
    names = list(dict.fromkeys(name for of in numbers for name in of))
    table = Table(title=Text(title), title_justify="left")
    table.add_column("", overflow="fold")
    by_model = wide and len(names) <= MANY
    for head in names if by_model else called:
        table.add_column(Text(head), justify="right", overflow="fold")
    if by_model:
        for model, of in zip(called, numbers, strict=True):
            table.add_row(Text(model), *(_said(of.get(name)) for name in names))
    else:
        for name in names:
            table.add_row(Text(name), *(_said(of.get(name)) for of in numbers))
    return table


def _said(share: Share | None) -> str:
    if share is None or not math.isfinite(share.value):
        return "-"
    return f"{share.value:.4f}" + (f"\n[{share.low:.3f}, {share.high:.3f}]" if math.isfinite(share.low) else "")


def score_notes(results: Sequence[ScoreResult]) -> list[str]:
    """What the numbers stand on, a line each.

    Args:
        results: As for `score_tables`.

    Returns:
        Lines.
    """
    lines = []
    for of in results:
        chance = f"; chance {of.chance:.3f}" if math.isfinite(of.chance) else ""
        asked = f", {of.convention['sequence']} sequences" if "sequence" in of.convention else ""
        pictures = {answer.group for answer in of.answers}
        about = f" about {len(pictures)} pictures" if pictures and len(pictures) < of.n else ""
        lines.append(f"{of.name or short(of.model)}: n = {of.n} questions{about}{chance}{asked}")
        lines += [*_cautions(of), *skip_lines(of.skipped)]
    if any(of.categories for of in results) and len(results) > MANY:
        lines.append("  numbers by category are in --json and summary.json")
    if any(of.answers for of in results):
        if circular := any(CIRCULAR in of.numbers for of in results):
            lines.append("  acc_circular, the score: right with each choice first in turn; the others as asked once")
        score = "acc" if circular else "acc, the score"
        lines.append(f"  {score}: the choice whose tokens are likeliest in sum; acc_norm: per character;")
        lines.append("  acc_token: per token. In brackets: 95 % intervals, Wilson's over pictures")
        if any("f1" in of.numbers for of in results):
            lines.append(
                "  f1, precision, recall: of Yes; yes_rate: how often it is answered; f1, precision by the bootstrap"
            )
    return [clean(line) for line in lines]


def _cautions(of: ScoreResult) -> list[str]:
    if not of.answers:
        return []
    found = []
    if of.score.low <= of.chance <= of.score.high:
        found.append("  its interval holds chance: nothing shows that it answers at all")
    if CIRCULAR not in of.numbers and of.constant > of.chance + 0.1:
        found.append(f"  always the same choice would score {of.constant:.3f}: the right ones are not mixed")
    if tied := sum(0 < answer.correct() < 1 for answer in as_asked(of.answers)):
        found.append(f"  right answers as likely as another: {tied}; each counts as a part of one")
    return found


def score_text(results: Sequence[ScoreResult]) -> str:
    """Tables and notes as text.

    Args:
        results: As for `score_tables`.

    Returns:
        Lines of at most 100 columns.
    """
    from rich.console import Console

    console = Console(width=100, no_color=True)
    with console.capture() as captured:
        for table in score_tables(results):
            console.print(table)
    return captured.get() + "\n".join(score_notes(results))
