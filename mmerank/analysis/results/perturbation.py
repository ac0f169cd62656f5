"""One model on one data set, before and after some transforms: of a model with an LLM, and of an encoder alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from mmerank.analysis.metrics.alignment import ALIGNMENT
from mmerank.analysis.metrics.known import metric
from mmerank.analysis.perturbation import deltas, joined, matched_deltas, metric_tests, paired_tests
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.results.before_after import BeforeAfter, Perturbed
from mmerank.analysis.results.encoding import NUMBERS, EncodingResult
from mmerank.analysis.statistics.paired import ComparisonResult
from mmerank.convention import Convention, EncoderConvention
from mmerank.eranks import ERANKS
from mmerank.runs.record import Record

_ORDER = list(ERANKS.values())


@dataclass(frozen=True)
class PerturbationResult(BeforeAfter):
    """eRank1 to eRank5 and the two ratios of one model on one data set, before and after some transforms."""

    base: AlignmentResult
    _each: ClassVar[type[AlignmentResult]] = AlignmentResult
    _job: ClassVar[str] = "perturb"
    _choices: ClassVar[type[Convention]] = Convention

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

    def _tested_beside(self, transform: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if matched := self.tests_matched.get(transform):
            found["tests_matched"] = matched.to_dict()
        if self.tests_metrics:
            each = self.tests_metrics.items()
            found["tests_metrics"] = {name: of[transform].to_dict() for name, of in each if transform in of}
        return found

    @staticmethod
    def _place(record: Record) -> tuple[Any, ...]:
        return record.example, _ORDER.index((record.point, record.input))

    @staticmethod
    def _values(result: AlignmentResult) -> dict[str, float]:
        return {name: getattr(result, name) for name in ALIGNMENT}

    @classmethod
    def _changed(cls, name: str, base: AlignmentResult, changed: AlignmentResult) -> Perturbed:
        asked, matched = base.convention, None
        if asked.match_tokens is not None:
            matched = matched_deltas(
                base.records,
                changed.records,
                tokens=asked.match_tokens,
                repeats=asked.match_repeats,
                aggregate=asked.aggregate,
            )
        return Perturbed(name, changed, deltas(cls._values(base), cls._values(changed)), matched)


@dataclass(frozen=True)
class EncoderPerturbationResult(BeforeAfter):
    """What an encoder makes of one data set before and after some transforms: its last layers, and its embeddings."""

    base: EncodingResult
    _each: ClassVar[type[EncodingResult]] = EncodingResult
    _job: ClassVar[str] = "perturb_encoder"
    _choices: ClassVar[type[EncoderConvention]] = EncoderConvention

    @cached_property
    def tests(self) -> dict[str, ComparisonResult]:
        """Each transform minus the base, by transform: intervals, p, q over all numbers and transforms together.

        What is a mean over examples has the bootstrap and the permutation test, statistics of pairs the jackknife.
        """
        found = metric_tests(self._frame, aggregate=self.base.convention.aggregate, bootstrap=self.bootstrap)
        names = [of.transform for of in self.transforms]
        return {name: joined([tests[name] for tests in found.values() if name in tests]) for name in names}

    @staticmethod
    def _place(record: Record) -> tuple[Any, ...]:
        return record.example, record.input, len(record.point), record.point

    @staticmethod
    def _values(result: EncodingResult) -> dict[str, float]:
        rows = {f"erank_{of.side}": of.trained.value for of in result.layers}
        return rows | {name: result.numbers[name].value for name in NUMBERS if name in result.numbers}
