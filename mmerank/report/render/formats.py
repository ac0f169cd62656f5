"""Tables -> CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap

import pandas as pd

from mmerank.report.figures.style import shortened
from mmerank.report.printed import Cell, Listed, Printed

# What fits on a page; a longer table goes on in another one.
_MOST_LINES = 46
_HEAD_WIDTH = 11  # characters, unless a word is longer
# What begins a formula in a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"$^\dagger$",
    "≥": r"$\geq$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",  # else a dash
    "\N{MINUS SIGN}": "$-$",
    "Δ": r"$\Delta$",
    "\N{GREEK SMALL LETTER RHO}": r"$\rho$",
    "…": r"\ldots{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}


def csv(table: pd.DataFrame) -> str:
    """A table as CSV, with nothing that a spreadsheet would run.

    Args:
        table: Numbers and text.

    Returns:
        Lines; text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    text = table.select_dtypes(exclude="number").columns
    return table.assign(**{name: table[name].map(_inert) for name in text}).to_csv(index=False)


def markdown(table: Printed) -> str:
    """A table in GitHub's Markdown.

    Args:
        table: From `printed_tables`.

    Returns:
        Text that ends in a line break.
    """
    lines = [
        [*table.names, "n", *map(_markdown_head, table.heads)],
        [*["---"] * len(table.names), *["---:"] * (1 + len(table.heads))],
    ]
    for names, n, cells in table.rows:
        lines.append([*(_markdown(name) for name in names), str(n), *map(_markdown_cell, cells)])
        if any(cell.paper for cell in cells):
            lines.append([*[""] * (len(names) - 1), "*paper*", "", *(cell.paper for cell in cells)])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {_markdown_head(table.title)}\n\n{rows}\n\n{table.legend}\n"


def markdown_list(table: Listed) -> str:
    """The same of a table of finished cells.

    Args:
        table: Any.

    Returns:
        Text that ends in a line break.
    """
    lines = [
        [*table.names, *map(_markdown_head, table.heads)],
        [*["---"] * len(table.names), *["---:"] * len(table.heads)],
    ]
    lines += [[*map(_markdown, names), *cells] for names, cells in table.rows]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {_markdown_head(table.title)}\n\n{rows}\n" + (f"\n{table.legend}\n" if table.legend else "")


def latex(table: Printed, *, caption: str = "", label: str = "", wide: bool = True) -> str:
    r"""A table in LaTeX, for the packages booktabs and graphicx; intervals stand below the numbers.

    Args:
        table: From `printed_tables`.
        caption: Plain text in place of the title and of what its marks mean, which is then a comment above.
        label: For `\ref`; empty for none.
        wide: Whether it goes over both columns, `table*`, or stands in one, `table`.

    Returns:
        As many environments as it takes.
    """
    blocks = []
    for names, n, cells in table.rows:
        block = [[*_latex_names(names), str(n), *map(_latex_cell, cells)]]
        below = {
            "": [_small(cell.interval) for cell in cells],
            "change": [_latex(cell.change) for cell in cells],
            " ": [_small(cell.change_interval) for cell in cells],
            "q": [_small(cell.change_q) for cell in cells],
            "paper": [_latex(cell.paper) for cell in cells],
        }
        for name, line in below.items():
            if any(line):
                block.append([*[""] * (len(names) - 1), rf"\quad {name}".rstrip(), "", *line])
        blocks.append(block)
    heads = [*table.names, "n", *(rf"\shortstack[r]{{{_stacked(head)}}}" for head in table.heads)]
    above = (caption, table.legend) if caption else (f"{table.title}; {table.legend}.", "")
    return _tables(heads, len(table.names), blocks, *above, label, "table*" if wide else "table")


def latex_list(table: Listed, *, caption: str = "", label: str = "", wide: bool = True) -> str:
    r"""The same of a table of finished cells.

    Args:
        table: Any.
        caption: Plain text in place of the title.
        label: For `\ref`; empty for none.
        wide: Whether it goes over both columns, `table*`, or stands in one, `table`.

    Returns:
        As many environments as it takes.
    """
    blocks = [[[*_latex_names(names), *map(_latex, cells)]] for names, cells in table.rows]
    heads = [*table.names, *map(_latex, table.heads)]
    above = (caption, table.legend) if caption else (". ".join(filter(None, (table.title, table.legend))) + ".", "")
    return _tables(heads, len(table.names), blocks, *above, label, "table*" if wide else "table")


def _tables(
    heads: Sequence[str],
    named: int,
    blocks: Sequence[Sequence[Sequence[str]]],
    caption: str,
    note: str,
    label: str,
    environment: str,
) -> str:
    """Lines that belong together stay together; a table that is too long for a page goes on in another one."""
    caption = " ".join(caption.split())  # which may be no more than one paragraph
    pages: list[list[str]] = [[]]
    above: list[str] = []
    for first, *below in blocks:
        if pages[-1] and len(pages[-1]) + 1 + len(below) > _MOST_LINES:
            pages.append([])
            above = []
        names = list(first[:named])
        # What stands above already is left out, up to the first name that differs.
        fresh = ["" if names[: i + 1] == above[: i + 1] else name for i, name in enumerate(names)]
        above = names
        space = [r"\addlinespace"] if below and pages[-1] else []
        block = [[*fresh, *first[named:]], *below]
        pages[-1] += [*space, *(" & ".join(line) + r" \\" for line in block)]
    written = []
    for i, lines in enumerate(pages):
        written += [
            "% needs \\usepackage{booktabs,graphicx}",
            *([f"% {note}"] if note and i == 0 else []),
            rf"\begin{{{environment}}}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * named}{'r' * (len(heads) - named)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\caption{{{_latex(caption) if i == 0 else 'Continued'}}}",
            *([rf"\label{{{label}}}"] if label and i == 0 else []),
            rf"\end{{{environment}}}",
            "",
        ]
    return "\n".join(written)


def _inert(value: object) -> object:
    """Text that no spreadsheet computes; a number written as text stays."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _latex_names(names: Sequence[str]) -> list[str]:
    return [_begun(_latex(shortened(name))) for name in names]


def _begun(line: str) -> str:
    """Where a line begins with a bracket, the line break before it takes what follows for a length."""
    return line.replace("[", "{[}")


def _small(text: str) -> str:
    return rf"{{\scriptsize {_latex(text)}}}" if text else ""


def _stacked(head: str) -> str:
    return r" \\ ".join(_begun(_latex(line)) for line in wrap(head, _HEAD_WIDTH, break_long_words=False))


def _latex_cell(cell: Cell) -> str:
    value = _latex(cell.value)
    bold = rf"\textbf{{{value}}}" if cell.mark == "best" else value
    return bold + (r"$^\dagger$" if cell.mark == "tied" else "")


def _latex(text: str) -> str:
    # Of two hyphens LaTeX makes a dash.
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(sign, sign) for sign in text))


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.mark == "best" else cell.value + ("†" if cell.mark == "tied" else "")
    change = " ".join(filter(None, (cell.change.replace("*", "\\*"), cell.change_interval)))
    q = f", q {cell.change_q}" if cell.change_q else ""
    return " ".join(filter(None, (value, f"({change}{q})" if change else "", cell.interval)))


def _markdown_head(text: str) -> str:
    """The same of a head, as `d_z`: nothing is emphasised within a word."""
    return _markdown(text, "\\`*|<>[]")


def _markdown(text: str, signs: str = "\\`*_|<>[]") -> str:
    """One line, with nothing that a renderer would take for markup."""
    line = " ".join(text.split())
    for sign in signs:
        line = line.replace(sign, f"\\{sign}")
    return line
