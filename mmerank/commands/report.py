"""`mmerank report`."""

from __future__ import annotations

import typer

from mmerank import options


def report(
    runs: options.Runs,
    *,
    out: options.ReportOut = None,
    html: options.Html = False,
    latex: options.Latex = False,
    csv: options.Csv = False,
    markdown: options.Markdown = False,
    debug: options.Debug = False,
) -> None:
    """Tables, figures and one HTML page from finished runs, without the models."""
    from mmerank.reporting.write import report as write

    asked = {"html": html, "latex": latex, "csv": csv, "markdown": markdown}
    for path in write(runs, out, formats=[name for name, wanted in asked.items() if wanted]):
        typer.echo(path)
