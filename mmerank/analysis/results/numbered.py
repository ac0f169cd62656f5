"""Results whose numbers are all those of some metrics, each with its interval and what it stands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import pandas as pd

from mmerank.analysis.metric import Metric
from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import stored
from mmerank.analysis.statistics.bootstrap import Bootstrap, Interval, sample_intervals
from mmerank.convention import AnyConvention, all_choices
from mmerank.errors import DataError
from mmerank.inputs.example import Skipped, first_reason
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.folder import versions as installed
from mmerank.runs.jobs import JOBS
from mmerank.runs.record import Record, to_frame

_Asked = TypeVar("_Asked", bound=AnyConvention)


@dataclass(frozen=True)
class Numbered:
    """A number of a data set.

    Attributes:
        value: It; NaN where there is none.
        interval: Its limits, or None.
        n: Number of examples behind it.
    """

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class NumberedResult(Generic[_Asked]):
    """What a job measured of a model on a data set.

    Attributes:
        model: Name of the model.
        data: Name of the data set.
        n: Number of examples.
        skipped: The others, each with the reason.
        convention: The choices in force.
        source: What the model is known by, see `mmerank.models.identity.identity`.
        records: Of all examples.
        limit: How many examples were asked for; None for all.
        seed: Of their choice; None for the first ones.
        bootstrap: How intervals are made.
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
    _metrics: ClassVar[tuple[Metric, ...]]  # whose numbers it has

    @cached_property
    def numbers(self) -> dict[str, Numbered]:
        """Every number of the data set, by name."""
        found: dict[str, Numbered] = {}
        for of in self._metrics:
            for _, sample in of.samples(self._frame, self.convention.aggregate):
                limits = sample_intervals(sample, self.bootstrap)
                counts = sample.counts or (sample.n,) * len(sample.quantities)
                for name, value, n in zip(sample.quantities, sample.estimates, counts, strict=True):
                    found[name] = Numbered(float(value), limits.get(name), n)
        return found

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return to_frame(self.records, spectrum=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per example and measurement; columns: `mmerank.runs.record`."""
        return to_frame(self.records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; what is undefined is null."""
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
                "intervals": {name: list(of.interval) for name, of in self.numbers.items() if of.interval},
                "counts": {name: of.n for name, of in self.numbers.items()},
                "bootstrap": self.bootstrap.to_dict(),
                "source": self.source,
                "versions": self.versions,
            }
        )
        return found

    def _told(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {name: number.value for name, number in self.numbers.items()}

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the model.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of this job, or something is gone.
            UsageError: It holds several models, or not this one.
        """
        there = stored(folder, cls._job, model)
        convention: Any = there.convention(JOBS[cls._job].convention)
        found = cls.of(there.records, there.skipped, convention=convention, **there.shared)
        return replace(found, **there.beside)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        skipped: Sequence[Skipped],
        *,
        model: str,
        data: str,
        convention: _Asked,
        source: Mapping[str, Any],
        selection: Selection = ALL,
    ) -> Self:
        """The result that records give.

        Args:
            records: In any order.
            skipped: The examples without.
            model: Name of the model.
            data: Name of the data set.
            convention: The choices in force.
            source: What the model is known by.
            selection: Which of the data were asked for.

        Returns:
            The numbers.

        Raises:
            DataError: There are no records.
        """
        found = sorted(records, key=lambda r: (r.example, r.point, r.input))
        if not found:
            raise DataError(f"{data}: no example could be measured, {len(skipped)} skipped{first_reason(skipped)}")
        return cls(
            model=model,
            data=data,
            n=len({record.example for record in found}),
            skipped=tuple(skipped),
            convention=convention,
            source=dict(source),
            records=tuple(found),
            limit=selection.limit,
            seed=selection.seed,
        )
