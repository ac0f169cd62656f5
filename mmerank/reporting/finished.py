"""A run folder as a report reads it: settings, what was skipped, records, and every number with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from mmerank.analysis.diff_erank import TWIN
from mmerank.analysis.null import NullTest
from mmerank.analysis.paired import Comparison
from mmerank.analysis.perturbation import Null, against_nulls, paired_tests
from mmerank.analysis.rerun import estimates, run_records
from mmerank.errors import RunFolderError
from mmerank.files import json_of
from mmerank.records import Record, read_parts

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
        counts = self.estimates.loc[self.estimates["model"] == model, "n"]
        return int(counts.iloc[0]) if len(counts) else 0


def read_runs(paths: list[Path]) -> list[Finished]:
    """Run folders, each under a name of its own.

    Args:
        paths: At least one.

    Returns:
        The runs, in the order given.

    Raises:
        RunFolderError: One is no run folder, has no records, or they are damaged.
    """
    paths = list({path.resolve(): path for path in paths}.values())
    names = [path.resolve().name for path in paths]
    return [
        _read(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)
    ]


def _read(path: Path, name: str) -> Finished:
    settings = _json(path / "run.json")
    if settings is None:
        raise RunFolderError(f"{path}: not a run folder (no run.json); name what --out was given")
    missing = [key for key in ("job", "data", "convention", "models") if key not in settings]
    if missing or settings["job"] not in JOBS:
        raise RunFolderError(
            f"{path}: its run.json is not that of a run that can be reported ({settings.get('job')})"
        )
    summary = _json(path / "summary.json") or {}
    results = [summary["base"]] if "base" in summary else summary.get("results", [])
    try:
        records = tuple(read_parts(path / "records"))
        frames = run_records(path)
        if not frames:
            raise RunFolderError(f"{path}: has no records of a trained model yet")
        numbers = estimates(path)
    except pa.ArrowException as error:
        raise RunFolderError(f"{path}: a part of its records is damaged ({str(error).splitlines()[0]})") from error
    except ValueError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path}: its records are not complete ({error}); continue the run first") from error
    return Finished(
        name=name,
        path=path,
        job=settings["job"],
        settings=settings,
        results={result["model"]: result for result in results},
        records=records,
        frames={model: frame for model, frame in frames.items() if not model.startswith(TWIN)},
        estimates=numbers,
    )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json_of(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunFolderError(f"{path}: cannot be read ({reason})") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: not what a run writes")
    return content
