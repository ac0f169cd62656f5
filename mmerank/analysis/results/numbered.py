"""Results whose numbers are all those of some metrics, each with its interval and what it stands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

from mmerank.analysis.metric import Metric
from mmerank.analysis.results.of_model import ModelResult
from mmerank.analysis.statistics.bootstrap import Interval, sample_intervals
from mmerank.convention import AnyConvention
from mmerank.errors import DataError
from mmerank.inputs.example import Skipped, first_reason
from mmerank.inputs.selection import ALL, Selection
from mmerank.runs.record import Record

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


class NumberedResult(ModelResult[_Asked]):
    """What a job measured of a model on a data set, where all of it are numbers of some metrics."""

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

    def _told(self) -> dict[str, Any]:
        return {
            **self._values(),
            "intervals": {name: list(of.interval) for name, of in self.numbers.items() if of.interval},
            "counts": {name: of.n for name, of in self.numbers.items()},
        }

    def _values(self) -> dict[str, Any]:
        """The numbers without their intervals, as JSON values."""
        return {name: number.value for name, number in self.numbers.items()}

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
