"""A run folder as a report reads it: settings, what was skipped, records, and every number with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mmerank.analysis.diff_erank import TWIN
from mmerank.analysis.null import NullTest
from mmerank.analysis.paired import Comparison
from mmerank.analysis.perturbation import Null, against_nulls, paired_tests
from mmerank.analysis.rerun import estimates, run_records
from mmerank.analysis.tokens import MATCHED
from mmerank.errors import RunFolderError
from mmerank.parts import read_records
from mmerank.records import Record
from mmerank.run_files import read_settings, read_summary
from mmerank.steps import by_step

JOBS = {"align": "Image-text alignment", "perturb": "Before and after a change", "diff": "Diff-eRank"}


@dataclass(frozen=True)
class Finished:
    """What one run folder holds.

    Attributes:
        name: What it is called in the report.
        path: The folder.
        job: `align`, `perturb` or `diff`.
        settings: As in its `run.json`.
        results: By model, as in its `summary.json`, of a perturbation the base's; empty where the run was not
            finished.
        records: All of them.
        frames: Records by model, as from `mmerank.analysis.rerun.run_records`.
        estimates: As from `mmerank.analysis.rerun.estimates`.
    """

    name: str
    path: Path
    job: str
    settings: dict[str, Any]
    results: dict[str, dict[str, Any]]
    records: tuple[Record, ...]
    frames: dict[str, pd.DataFrame]
    estimates: pd.DataFrame

    @cached_property
    def tests(self) -> dict[str, dict[str, Comparison]]:
        """Of a perturbation: each transform minus the base, by model and transform."""
        by = self.convention["aggregate"]
        return {model: paired_tests(records, aggregate=by) for model, records in self.frames.items()}

    @cached_property
    def tests_matched(self) -> dict[str, dict[str, Comparison]]:
        """The same on equally many rows; no transform where they were not asked for, or no example has as many."""
        by = self.convention["aggregate"]
        if self.match_tokens is None:
            return {}
        return {model: paired_tests(records, aggregate=by, matched=True) for model, records in self.frames.items()}

    @property
    def match_tokens(self) -> int | None:
        """On how many rows each everything was measured too; None for no such numbers."""
        found: int | None = self.convention.get("match_tokens")
        return found

    @cached_property
    def nulls(self) -> dict[str, tuple[Null, ...]]:
        """Of a perturbation: what the numbers are of pictures with other texts, by model."""
        by = self.convention["aggregate"]
        return {model: against_nulls(records, aggregate=by) for model, records in self.frames.items()}

    @property
    def null_tests(self) -> list[tuple[str, str, NullTest]]:
        """Control, quantity and test of eRank5 and Image-Text Alignment against pictures with other texts."""
        if self.job != "perturb":
            return []
        nulls = [null for found in self.nulls.values() for null in found]
        return [(null.control, quantity, test) for null in nulls for quantity, test in null.tests.items()]

    @property
    def data(self) -> str:
        """The DATA argument."""
        return str(self.settings["data"]["name"])

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

    def of(self, model: str, transform: str = "none") -> list[Record]:
        """Records of one model under one transform.

        Args:
            model: Its name.
            transform: `none` for the untouched examples.

        Returns:
            The records.
        """
        return [record for record in self.records if record.model == model and record.transform == transform]

    def n(self, model: str) -> int:
        """Number of examples behind a model's numbers."""
        here = (self.estimates["model"] == model) & ~self.estimates["quantity"].str.startswith(MATCHED)
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
    summary = read_summary(path)
    results = [summary["base"]] if "base" in summary else summary.get("results", [])
    try:
        records = tuple(read_records(path))
        frames = run_records(path)
        if not frames:
            raise RunFolderError(f"{path}: has no records of a trained model yet")
        numbers = estimates(path)
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
        records=records,
        frames={model: frame for model, frame in frames.items() if not model.startswith(TWIN)},
        estimates=numbers,
    )
