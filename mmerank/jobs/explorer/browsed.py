"""A run folder, looked through: a table of its examples, and one of them in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmerank.analysis.finished import Finished, read_runs
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.row_map import row_maps
from mmerank.convention import Convention
from mmerank.errors import DataError, MmerankError, RunFolderError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import open_picture
from mmerank.report.examples import by_example, id_shown, text_of
from mmerank.report.explored import Alone, Side, alone_html, explored_html, message_html, picture_html
from mmerank.report.folders import run_folders
from mmerank.report.maps import maps_of
from mmerank.report.render.html import head_of, label_of, shown_value
from mmerank.report.reopened import find_examples
from mmerank.runs.parts import parts_by_example, records_in
from mmerank.runs.record import Record


class Browsed:
    """A run.

    Args:
        folder: What `--out` was given.
        with_data: Read the data that the run names wherever they lie, see
            `mmerank.report.reopened.find_examples`.

    Raises:
        RunFolderError: It is no run folder, or several.

    Attributes:
        table: A row per example, model and transform, numbers of the example alone.
        head: What is looked through.
    """

    def __init__(self, folder: str | Path, *, with_data: bool = False):
        folders = run_folders([folder])
        if len(folders) > 1:
            names = ", ".join(of.name for of in folders[:8])
            raise RunFolderError(f"{folder}: holds several runs ({names}); name one of them")
        (self._run,) = read_runs(folders)
        self._examples, self._missing = find_examples(self._run, with_data=with_data)
        self._parts = parts_by_example(self._run.path)
        self._full = by_example(self._run)
        shown = self._full.assign(id=self._full["id"].map(id_shown)).round(4)
        self.table = shown.rename(columns={name: head_of(name) for name in map(str, shown.columns)})

    @property
    def run(self) -> Finished:
        """What was read."""
        return self._run

    @property
    def head(self) -> str:
        """Name, models, data, and why texts and pictures are missing."""
        models = ", ".join(self._run.frames)
        missing = f" Without texts and pictures: {self._missing}." if self._missing else ""
        return f"Run {self._run.name}: {models} on {self._run.data}.{missing}"

    def looked_at(self, row: Sequence[object]) -> str:
        """One example in every model that has it, those of a transform beside the untouched picture.

        Args:
            row: Of `table`, whole.

        Returns:
            HTML.

        Raises:
            DataError: There is no such row.
        """
        given = dict(zip(self.table.columns, map(str, row), strict=False))
        transform = given.get("transform", "none")
        here = self._full[self.table["id"] == given.get("id")]
        if "transform" in here:
            here = here[here["transform"] == transform]
        if here.empty:
            raise DataError(f"no example {given.get('id')!r:.100} in this run")
        name = str(here["id"].iloc[0])
        example = self._examples.get(name)
        records = records_in(self._parts.get(name, ()), self._run.path, name)
        if not self._run.kind.of_pairs:
            return _picture(example) + alone_html([self._alone(row, records) for _, row in here.iterrows()], "run")
        sides = []
        for model in here["model"].unique():
            before = None if transform == "none" else self._result(model, records, "none")
            called = self._called(model) + ("" if before is None else f", {transform}")
            sides.append(Side(called, self._result(model, records, transform), before))
        mapped = None
        if transform == "none":
            of_models = [(self._called(model), row_maps(self._run.of(model), name)) for model in self._run.frames]
            mapped = maps_of(of_models, example, name)
        return _picture(example) + explored_html(sides, mapped, "run")

    def _called(self, model: str) -> str:
        return self._run.names.get(model, model)

    def _result(self, model: str, records: Sequence[Record], transform: str) -> AlignmentResult:
        return AlignmentResult.of(
            [of for of in records if (of.model, of.transform) == (model, transform)],
            [],
            model=model,
            data=self._run.data,
            convention=Convention(**self._run.convention),
            source=self._run.source(model),
            undefined=self._run.results.get(model, {}).get("undefined"),
        )

    def _alone(self, row: pd.Series[Any], records: Sequence[Record]) -> Alone:
        model, transform = str(row["model"]), str(row.get("transform", "none"))
        numbers = row.drop(["id", "model", "transform"], errors="ignore").dropna()
        twins = {of for of in self._run.frames[model]["model"].unique() if of.startswith(TWIN)}
        own = [of for of in records if of.model == model or of.model in twins]
        name = self._called(model) + ("" if transform == "none" else f", {transform}")
        return Alone(
            name,
            [(label_of(str(of)), shown_value(str(of), float(value))) for of, value in numbers.items()],
            [of for of in own if of.transform == transform],
            [of for of in own if of.transform == "none"] if transform != "none" else [],
            next((of.written for of in own if of.written), ""),
        )


def _picture(example: Example | None) -> str:
    if example is None or not example.pictures:
        return ""
    try:
        return picture_html(open_picture(example.pictures[0]), text_of(example))
    except (MmerankError, OSError) as error:
        return message_html(str(error))
