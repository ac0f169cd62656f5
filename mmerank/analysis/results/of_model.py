"""What every result has that is of one model on one data set: names, choices, records, and how to read it back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import pandas as pd

from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import Stored, stored
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.convention import AnyConvention, all_choices
from mmerank.inputs.example import Skipped
from mmerank.runs.folder import versions as installed
from mmerank.runs.jobs import JOBS
from mmerank.runs.record import Record, to_frame

_Asked = TypeVar("_Asked", bound=AnyConvention)


@dataclass(frozen=True, kw_only=True)
class ModelResult(Generic[_Asked]):
    """What a job measured of a model on a data set.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        n: Number of examples that all numbers stand on.
        skipped: The others, each with the reason.
        convention: The choices in force.
        source: What the model is known by, see `mmerank.models.identity.identity`.
        records: One per example and measurement, those of untrained twins among them.
        limit: How many examples were asked for; None for all.
        seed: Of their choice; None for the first ones.
        bootstrap: How intervals are made; `dataclasses.replace(result, bootstrap=...)` makes them anew.
        name: What tables call the model; empty for what it is called by itself.
        versions: Of what the numbers depend on.
    """

    model: str
    data: str
    n: int
    skipped: tuple[Skipped, ...]
    convention: _Asked
    source: dict[str, Any]
    records: tuple[Record, ...]
    limit: int | None = None
    seed: int | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    name: str = ""
    versions: dict[str, str] = field(default_factory=installed)
    _job: ClassVar[str]  # as in `mmerank.runs.jobs.JOBS`

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the model.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its trained models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of this job, or something is gone.
            UsageError: It holds several models, or not this one.
        """
        there = stored(folder, cls._job, model)
        convention = there.convention(JOBS[cls._job].convention)
        made: Any = cls.of  # type: ignore[attr-defined]
        found = made(there.records, there.skipped, convention=convention, **there.shared, **cls._made_with(there))
        whole: Self = replace(found, **there.beside, **cls._put_in(there))
        return whole

    @classmethod
    def _made_with(cls, there: Stored) -> dict[str, Any]:
        """What `of` takes further."""
        return {}

    @classmethod
    def _put_in(cls, there: Stored) -> dict[str, Any]:
        """What is put into it afterwards."""
        return {}

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return to_frame(self.records, spectrum=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per record; columns: `mmerank.runs.record`."""
        return to_frame(self.records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; numbers that do not exist are null."""
        found: dict[str, Any] = no_nan(
            {
                "model": self.model,
                **({"name": self.name} if self.name else {}),
                "data": self.data,
                "n": self.n,
                "limit": self.limit,
                "seed": self.seed,
                "skipped": [{"id": entry.id, "reason": entry.reason} for entry in self.skipped],
                "convention": all_choices(self.convention, self.source),
                **self._told(),
                "bootstrap": self.bootstrap.to_dict(),
                "source": self.source,
                "versions": self.versions,
            }
        )
        return found

    def _told(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        raise NotImplementedError
