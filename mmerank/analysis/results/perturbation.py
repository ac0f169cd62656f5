"""One model on one data set, before and after some transforms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from mmerank.analysis.metrics.alignment import ALIGNMENT
from mmerank.analysis.metrics.known import metric
from mmerank.analysis.perturbation import (
    Null,
    against_nulls,
    deltas,
    differences_frame,
    matched_deltas,
    metric_tests,
    paired_tests,
)
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.results.nulls import no_nan
from mmerank.analysis.results.stored import stored
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.convention import Convention
from mmerank.eranks import ERANKS
from mmerank.inputs.example import Skipped
from mmerank.inputs.variants import BASE
from mmerank.runs.record import Record, to_frame


@dataclass(frozen=True)
class Perturbed:
    """What one transform did.

    Attributes:
        transform: Its name.
        result: The numbers after it, on the same examples as the base.
        delta: Those minus the base's, by quantity.
        delta_matched: The same on equally many rows everywhere, with the number `n` of examples that have as many,
            see `mmerank.analysis.metrics.matched`; None if not asked for.
    """

    transform: str
    result: AlignmentResult
    delta: dict[str, float]
    delta_matched: dict[str, float | None] | None = None

    @property
    def data(self) -> str:
        """Name of the data set; with the next two, what `mmerank.compare` takes."""
        return self.result.data

    @property
    def convention(self) -> Convention:
        """The choices in force."""
        return self.result.convention

    @property
    def records(self) -> tuple[Record, ...]:
        """One per example and measurement."""
        return self.result.records

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        matched = {} if self.delta_matched is None else {"delta_matched": self.delta_matched}
        return {"transform": self.transform, **self.result.to_dict(), "delta": self.delta, **matched}


@dataclass(frozen=True)
class Checks:
    """What must come out as nothing but rounding.

    Attributes:
        examples: How many transformed examples were measured afresh, by themselves.
        text: Largest difference between their eRank4 and that of the untouched example, under transforms of the
            picture; NaN if there are none.
        reuse: Largest difference, over all five eRanks, to what was measured with shared passes.
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
class PerturbationResult:
    """One model on one data set, before and after some transforms.

    Attributes:
        base: The untouched examples.
        transforms: What each transform did, in the order asked for.
        controls: Nulls of eRank5 and the Image-Text Alignment.
        checks: What must be nothing but rounding.
        records: All of them; the `transform` of the base's is `none`, of a null's `CONTROL/DRAW`.
        seed: Of what is random in transforms and controls.
        bootstrap: How the intervals of differences are made; `dataclasses.replace(result, bootstrap=...)` makes them
            anew.
    """

    base: AlignmentResult
    transforms: tuple[Perturbed, ...]
    controls: tuple[Null, ...]
    checks: Checks
    records: tuple[Record, ...]
    seed: int
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    # What the base, and each transform, is a result of.
    _each: ClassVar[type[AlignmentResult]] = AlignmentResult

    @classmethod
    def from_run(cls, folder: str | Path, model: str | None = None) -> Self:
        """The result that a finished run folder holds, without the model.

        Args:
            folder: What `--out` was given, or `hub:OWNER/NAME[/RUN][@REVISION]`.
            model: Which of its models; None where it has one.

        Returns:
            The numbers that were written.

        Raises:
            RunFolderError: It is no finished run of `perturb`, or something is gone.
            UsageError: It does not hold this model.
        """
        there = stored(folder, "perturb", model)
        found = cls.of(
            there.records,
            there.settings.get("transforms", []),
            skipped=there.skipped,
            convention=there.convention(Convention),
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
        convention: Convention,
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
            shared: What else `AlignmentResult.of` takes.

        Returns:
            The numbers.
        """
        order = list(ERANKS.values())
        rows = sorted(records, key=lambda r: (r.example, order.index((r.point, r.input))))
        by_variant: dict[str, list[Record]] = {BASE.name: [], **{name: [] for name in transforms}}
        for record in rows:
            by_variant.setdefault(record.transform, []).append(record)

        def each(name: str) -> AlignmentResult:
            return cls._each.of(by_variant[name], skipped, convention=convention, **shared)

        base = each(BASE.name)
        of_all = tuple(record for of_one in by_variant.values() for record in of_one)
        return cls(
            base=base,
            transforms=tuple(perturbed(name, base, each(name)) for name in transforms),
            controls=against_nulls(to_frame(of_all, spectrum=False), aggregate=convention.aggregate),
            checks=Checks.from_dict({}),
            records=of_all,
            seed=drawn_by,
        )

    @cached_property
    def tests(self) -> dict[str, ComparisonResult]:
        """Each transform minus the base, by transform: intervals, p, q over all of them together, effect sizes."""
        return paired_tests(self._frame, aggregate=self.base.convention.aggregate, bootstrap=self.bootstrap)

    @cached_property
    def tests_matched(self) -> dict[str, ComparisonResult]:
        """The same on equally many rows everywhere; empty where that was not asked for, or no example has as many."""
        if self.base.convention.match_tokens is None:
            return {}
        aggregate = self.base.convention.aggregate
        return paired_tests(self._frame, aggregate=aggregate, bootstrap=self.bootstrap, of="matched")

    @cached_property
    def tests_metrics(self) -> dict[str, dict[str, ComparisonResult]]:
        """The same of each metric that was asked for, by its name, `matched_` before it on equally many rows.

        `q` is over the tests of all of these metrics together.
        """
        found = metric_tests(self._frame, aggregate=self.base.convention.aggregate, bootstrap=self.bootstrap)
        return {metric(name).prefix + name.rpartition(":")[2]: tests for name, tests in found.items()}

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
        found: dict[str, Any] = no_nan(self._stated())
        return found

    def _stated(self) -> dict[str, Any]:
        matched = self.tests_matched
        metrics = self.tests_metrics
        return {
            "base": self.base.to_dict(),
            "transforms": [
                {
                    **perturbed.to_dict(),
                    "tests": self.tests[perturbed.transform].to_dict(),
                    **({"tests_matched": found.to_dict()} if (found := matched.get(perturbed.transform)) else {}),
                    **({"tests_metrics": _of_transform(metrics, perturbed.transform)} if metrics else {}),
                }
                for perturbed in self.transforms
            ],
            "controls": [null.to_dict(self.base.n) for null in self.controls],
            "checks": self.checks.to_dict(),
            "seed": self.seed,
        }


def _of_transform(metrics: Mapping[str, Mapping[str, ComparisonResult]], transform: str) -> dict[str, Any]:
    return {name: tests[transform].to_dict() for name, tests in metrics.items() if transform in tests}


def perturbed(name: str, base: AlignmentResult, changed: AlignmentResult) -> Perturbed:
    """What one transform did.

    Args:
        name: Of the transform.
        base: The untouched examples.
        changed: The same examples after it.

    Returns:
        The numbers after it, and the differences.
    """
    before, after = ({name: getattr(result, name) for name in ALIGNMENT} for result in (base, changed))
    asked, matched = base.convention, None
    if asked.match_tokens is not None:
        matched = matched_deltas(
            base.records,
            changed.records,
            tokens=asked.match_tokens,
            repeats=asked.match_repeats,
            aggregate=asked.aggregate,
        )
    return Perturbed(name, changed, deltas(before, after), matched)
