"""What every result can be turned into: a frame, Markdown, LaTeX, a figure, HTML in a notebook, a paragraph.

All of it is the report's, made of results in memory in place of run folders.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from mmerank.analysis.estimates import numbers_by_model
from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.errors import UsageError
from mmerank.processes import rank
from mmerank.runs.record import SCHEMA, Record, fields_for, table_of, to_frame

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmerank.report.figures.panels import Drawing
    from mmerank.report.printed import Listed, Printed

Names = Mapping[str, str] | None
Columns = Sequence[str] | None

_LABEL = re.compile(r"[\w:./+ -]*", re.ASCII)
_SHOWN = ("quantity", "value", "low", "high", "n", "point", "input", "mean_rows")
_CHANGES = ("change", "change_low", "change_high", "change_q")
_WITHOUT_SPECTRUM = SCHEMA.remove(SCHEMA.get_field_index("spectrum"))


def check_names(names: object) -> None:
    """Refuse what does not say what to call whom.

    Args:
        names: What was given.

    Raises:
        TypeError: It is no dictionary of text.
    """
    told = isinstance(names, Mapping) and all(isinstance(of, str) for of in (*names, *names.values()))
    if names is not None and not told:
        raise TypeError(f"names: expected a dictionary, what is shown to what to call it, got {names!r:.100}")


def drawn_into(ax: Axes | None, draw: Callable[[Axes], None]) -> Axes:
    """Draw into axes of a person's own, or into new ones.

    Args:
        ax: Where to. Default: new ones, of pyplot.
        draw: Draws.

    Returns:
        The axes.

    Raises:
        TypeError: `ax` is something else, as a figure, or several.
    """
    from matplotlib.axes import Axes

    from mmerank.report.figures.style import styled

    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax: expected matplotlib's Axes, one of them, got {type(ax).__name__}")
    with styled():
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(figsize=(5.4, 3.2), layout="constrained")
        draw(ax)
    return ax


class Shown(ABC):
    """What can be shown as tables and as a figure."""

    @abstractmethod
    def summary(self) -> pd.DataFrame:
        """A row for each quantity."""

    @abstractmethod
    def _tables(self, names: Names, columns: Columns) -> Sequence[Printed | Listed]:
        """The tables in the form that every renderer takes."""

    @abstractmethod
    def _draw(self, axes: Axes) -> None:
        """Draw the main figure."""

    def _drawings(self) -> dict[str, Drawing]:
        """The figures that there are beside the main one."""
        return {}

    @abstractmethod
    def _in_short(self) -> Mapping[str, Any]:
        """What `repr` tells."""

    def to_markdown(self, *, names: Names = None, columns: Columns = None) -> str:
        """The numbers as a table in GitHub's Markdown.

        Args:
            names: What to call models, data sets, transforms and numbers, by what they are called.
            columns: Which numbers, as `summary()` names them, or metrics for all of theirs. Default: the main ones.

        Returns:
            Text that ends in a line break.

        Raises:
            TypeError: `names` or `columns` is of another type.
            UsageError: There is no such number, or nothing is called so.
        """
        from mmerank.report.printed import Printed
        from mmerank.report.render.formats import markdown, markdown_list

        tables = self._checked_tables(names, columns)
        return "\n".join(markdown(of) if isinstance(of, Printed) else markdown_list(of) for of in tables)

    def to_latex(
        self,
        *,
        label: str = "",
        caption: str = "",
        names: Names = None,
        columns: Columns = None,
        wide: bool = True,
    ) -> str:
        r"""The numbers as a table in LaTeX, for the packages booktabs and graphicx.

        Args:
            label: For `\ref`; of a second table with `-2` behind it.
            caption: Plain text, which is escaped. Default: the title, and what marks and brackets mean.
            names: As for `to_markdown`.
            columns: As for `to_markdown`.
            wide: Whether tables go over both columns of a page, `table*`, or stand in one, `table`.

        Returns:
            `table*` or `table` environments.

        Raises:
            TypeError: As of `to_markdown`.
            UsageError: As there; or `label` has a character that LaTeX does not take.
        """
        from mmerank.report.printed import Printed
        from mmerank.report.render.formats import latex, latex_list

        if not _LABEL.fullmatch(label):
            raise UsageError(f"label: expected letters, digits and any of :./+-_ , got {label!r}")
        found = []
        for i, of in enumerate(self._checked_tables(names, columns)):
            name = label and label + (f"-{i + 1}" if i else "")
            told: Any = {"wide": wide, "label": name, "caption": "" if i else caption}
            found.append(latex(of, **told) if isinstance(of, Printed) else latex_list(of, **told))
        return "\n".join(found)

    def plot(self, ax: Axes | None = None, figure: str = "", *, of: str = "") -> Axes:
        """Draw a figure: numbers by stage or layer, or what was changed, with intervals; or another of the report's.

        Args:
            ax: Where to. Default: new ones, of pyplot.
            figure: Which of `figures`, as `ratios`, `changes`, `layers` or `spectra`. Default: the main one.
            of: Which panel, where a figure has several: a model, a stage, a data set, as its title has it.

        Returns:
            The axes.

        Raises:
            TypeError: `ax` is something else, as a figure, or several.
            UsageError: There is no such figure or panel, or the figure has several panels and none is named.
        """
        from mmerank.report.figures.panels import chosen

        if not figure:
            if of:
                raise UsageError("of: names a panel of a figure; name the figure, too")
            return drawn_into(ax, self._draw)
        drawing = chosen(self._drawings(), figure)
        return drawn_into(ax, lambda axes: drawing.draw(axes, of))

    def figures(self, style: str = "paper") -> dict[str, Figure]:
        """Every figure of the report that there are numbers for, whole.

        Args:
            style: `paper`, as wide as one column or two; `slides`; or `page`.

        Returns:
            Figures of matplotlib by their names in the report; `savefig` keeps fonts as text.

        Raises:
            UsageError: There is no such style.
        """
        from mmerank.report.figures.style import STYLES, styled

        if style not in STYLES:
            raise UsageError(f"unknown style {style!r}; known: {', '.join(STYLES)}")
        with styled(style):
            return {name: drawing.figure() for name, drawing in self._drawings().items()}

    def _checked_tables(self, names: Names, columns: Columns) -> Sequence[Printed | Listed]:
        check_names(names)
        if isinstance(columns, str):
            raise TypeError(f"columns: expected a list, got the text {columns!r}; write [{columns!r}]")
        if columns is not None and not columns:
            raise UsageError("columns: expected at least one number, as summary() names them")
        return self._tables(names, columns)

    def _repr_html_(self) -> str:
        from mmerank.report.render.html import fragment

        return fragment(self._tables(None, None))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._in_short().items())})"


class Result(Shown):
    """What is made of records, as a run folder is."""

    # What is shown for models, data sets, transforms and numbers.
    _names: Mapping[str, str] = MappingProxyType({})

    @property
    @abstractmethod
    def _runs(self) -> list[Finished]:
        """The result as a run folder would hold it; several of them."""

    def track(self, tracker: str | GeneralTracker, *, project: str = "mmerank", folder: str = "tracking") -> None:
        """Log every number, with its interval, to an experiment tracker, through accelerate's.

        A model is a run of the tracker; checkpoints of one training, as their names tell, are steps of one. Several
        processes log nothing but the first.

        Args:
            tracker: `wandb`, `tensorboard`, `trackio` or `swanlab`, or an `accelerate.tracking.GeneralTracker`.
            project: By which runs stand together.
            folder: For `tensorboard`, which writes files.

        Raises:
            TypeError: It is neither a name nor a tracker.
            UsageError: The tracker is unknown or not installed.
        """
        from mmerank.jobs.tracking import track

        if not isinstance(tracker, str) and not hasattr(tracker, "store_init_configuration"):
            raise TypeError(f"tracker: expected a name, as 'wandb', or a tracker of accelerate, got {tracker!r:.100}")
        if rank().leads:
            track(self._runs, tracker, project=project, folder=folder)

    def estimates(self) -> pd.DataFrame:
        """Every number with its interval; columns as of `mmerank.estimates`."""
        return pd.concat([run.estimates for run in self._runs], ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """A row for each number.

        Returns:
            `quantity`, `value`, `low` and `high` (its interval), `n` (examples), `point` and `input` (where it is
            read), `mean_rows` (behind it, which an eRank cannot exceed; of `match_tokens` as many as were drawn). Of
            several models `model` stands before, of a perturbation `transform` and behind it the change from the base
            with its interval and q.
        """
        from mmerank.report.names import data_names
        from mmerank.report.numbers import all_numbers, placed

        runs = self._runs
        table = placed(runs, all_numbers(runs))
        given = {model: name for run in runs for model, name in run.names.items()}
        table["model"] = [given.get(model, model) for model in table["model"]]
        short = data_names(run.data for run in runs)
        table["data"] = [self._names.get(of, self._names.get(short[of], of)) for of in table["data"]]
        table["transform"] = [self._names.get(of, of) for of in table["transform"]]
        perturbed = any(run.perturbed for run in runs)
        several = sum(len(run.frames) for run in runs) > 1
        first = (["data", "model"] if several else []) + (["transform"] if perturbed else [])
        return table[[*first, *_SHOWN, *(_CHANGES if perturbed else ())]]

    def how_to_report(self) -> str:
        """A paragraph to report the numbers with: n, convention, rows, intervals and nulls."""
        from mmerank.report.how_to import how_to_report

        return "\n\n".join(paragraph for run in self._runs for paragraph in how_to_report(run))

    def _tables(self, names: Names, columns: Columns) -> Sequence[Printed | Listed]:
        from mmerank.report.names import check_nameable, data_names, nameable
        from mmerank.report.numbers import all_numbers
        from mmerank.report.printed import renamed
        from mmerank.report.tables import chosen_tables

        names = {**self._names, **(names or {})}
        runs = self._runs
        if names:
            check_nameable(names, nameable(runs))
        # Of data sets the whole arguments may be named; tables have them in short.
        names |= {short: names[data] for data, short in data_names(run.data for run in runs).items() if data in names}
        runs = [
            replace(run, names={**run.names, **{of: name for of, name in names.items() if of in run.frames}})
            for run in runs
        ]
        return [renamed(table, names) for table in chosen_tables(runs, all_numbers(runs), columns)]

    def _drawings(self) -> dict[str, Drawing]:
        from mmerank.report.figures.numbers import drawings
        from mmerank.report.numbers import all_numbers

        runs = self._runs
        numbers = all_numbers(runs).replace({"transform": dict(self._names)})
        return {drawing.name: drawing for drawing in drawings(runs, numbers)}

    def _draw(self, axes: Axes) -> None:
        from mmerank.report.figures.main import draw_main
        from mmerank.report.names import model_names
        from mmerank.report.numbers import all_numbers

        runs = self._runs
        numbers = all_numbers(runs).replace({"transform": dict(self._names)})
        draw_main(axes, runs, numbers, model_names(runs))


def as_run(job: str, of: Any, records: Sequence[Record], **beside: Any) -> Finished:
    """A result as its run folder would hold it.

    Args:
        job: Which made it.
        of: The result; of a perturbation the base.
        records: All of its records.
        beside: What else a report reads of its `summary.json`.

    Returns:
        The run, which has no folder.
    """
    frame = to_frame(records, spectrum=False)
    frames = {of.model: frame}
    assert all(name == of.model or str(name).startswith(TWIN) for name in frame["model"].unique())
    return Finished(
        name="result",
        path=Path(),
        job=job,
        settings={
            # By its name alone: records know what texts and pictures they are of.
            "data": {"name": of.data, "fingerprint": of.data, "limit": of.limit, "seed": of.seed},
            "convention": of.convention.to_dict(),
            "models": {of.model: of.source},
            "versions": of.versions,
            "job": job,
        },
        results={
            of.model: {
                "model": of.model,
                "n": of.n,
                "skipped": [{"id": entry.id, "reason": entry.reason} for entry in of.skipped],
                **beside,
            }
        },
        table=table_of(records, pa.schema([*_WITHOUT_SPECTRUM, *fields_for(records)])),
        frames=frames,
        estimates=numbers_by_model(frames, of.convention.aggregate, of.bootstrap),
        names={of.model: of.name} if of.name else {},
        bootstrap=of.bootstrap,
        records=tuple(records),
    )
