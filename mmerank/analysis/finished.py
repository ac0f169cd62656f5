"""A run folder as a report reads it: settings, what was skipped, records, and every number with its interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mmerank.analysis.estimates import by_model, numbers_by_model
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.matched import matched_rows
from mmerank.analysis.metrics.pruning import Interaction, interactions
from mmerank.analysis.perturbation import Null, against_nulls, metric_tests, paired_tests
from mmerank.analysis.sample import Floats
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.null import NullTest
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.analysis.steps import by_step
from mmerank.errors import RunFolderError
from mmerank.formulas.asked import remember
from mmerank.runs.jobs import JOBS, Job
from mmerank.runs.parts import mean_spectra, means_of_spectra, read_whole
from mmerank.runs.record import Record, records_of
from mmerank.runs.settings import read_settings, read_summary, results_in


@dataclass(frozen=True)
class Finished:
    """What one run folder holds.

    Attributes:
        name: What it is called in the report.
        path: The folder.
        job: One of `mmerank.runs.jobs.JOBS`.
        settings: As in its `run.json`.
        results: By model, as in its `summary.json`, of a perturbation the base's; empty where the run was not
            finished.
        table: All records, without their spectra.
        frames: Records by model, as from `mmerank.analysis.estimates.run_records`.
        estimates: As from `mmerank.analysis.estimates.estimates`.
        names: What tables call models, where they were given a name.
        bootstrap: How its intervals are made.
        records: Of a result that is no folder's: its records, with their spectra.
    """

    name: str
    path: Path
    job: str
    settings: dict[str, Any]
    results: dict[str, dict[str, Any]]
    table: pa.Table
    frames: dict[str, pd.DataFrame]
    estimates: pd.DataFrame
    names: dict[str, str] = field(default_factory=dict)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    records: tuple[Record, ...] = ()

    @cached_property
    def tests(self) -> dict[str, dict[str, dict[str, ComparisonResult]]]:
        """Of a perturbation: each transform minus the base, by metric, model and transform.

        Of what a run was asked for, `q` is over all such metrics of a model together.
        """
        by = self.convention["aggregate"]
        how = self.bootstrap
        asked = {model: metric_tests(frame, aggregate=by, bootstrap=how) for model, frame in self.frames.items()}
        columns = {column for tests in asked.values() for column in tests}
        found = {
            of: {
                model: asked[model].get(of, {})
                if of in columns
                else paired_tests(frame, aggregate=by, bootstrap=how, of=of)
                for model, frame in self.frames.items()
            }
            for of in self.estimates["metric"].unique()
        }
        return {of: tests for of, tests in found.items() if any(tests.values())}

    @property
    def kind(self) -> Job:
        """What is known of every run of its job."""
        return JOBS[self.job]

    @property
    def perturbed(self) -> bool:
        """Whether it has numbers before and after a change."""
        return self.kind.perturbed

    @property
    def of_encoders(self) -> bool:
        """Whether it is of encoders alone."""
        return self.kind.of_encoders

    @property
    def match_tokens(self) -> int | None:
        """On how many rows each everything was measured too; None for no such numbers."""
        found: int | None = self.convention.get("match_tokens")
        return found

    @cached_property
    def nulls(self) -> dict[str, tuple[Null, ...]]:
        """Of a perturbation of pairs: what the numbers are of pictures with other texts, by model."""
        if not (self.perturbed and self.kind.of_pairs):
            return {}
        by = self.convention["aggregate"]
        return {model: against_nulls(records, aggregate=by) for model, records in self.frames.items()}

    @cached_property
    def nulls_matched(self) -> dict[str, tuple[Null, ...]]:
        """The same on equally many rows; nothing where an example has too few, since texts are dealt among all."""
        if self.match_tokens is None or not self.nulls:
            return {}
        by, found = self.convention["aggregate"], {}
        for model, records in self.frames.items():
            rows = matched_rows(records)
            there = [set(zip(of["transform"], of["example"], strict=True)) for of in (records, rows)]
            if there[0] == there[1]:
                found[model] = against_nulls(rows, aggregate=by)
        return found

    @cached_property
    def interactions(self) -> dict[str, tuple[Interaction, ...]]:
        """Of pictures with rows left out: whether what that does goes with a picture's eRank, by model."""
        if self.job != "prune-study":
            return {}
        return {model: interactions(records, self.bootstrap) for model, records in self.frames.items()}

    @property
    def null_tests(self) -> list[tuple[str, str, NullTest]]:
        """Control, quantity and test of eRank5 and Image-Text Alignment against pictures with other texts."""
        nulls = [null for found in self.nulls.values() for null in found]
        return [(null.control, quantity, test) for null in nulls for quantity, test in null.tests.items()]

    @property
    def data(self) -> str:
        """The DATA argument."""
        return str(self.settings["data"]["name"])

    @property
    def content(self) -> str:
        """What its data are known by."""
        return str(self.settings["data"].get("fingerprint"))

    @property
    def convention(self) -> dict[str, Any]:
        """The choices in force."""
        found: dict[str, Any] = self.settings["convention"]
        return found

    @property
    def transforms(self) -> list[str]:
        """Of a perturbation: those that were measured, without the base and the nulls."""
        return [name for name in self.estimates["transform"].unique() if name != "none"]

    def source(self, model: str) -> dict[str, Any]:
        """What a model was loaded from."""
        found: dict[str, Any] = self.settings["models"].get(model, {})
        return found

    @cached_property
    def _records(self) -> dict[tuple[str, str], list[Record]]:
        found: dict[tuple[str, str], list[Record]] = {}
        for record in records_of(self.table):
            found.setdefault((record.model, record.transform), []).append(record)
        return found

    def of(self, model: str, transform: str = "none") -> list[Record]:
        """Records of one model under one transform, without their spectra.

        Args:
            model: Its name.
            transform: `none` for the untouched examples.

        Returns:
            The records.
        """
        return self._records.get((model, transform), [])

    @cached_property
    def mean_spectra(self) -> dict[tuple[str, str, str], Floats]:
        """Mean spectrum of untouched examples by model, hook point and input; sums 1, (m,)."""
        if not self.records:
            return mean_spectra(self.path)
        untouched = (of for of in self.records if of.transform == "none" and len(of.spectrum))
        return means_of_spectra(((of.model, of.point, of.input), np.asarray(of.spectrum)) for of in untouched)

    def n(self, model: str) -> int:
        """Number of examples behind a model's numbers."""
        here = (self.estimates["model"] == model) & (self.estimates["metric"] == self.kind.metric)
        counts = self.estimates.loc[here, "n"]
        return int(counts.iloc[0]) if len(counts) else 0


