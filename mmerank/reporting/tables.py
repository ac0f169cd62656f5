"""Numbers -> tables as they are printed: Markdown, LaTeX, and the cells of the HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mmerank.eranks import LABELS
from mmerank.reporting.finished import JOBS, Finished
from mmerank.reporting.numbers import by_quantity
from mmerank.uncertainty import interval_text

HEADS = {
    **LABELS,
    "erank_untrained": "eRank untrained",
    "erank_trained": "eRank trained",
    "diff_erank": "Diff-eRank",
    "diff_erank_mean_of_eranks": "by mean of eRanks",
    "erank_ratio": "untrained / trained",
    "loss_trained": "loss",
    "reduced_loss": "reduced loss",
}
_FOUR = ("ratio", "alignment", "loss", "accuracy")
LEGEND = (
    "bold: highest, of losses lowest; †: not told from it (paired permutation test, q ≥ 0.05); in brackets: "
    "95 % intervals"
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"$^\dagger$",
    "≥": r"$\geq$",
    "\N{MINUS SIGN}": "$-$",
    "Δ": r"$\Delta$",
    "…": r"\ldots{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        value: As printed; empty where there is none.
        interval: `[low, high]`, or empty.
        paper: The paper's, or empty.
        mark: As in `mmerank.reporting.numbers.all_numbers`.
        change: From the base, of a transform, or empty.
    """

    value: str
    interval: str = ""
    paper: str = ""
    mark: str = ""
    change: str = ""


@dataclass(frozen=True)
class Printed:
    """A table as it is printed.

    Attributes:
        job: Of its runs.
        title: Above it.
        heads: Of the columns of numbers.
        rows: Names (data, model, and of a transform its name), number of examples, cells.
    """

    job: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], int, tuple[Cell, ...]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Heads of the columns of names."""
        return ("data", "model", "transform")[: len(self.rows[0][0])]

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints any of the numbers."""
        return any(cell.paper for _, _, cells in self.rows for cell in cells)

    @property
    def legend(self) -> str:
        """What its marks and brackets mean."""
        marked = any(cell.mark for _, _, cells in self.rows for cell in cells)
        return LEGEND if marked else LEGEND.rpartition("; ")[2]


def printed_tables(runs: Sequence[Finished], numbers: pd.DataFrame) -> list[Printed]:
    """A table for each kind of run: a row per data set and model, of a perturbation also per transform.

    Args:
        runs: At least one.
        numbers: From `mmerank.reporting.numbers.all_numbers`.

    Returns:
        The tables, in the order of `JOBS`.
    """
    named = model_names(runs)
    return [_printed(job, rows, named) for job in JOBS if len(rows := numbers[numbers["job"] == job])]


def model_names(runs: Sequence[Finished]) -> dict[tuple[str, str], str]:
    """What a model of a run is called where only models are named.

    Args:
        runs: At least one.

    Returns:
        By run and model: its last part where that tells it apart, and the run where the model occurs twice.
    """
    named = _names(runs)
    full = list(named.values())
    short = {name: name.rstrip("/").rsplit("/", 1)[-1] for name in full}
    last = [short[name] for name in dict.fromkeys(full)]
    return {key: short[name] if last.count(short[name]) == 1 else name for key, name in named.items()}


def short_data(data: str) -> str:
    """A DATA argument without the folders that it lies in, and without options.

    Args:
        data: As in `run.json`.

    Returns:
        As in `llava:detail_23k.json`.
    """
    form, colon, rest = data.partition(":")
    rest = rest.partition("?")[0].rstrip("/") if form != "hub" else rest
    path, hash_sign, field = rest.partition("#")
    return form + colon + (path if form == "hub" else path.rsplit("/", 1)[-1]) + hash_sign + field


def _names(runs: Sequence[Finished]) -> dict[tuple[str, str], str]:
    """By run and model: the model, with the run where the same model was measured twice on the same data."""
    keys = [(run.job, run.data, model) for run in runs for model in run.frames]
    return {
        (run.name, model): model if keys.count((run.job, run.data, model)) == 1 else f"{model} ({run.name})"
        for run in runs
        for model in run.frames
    }


