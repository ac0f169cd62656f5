"""Write a report: CSV, Markdown, LaTeX, figures, and the page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmerank.analysis.finished import read_runs
from mmerank.analysis.scores.read import read_scores
from mmerank.durable import own_folder, whole
from mmerank.errors import UsageError
from mmerank.files import require_local
from mmerank.report.agreement import agreement
from mmerank.report.examples import by_example
from mmerank.report.figures.glyphs import missing_letters_said_once
from mmerank.report.figures.numbers import drawings
from mmerank.report.figures.scores import score_figures
from mmerank.report.figures.style import EXPORTED, save, styled
from mmerank.report.folders import run_folders
from mmerank.report.numbers import all_numbers, placed
from mmerank.report.overview import overviews, ratios_of_many
from mmerank.report.render.formats import csv, latex, latex_list, markdown, markdown_list
from mmerank.report.render.html import page
from mmerank.report.scatter import scatter_drawing
from mmerank.report.score_tables import beside_table, score_tables
from mmerank.report.tables import lists, printed_tables
from mmerank.runs.fetched import is_on_hub

FORMATS = ("html", "latex", "csv", "markdown")


def report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    formats: Collection[str] = (),
    with_data: bool = False,
    names: Mapping[str, str] | None = None,
    scores: Sequence[str | Path] = (),
    scatter: Sequence[str] = (),
    style: str = EXPORTED[0],
) -> list[Path]:
    """Write tables, figures and one HTML page of finished runs, from their folders alone.

    Args:
        runs: Run folders, of any kinds, folders of run folders, and `hub:OWNER/NAME[/RUN][@REVISION]`.
        out: Where to. Default: `report` in the folder, if one is named.
        formats: Any of `html`, `latex`, `csv`, `markdown`. Default: all of them, and every figure as PDF and PNG.
        with_data: Read the data that a run names again wherever they lie, for texts and pictures on the page. Without
            it only those below the run's folder or the current one are.
        names: What to call models. Default: the names that they were given when they were measured, or their own.
        scores: Files of the models' scores on benchmarks, or folders of such, which every number is set against: see
            `mmerank.analysis.scores.read.read_scores`.
        scatter: Two numbers, as `summary()` names them, or scores, as `erank5,POPE`; for each a figure of the models.
        style: How figures are drawn that are written as files: `paper`, as wide as one column or two, or `slides`.

    Returns:
        What was written.

    Raises:
        DataError: Scores cannot be read, or none is of a model of the runs.
        RunFolderError: A folder is not a run's, has no records, or they are damaged.
        TypeError: `runs` is no list of paths.
        UsageError: There is no run, no such format, model, number or style, several folders or one on the hub are
            named and no `out`, or it cannot be written to.
    """
    require_local(out, "--out")
    folders = run_folders(runs)
    if not folders:
        raise UsageError("expected at least one run folder")
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UsageError(f"unknown format {unknown[0]!r}; known: {', '.join(FORMATS)}")
    if style not in EXPORTED:
        raise UsageError(f"unknown style {style!r}; known: {', '.join(EXPORTED)}")
    if out is None and len(runs) > 1:
        raise UsageError("of several runs, name the folder to write to: --out DIR")
    if out is None and is_on_hub(runs[0]):
        raise UsageError(f"{runs[0]}: of a run on the hub, name the folder to write to: --out DIR")
    read = [
        replace(run, names={**run.names, **{of: name for of, name in (names or {}).items() if of in run.frames}})
        for run in read_runs(folders)
    ]
    if unknown := sorted(set(names or {}) - (models := {model for run in read for model in run.frames})):
        raise UsageError(f"names: no model {unknown[0]!r}; the runs have {', '.join(sorted(models))}")
    of_scores = read_scores(scores)
    numbers = all_numbers(read)
    agreed = agreement(read, numbers, of_scores) if of_scores else None
    asked = scatter or ratios_of_many(read, numbers)
    scattered = [scatter_drawing(f"scatter-{i + 1}", read, numbers, of_scores, two) for i, two in enumerate(asked)]
    folder = Path(out) if out is not None else Path(runs[0]) / "report"
    written: list[Path] = []

    def write(name: str, text: str) -> None:
        path = folder / name
        with _writable(path), whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="replace")
        written.append(path)

    with _writable(folder):
        if out is None:
            own_folder(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)

    wanted = formats or FORMATS
    tables = printed_tables(read, numbers)
    beside = [beside_table(agreed)] if agreed else []
    of_many, of_jobs = overviews(read, numbers), lists(read)
    listed = [*of_many.values(), *of_jobs.values(), *(score_tables(agreed) if agreed else [])]
    if "csv" in wanted:
        write("numbers.csv", csv(placed(read, numbers)))
        examples = [by_example(run).assign(run=run.name, job=run.job) for run in read]
        write("examples.csv", csv(pd.concat(examples, ignore_index=True)))
        if agreed:
            write("agreement.csv", csv(agreed.correlations))
            write("agreement_points.csv", csv(agreed.points.drop(columns="group")))
    if "markdown" in wanted:
        write("tables.md", "\n".join([*map(markdown, [*tables, *beside]), *map(markdown_list, listed)]))
    if "latex" in wanted:
        write("tables.tex", "\n".join([*map(latex, [*tables, *beside]), *map(latex_list, listed)]))
    if "html" in wanted:
        with missing_letters_said_once():
            drawn = [*scattered, *(score_figures(agreed) if agreed else ()), *drawings(read, numbers)]
            html = page(
                read,
                numbers,
                drawn,
                tables,
                overviews=of_many,
                lists=of_jobs,
                agreed=agreed,
                with_data=with_data,
            )
            write("report.html", html)
            if not formats:
                for drawing in drawn:
                    with _writable(folder / "figures"), styled(style):
                        written += save(drawing.figure(), folder / "figures" / drawing.name)
    return written


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written to ({error.strerror or error})") from None
