"""Runs -> one HTML page that needs nothing else: no request, no library, and no text of the data that could run."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mmerank import __version__
from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.known import quantity
from mmerank.report.agreement import Agreement
from mmerank.report.agreement_words import paragraph
from mmerank.report.cautions import cautions, mean_tokens
from mmerank.report.elsewhere import elsewhere
from mmerank.report.examples import by_example, cut, extremes, id_shown, text_of
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.style import styled, svg
from mmerank.report.glossary import terms_of
from mmerank.report.how_to import how_to_report
from mmerank.report.maps import maps
from mmerank.report.names import data_names, model_names
from mmerank.report.numbers import skipped
from mmerank.report.printed import Listed, Printed
from mmerank.report.readings import readings
from mmerank.report.reopened import find_examples
from mmerank.report.score_tables import beside_table, score_tables
from mmerank.runs.jobs import CHANGE, JOBS

# Rows of the table of examples, over all runs; the rest is in examples.csv.
MOST_ROWS = 8000
_DIGITS = 5
# A figure that is wider takes the whole width of the page.
_HALF_INCHES = 7.5
# Styles of the figures of a page: where there is room, and where there is not.
PLACES = ("page", "phone")
_LISTED = 6  # entries of a list
_CODE = re.compile(r"`([^`]+)`")


def page(
    runs: Sequence[Finished],
    numbers: pd.DataFrame,
    drawings: Sequence[Drawing],
    tables: Sequence[Printed],
    *,
    overviews: Mapping[str, Listed],
    lists: Mapping[str, Listed],
    agreed: Agreement | None = None,
    with_data: bool = False,
) -> str:
    """The page.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.
        drawings: The figures, each of which is there as wide as a page and as a phone.
        tables: From `mmerank.report.tables.printed_tables`.
        overviews: From `mmerank.report.overview.overviews`.
        lists: From `mmerank.report.tables.lists`.
        agreed: Numbers against scores, where there are scores.
        with_data: As for `mmerank.report.reopened.find_examples`.

    Returns:
        HTML.
    """
    script = files("mmerank.report").joinpath("page/report.js").read_text()
    share = MOST_ROWS // len(runs)
    called, data = model_names(runs), data_names(run.data for run in runs)
    views = [_view(run, share, called, data[run.data], with_data) for run in runs]
    return (
        environment()
        .get_template("report.html")
        .render(
            version=__version__,
            style=files("mmerank.report").joinpath("page/report.css").read_text(),
            script=script,
            # Only this script may run, whatever else a page could be made to hold.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            runs=views,
            extremes=[view for view in views if any(group for _, group in view["groups"])],
            mapped=[view for view in views if view["maps"]],
            tables=[_headlines_first(table) for table in tables],
            lists=lists,
            overviews=overviews,
            drawings=[_drawn(drawing) for drawing in drawings],
            beside=beside_table(agreed) if agreed else None,
            scores=score_tables(agreed) if agreed else [],
            readings=readings(runs, numbers),
            glossary=terms_of({run.job for run in runs}),
            cautions=[*(agreed.cautions if agreed else ()), *cautions(runs)],
            paragraphs=[
                *(of for run in runs for of in how_to_report(run)),
                *filter(None, [paragraph(agreed.correlations) if agreed else ""]),
            ],
            examples=[view["examples"] for view in views],
        )
    )


def _drawn(drawing: Drawing) -> tuple[str, list[tuple[str, str]], bool]:
    """Caption, the figure for each place, and whether it takes the whole width of a page."""
    found, broad = [], False
    for place in PLACES:
        with styled(place):
            figure = drawing.figure()
            found.append((place, svg(figure, f"{drawing.name}-{place}")))
        broad = broad or figure.get_figwidth() > _HALF_INCHES
    return drawing.caption, found, broad


def fragment(tables: Sequence[Printed | Listed]) -> str:
    """Tables as a notebook shows them.

    Args:
        tables: Any.

    Returns:
        HTML that fits into a page.
    """
    module: Any = environment().get_template("tables.html").module
    style = (
        ".mmerank small { display: block; opacity: 0.7 } .mmerank th.name { text-align: left } "
        ".mmerank td { text-align: right; vertical-align: top }"
    )
    parts = []
    for table in tables:
        title = ", ".join((table.title, *(table.shared if isinstance(table, Printed) else ())))
        grid = module.grid(table) if isinstance(table, Printed) else module.listed(table)
        parts.append(f"<p><strong>{escape(title)}</strong></p>\n{grid}")
    return f'<div class="mmerank"><style>{style}</style>\n{"".join(parts)}</div>'


def _headlines_first(table: Printed) -> Printed:
    """On a page the first columns are those that are seen."""
    main = [quantity(name).label for name in JOBS[table.job].told]
    order = sorted(range(len(table.heads)), key=lambda i: (*main, table.heads[i]).index(table.heads[i]))
    rows = tuple((names, n, tuple(cells[i] for i in order)) for names, n, cells in table.rows)
    return replace(table, heads=tuple(table.heads[i] for i in order), rows=rows)


@cache
def environment() -> Environment:
    """Where the templates of pages are, which escape what they are given."""
    made = Environment(
        loader=PackageLoader("mmerank.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["coded"] = _coded
    return made


def _coded(text: str) -> Markup:
    """What stands between backticks as code; all else as the text it is."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _view(
    run: Finished, most_rows: int, called: dict[tuple[str, str], str], data: str, with_data: bool
) -> dict[str, Any]:
    table = by_example(run)
    table["model"] = [called[run.name, model] for model in table["model"]]
    found, missing = find_examples(run, with_data=with_data)
    highest, lowest = extremes(run, table, found)
    ranked = run.kind.ranked_by
    left_out = _left_out(run, called)
    return {
        "name": run.name,
        "perturbed": run.perturbed,
        "data": run.data,
        "short_data": data,
        "settings": _flat({k: v for k, v in run.settings.items() if k not in ("models", "versions", "convention")}),
        "convention": _flat(run.convention),
        "versions": _flat(run.settings.get("versions", {})),
        "models": [(model, run.n(model), _flat(run.source(model)), mean_tokens(run, model)) for model in run.frames],
        "called": [(f"{called[run.name, model]}", run.n(model)) for model in run.frames],
        "skipped": left_out,
        "missing": missing,
        "elsewhere": elsewhere(run),
        "finished": bool(run.results),
        "ranked": label_of(ranked),
        "ranked_by": ranked,
        "groups": [("Highest", highest), ("Lowest", lowest)],
        "maps": maps(run, table, found, {model: name for (of, model), name in called.items() if of == run.name}),
        "heads": {name: head_of(name) for name in map(str, table.columns)},
        "shown": shown_value,
        "examples": _data(run, table, found, most_rows),
    }