def read_runs(paths: list[Path]) -> list[Finished]:
    """Run folders, each under a name of its own.

    Args:
        paths: At least one.

    Returns:
        The runs, in the order given; those of the checkpoints of one training in the order of their steps.

    Raises:
        RunFolderError: One is no run folder, has no records, or they are damaged.
    """
    paths = list({path.resolve(): path for path in paths}.values())
    names = [path.resolve().name for path in paths]
    runs = [
        _read(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)
    ]
    return by_step(runs, lambda run: next(iter(run.frames)))


def _read(path: Path, name: str) -> Finished:
    settings = read_settings(path, needs=("job", "data", "convention", "models"))
    if settings["job"] not in JOBS or "name" not in settings["data"]:
        raise RunFolderError(f"{path}: its run.json is not that of a run that can be reported ({settings['job']})")
    remember(settings)
    summary = read_summary(path)
    results = results_in(summary)
    try:
        table = read_whole(path, without=["spectrum"])
        frames = by_model(path, table, settings, summary)
        if not frames:
            raise RunFolderError(f"{path}: has no records of a model yet (of a trained one)")
        numbers = numbers_by_model(frames, settings["convention"]["aggregate"])
    except ValueError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path}: its records are not complete ({error}); continue the run first") from error
    return Finished(
        name=name,
        path=path,
        job=settings["job"],
        settings=settings,
        results={result["model"]: result for result in by_step(results, lambda result: str(result["model"]))},
        names={result["model"]: result["name"] for result in results if result.get("name")},
        table=table,
        frames={model: frame for model, frame in frames.items() if not model.startswith(TWIN)},
        estimates=numbers,
    )