def _printed(job: str, numbers: pd.DataFrame, named: dict[tuple[str, str], str]) -> Printed:
    here = numbers[numbers["point"].isin(["", "final"])]
    tasks = [name for name in here["quantity"].unique() if name.startswith("accuracy")]
    heads = [name for name in [*HEADS, *tasks] if name in set(here["quantity"])]
    rows = []
    for key, found in here.groupby(["data", "run", "model", "transform"], sort=False):
        data, run, model, transform = map(str, key)
        base = here[(here["run"] == run) & (here["model"] == model) & (here["transform"] == "none")]
        row, before = by_quantity(found), by_quantity(base) if transform != "none" else {}
        names = (short_data(data), named[run, model], *((_transform(transform),) if job == "perturb" else ()))
        cells = tuple(_cell(head, row.get(head), before.get(head)) for head in heads)
        rows.append((names, int(found["n"].iloc[0]), cells))
    return Printed(job, JOBS[job], tuple(HEADS.get(head, head) for head in heads), tuple(rows))


def _cell(quantity: str, found: dict[str, Any] | None, base: dict[str, Any] | None) -> Cell:
    if found is None or not math.isfinite(found["value"]):
        return Cell("")
    decimals = places(quantity)
    finite = math.isfinite(found["low"]) and math.isfinite(found["high"])
    change = "" if base is None else f"{round(found['value'] - base['value'], decimals) + 0.0:+.{decimals}f}"
    return Cell(
        f"{found['value']:.{decimals}f}",
        interval_text((found["low"], found["high"]) if finite else None, decimals),
        f"{found['paper']:.{decimals}f}" if math.isfinite(found["paper"]) else "",
        found["mark"],
        change.replace("-", "\N{MINUS SIGN}"),
    )


def places(quantity: str) -> int:
    """Decimals that a quantity is printed with."""
    return 4 if any(word in quantity for word in _FOUR) and quantity != "erank_ratio" else 2


def markdown(table: Printed) -> str:
    """A table in GitHub's Markdown.

    Args:
        table: From `printed_tables`.

    Returns:
        Text that ends in a line break.
    """
    lines = [[*table.names, "n", *table.heads], [*["---"] * len(table.names), *["---:"] * (1 + len(table.heads))]]
    for names, n, cells in table.rows:
        lines.append([*(_markdown(name) for name in names), str(n), *map(_markdown_cell, cells)])
        if any(cell.paper for cell in cells):
            lines.append([*[""] * (len(names) - 1), "*paper*", "", *(cell.paper for cell in cells)])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {table.title}\n\n{rows}\n\n{table.legend}\n"


def latex(table: Printed) -> str:
    """A table in LaTeX, for the packages booktabs and array; intervals stand below the numbers.

    Args:
        table: From `printed_tables`.

    Returns:
        A `table*` environment.
    """
    rows = []
    for names, n, cells in table.rows:
        rows.append([*map(_latex, names), str(n), *map(_latex_cell, cells)])
        below = {
            "": [rf"{{\scriptsize {_latex(cell.interval)}}}" if cell.interval else "" for cell in cells],
            "change": [_latex(cell.change) for cell in cells],
            "paper": [cell.paper for cell in cells],
        }
        for name, line in below.items():
            if any(line):
                rows.append([*[""] * (len(names) - 1), rf"\quad {name}" if name else "", "", *line])
    frame = pd.DataFrame(
        rows, columns=[*table.names, "n", *(rf"\shortstack[r]{{{_stacked(h)}}}" for h in table.heads)]
    )
    body = frame.to_latex(
        index=False, escape=False, column_format="l" * len(table.names) + "r" * (1 + len(table.heads))
    )
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            body.rstrip(),
            rf"\caption{{{_latex(table.title)}; {_latex(table.legend)}.}}",
            r"\end{table*}",
            "",
        ]
    )


def _stacked(head: str) -> str:
    return r" \\ ".join(map(_latex, head.split(" ")))


def _latex_cell(cell: Cell) -> str:
    bold = rf"\textbf{{{cell.value}}}" if cell.mark == "best" else cell.value
    return bold + (r"$^\dagger$" if cell.mark == "tied" else "")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.mark == "best" else cell.value + ("†" if cell.mark == "tied" else "")
    change = f"({cell.change})" if cell.change else ""
    return " ".join(filter(None, (value, change, cell.interval)))


def _markdown(text: str) -> str:
    """One line, with nothing that a renderer would take for markup."""
    line = " ".join(text.split())
    for sign in "\\`*_|<>[]":
        line = line.replace(sign, f"\\{sign}")
    return line


def _transform(name: str) -> str:
    return "base" if name == "none" else name
