"""One model on one data set, before and after some transforms: what is the same of every kind of model."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from mmerank.analysis.perturbation import Null, against_nulls, deltas, differences_frame
from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import stored
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.convention import AnyConvention
from mmerank.inputs.example import Skipped
from mmerank.inputs.variants import BASE
from mmerank.runs.record import Record, to_frame


@dataclass(frozen=True)
class Perturbed:
    """What one transform did.

    Attributes:
        transform: Its name.
        result: The numbers after it, of the same kind and on the same examples as the base's.
        delta: Those minus the base's, by quantity.
        delta_matched: The same on equally many rows everywhere, with the number `n` of examples that have as many,
            see `mmerank.analysis.metrics.matched`; None if not asked for.
    """

    transform: str
    result: Any
    delta: dict[str, float]
    delta_matched: dict[str, float | None] | None = None

    @property
    def data(self) -> str:
        """Name of the data set; with the next two, what `mmerank.compare` takes."""
        return str(self.result.data)

    @property
    def convention(self) -> AnyConvention:
        """The choices in force."""
        found: AnyConvention = self.result.convention
        return found

    @property
    def records(self) -> tuple[Record, ...]:
        """One per example and measurement."""
        found: tuple[Record, ...] = self.result.records
        return found

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        matched = {} if self.delta_matched is None else {"delta_matched": self.delta_matched}
        return {"transform": self.transform, **self.result.to_dict(), "delta": self.delta, **matched}


@dataclass(frozen=True)
class Checks:
    """What must come out as nothing but rounding.

    Attributes:
        examples: How many transformed examples were measured afresh, by themselves.
        text: Largest difference between their eRank4 (of encoders, of the tokens) and that of the untouched example,
            under transforms of the picture; NaN if there are none.
        reuse: Largest difference, over all eRanks, to what was measured with shared passes.
        identity: Largest difference of any example's eRank between `identity` and the base; NaN if it was not asked
            for.
    """

    examples: int
    text: float
    reuse: float
    identity: float

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it; what was not looked at is null."""
        values = {"text": self.text, "reuse": self.reuse, "identity": self.identity}
        differences = {f"{name}_difference": None if math.isnan(x) else x for name, x in values.items()}
        return {"examples": self.examples, **differences}

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Args:
            stated: As in `summary.json`; empty of a version that did not look.

        Returns:
            The checks.
        """
        found = (stated.get(f"{name}_difference") for name in ("text", "reuse", "identity"))
        return cls(stated.get("examples", 0), *(math.nan if value is None else value for value in found))


@dataclass(frozen=True)
class BeforeAfter:
    """One model on one data set, before and after some transforms.

    Attributes:
        base: The untouched examples.
        transforms: What each transform did, in the order asked for.
        controls: Nulls of eRank5 and the Image-Text Alignment; none of encoders.
        checks: What must be nothing but rounding.
        records: All of them; the `transform` of the base's is `none`, of a null's `CONTROL/DRAW`.
        seed: Of what is random in transforms and controls.
        bootstrap: How the intervals of differences are made; `dataclasses.replace(result, bootstrap=...)` makes them
            anew.
    """

    base: Any
    transforms: tuple[Perturbed, ...]
    controls: tuple[Null, ...]
    checks: Checks
    records: tuple[Record, ...]
    seed: int
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    # What the base, and each transform, is a result of; how run folders call the job; what states its choices.
    _each: ClassVar[type[Any]]
    _job: ClassVar[str]
    _choices: ClassVar[type[Any]]

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the model.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of `perturb` with such a model, or something is gone.
            UsageError: It does not hold this model.
        """
        there = stored(folder, cls._job, model)
        found = cls.of(
            there.records,
            there.settings.get("transforms", []),
            skipped=there.skipped,
            convention=there.convention(cls._choices),
            undefined=there.result.get("undefined"),
            drawn_by=there.summary.get("seed", 0),
            **there.shared,
        )
        base = replace(found.base, **there.beside)
        return replace(found, base=base, checks=Checks.from_dict(there.summary.get("checks", {})))

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        transforms: Iterable[str],
        *,
        drawn_by: int,
        convention: AnyConvention,
        skipped: Sequence[Skipped],
        **shared: Any,
    ) -> Self:
        """The result that records give, with nothing checked yet.

        Args:
            records: Of the base, of each transform and of nulls, of the same examples.
            transforms: Names, in the order asked for.
            drawn_by: Seed of what is random in transforms and controls.
            convention: The choices in force.
            skipped: The examples without.
            shared: What else the `of` of the base's kind takes.

        Returns:
            The numbers.
        """
        by_variant: dict[str, list[Record]] = {BASE.name: [], **{name: [] for name in transforms}}
        for record in sorted(records, key=cls._place):
            by_variant.setdefault(record.transform, []).append(record)

        def each(name: str) -> Any:
            return cls._each.of(by_variant[name], skipped, convention=convention, **shared)

        base = each(BASE.name)
        of_all = tuple(record for of_one in by_variant.values() for record in of_one)
        return cls(
            base=base,
            transforms=tuple(cls._changed(name, base, each(name)) for name in transforms),
            controls=against_nulls(to_frame(of_all, spectrum=False), aggregate=convention.aggregate),
            checks=Checks.from_dict({}),
            records=of_all,
            seed=drawn_by,
        )

    @classmethod
    def _changed(cls, name: str, base: Any, changed: Any) -> Perturbed:
        """What one transform did."""
        return Perturbed(name, changed, deltas(cls._values(base), cls._values(changed)))

    @staticmethod
    @abstractmethod
    def _place(record: Record) -> tuple[Any, ...]:
        """What records of one transform are in the order of."""

    @staticmethod
    @abstractmethod
    def _values(result: Any) -> dict[str, float]:
        """The numbers whose changes are told."""

    @property
    @abstractmethod
    def tests(self) -> dict[str, ComparisonResult]:
        """Each transform minus the base, by transform: intervals, p, q over all of them together, effect sizes."""

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return to_frame(self.records, spectrum=False)

    def tests_to_pandas(self) -> pd.DataFrame:
        """One row per transform and quantity; columns as in `mmerank.analysis.perturbation.differences_frame`."""
        return differences_frame(self.tests)

    def to_pandas(self) -> pd.DataFrame:
        """One row per transform, example and measurement; columns as in `mmerank.runs.record`."""
        return to_frame(self.records)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it; what is undefined is null."""
        found: dict[str, Any] = no_nan(
            {
                "base": self.base.to_dict(),
                "transforms": [
                    {
                        **perturbed.to_dict(),
                        "tests": self.tests[perturbed.transform].to_dict(),
                        **self._tested_beside(perturbed.transform),
                    }
                    for perturbed in self.transforms
                ],
                "controls": [null.to_dict(self.base.n) for null in self.controls],
                "checks": self.checks.to_dict(),
                "seed": self.seed,
            }
        )
        return found

    def _tested_beside(self, transform: str) -> dict[str, Any]:
        """Further tests of a transform, by their name in the JSON."""
        return {}
