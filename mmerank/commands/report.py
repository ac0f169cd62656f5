"""`mmerank report`."""

from __future__ import annotations

import typer

from mmerank.commands import options
from mmerank.commands.results import given_names


def report(
    runs: options.Runs,
    *,
    out: options.ReportOut = None,
    scores: options.Scores = [],  # noqa: B006
    scatter: options.Scatter = [],  # noqa: B006
    name: options.ReportNames = [],  # noqa: B006 (typer takes no tuple)
    html: options.Html = False,
    latex: options.Latex = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
    style: options.FigureStyle = "paper",
    with_data: options.WithData = False,
    debug: options.Debug = False,
) -> None:
    """Tables, figures and one HTML page from finished runs, without the models."""
    from mmerank.report.folders import run_folders

    folders = run_folders(runs)  # what is not there is told before anything heavy is imported

    from rich.console import Console

    from mmerank.report.write import report as write

    names = given_names(name)
    asked = {"html": html, "latex": latex, "csv": csv, "markdown": markdown}
    with Console(stderr=True).status("reading runs, drawing and writing"):  # shown in a terminal only
        formats = [name for name, wanted in asked.items() if wanted]
        # Without --out what was named decides where to, or that it cannot be told; else it is not looked for again.
        written = write(
            runs if out is None else folders,
            out,
            formats=formats,
            with_data=with_data,
            names=names,
            scores=scores,
            scatter=scatter,
            style=style,
        )
    for path in written:
        typer.echo(path)