def _left_out(run: Finished, called: dict[tuple[str, str], str]) -> list[tuple[str, str, str]]:
    """Models, id and reason; a model is named only where not all of them skipped the example for the same reason."""
    models: dict[tuple[str, str], list[str]] = {}
    for model, name, reason in skipped(run):
        models.setdefault((name, reason), []).append(called.get((run.name, model), model))
    count = len(run.results)
    return [
        ("all" if count == len(names) > 1 else ", ".join(names), id_shown(name), cut(reason))
        for (name, reason), names in models.items()
    ]


def _data(run: Finished, table: pd.DataFrame, found: dict[str, Any], most_rows: int) -> dict[str, Any]:
    """What the script makes a table of; each text is there once."""
    rows = table.head(most_rows)
    columns = [name for name in map(str, table.columns) if name != "id"]
    ids = list(dict.fromkeys(rows["id"]))
    place = {name: i for i, name in enumerate(ids)}
    return {
        "run": run.name,
        "total": len(table),
        "ids": [*map(id_shown, ids)],
        "texts": [text_of(found.get(name)) for name in ids] if found else [],
        "columns": [head_of(name) for name in columns],
        "decimals": [_decimals(name) for name in columns],
        "rows": [
            [place[row[0]], *map(_plain, row[1:])]
            for row in rows[["id", *columns]].itertuples(index=False, name=None)
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number == int(number) else float(f"{number:.{_DIGITS}g}")


def shown_value(name: str, value: float) -> str:
    """A number of an example, with its digits; a dash for none."""
    return f"{value:.{_decimals(name)}f}" if math.isfinite(value) else "-"


def head_of(name: str) -> str:
    """What a column of the examples' numbers is called."""
    return "mean |ΔH|" if name == CHANGE else quantity(name).head


def label_of(name: str) -> str:
    """What a number of an example is called where there is room."""
    return head_of(name) if name == CHANGE else quantity(name).label


def _decimals(name: str) -> int:
    return {"tokens": 0, CHANGE: 4}.get(name, quantity(name).decimals)


def _flat(settings: dict[str, Any], front: str = "") -> list[tuple[str, str]]:
    """Names and values; of what is nested, by path."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{front}{name}.")
        elif isinstance(value, list):
            more = f", … ({len(value)} in all)" if len(value) > _LISTED else ""
            found.append((f"{front}{name}", ", ".join(map(str, value[:_LISTED])) + more or "none"))
        else:
            found.append((f"{front}{name}", "none" if value is None else str(value)))
    return found
