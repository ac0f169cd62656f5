"""A against B on the same examples: two models, or one model before and after a transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from mmerank.analysis.comparison import compared, shown_name
from mmerank.analysis.metrics.known import metric_with
from mmerank.analysis.metrics.matched import MATCHED, MATCHED_BY
from mmerank.analysis.results.answers import compared_answers
from mmerank.analysis.results.score import ScoreResult
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.paired import PERMUTATIONS, ComparisonResult, FalseDiscovery
from mmerank.convention import Aggregate, AnyConvention
from mmerank.eranks import FINAL
from mmerank.jobs.shown import Names, Shown
from mmerank.runs.record import Record, to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmerank.report.printed import Listed

_MEASURED = ("data", "convention", "records")


class Measured(Protocol):
    """What `mmerank.align` and `mmerank.diff` return, and `mmerank.perturb` as base and for each transform."""

    @property
    def data(self) -> str:
        """Name of the data set."""

    @property
    def convention(self) -> AnyConvention:
        """The choices in force."""

    @property
    def records(self) -> tuple[Record, ...]:
        """One per example and measurement."""


class Comparison(Shown, ComparisonResult):
    """A against B on the same examples."""

    def summary(self) -> pd.DataFrame:
        """A row for each quantity: what A and B have, the difference with its interval, p, q and d_z."""
        table = self.to_pandas()[["quantity", "a", "b", "difference", "low", "high", "p", "q", "d_z"]]
        return table.assign(n=self.n)

    def estimates(self) -> pd.DataFrame:
        """Each difference with its interval; columns as of `mmerank.estimates`, `model` being `A - B`."""
        front = MATCHED if self.matched else ""
        rows = [
            {
                "model": f"{self.a} - {self.b}",
                "transform": "none",
                "point": "",
                "metric": metric_with(front + found.quantity),
                "quantity": front + found.quantity,
                "value": found.difference,
                "low": found.low,
                "high": found.high,
                "n": self.n,
            }
            for found in self.differences
        ]
        return pd.DataFrame(rows)

    def how_to_report(self) -> str:
        """A paragraph to report the differences with: n, intervals, tests and what they are over."""
        from mmerank.report.how_to import how_to_report_comparison

        return how_to_report_comparison(self)

    def _tables(self, names: Names, columns: Sequence[str] | None) -> list[Listed]:
        from mmerank.report.tables import compared_table

        return [compared_table(self, names or {}, columns)]

    def _draw(self, axes: Axes) -> None:
        from mmerank.report.figures.main import draw_differences

        draw_differences(axes, self)

    def _in_short(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "n": self.n, "quantities": [found.quantity for found in self.differences]}

    def __str__(self) -> str:
        from mmerank.report.terminal.intervals import comparison_text

        return comparison_text([self])


def compare(
    a: Measured | ScoreResult | pd.DataFrame,
    b: Measured | ScoreResult | pd.DataFrame,
    *,
    quantities: Sequence[str] | None = None,
    names: tuple[str, str] | None = None,
    aggregate: Aggregate | None = None,
    point: str = FINAL,
    matched: bool = False,
    metric: str = "",
    bootstrap: Bootstrap | None = None,
    permutations: int = PERMUTATIONS,
    false_discovery: FalseDiscovery = "bh",
) -> Comparison:
    """A - B on the same examples: interval, tests, effect sizes, and what could have been seen.

    Examples that only one side has are left out on both. docs/statistics.md has formulas and sources.

    Args:
        a: A result of `mmerank.align` or `mmerank.diff`, the base or one of the transforms of `mmerank.perturb`, or
            two of `mmerank.score`, whose questions about one picture are drawn and swapped together, or
            a frame of records as from `mmerank.runs.record.to_frame`, of one model (of texts: with its untrained
            twins) and one transform.
        b: The other.
        quantities: Those to test. Default: all of the metric; of left-out rows the changes in loss, of scores the
            accuracy, and of questions with yes and no F1 and yes-rate. A quantity that is equal in every example of
            both, as `erank4` between image transforms, has no `q` and is not counted for that of the others.
        names: What A and B are called. Default: the names that models were given, or model, and transform unless it
            is `none`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`. Default: that of the results; `entropy` for
            frames.
        point: Of texts: the hook point.
        matched: Compare the numbers on equally many rows, which were measured with `match_tokens`, see
            docs/tokens.md; the same as `metric="matched"`.
        metric: Of the numbers, by its name in `mmerank.analysis.metrics.known`. Default: that of `quantities`, or
            else eRank1 to eRank5 and the ratios of pairs, Diff-eRank of texts.
        bootstrap: Level, resamples, seed and method. The seed is also that of the permutations.
        permutations: Most swaps to try; where there are no more than this and one, all are tried and `p` is exact.
        false_discovery: `bh` (Benjamini-Hochberg) or `by` (Benjamini-Yekutieli, for any dependence) over the
            quantities; over several comparisons see `controlled`.

    Returns:
        The differences.

    Raises:
        TypeError: One is something else, or `quantities` or `names`.
        ValueError: The two have no example in common, are of different data sets or aggregates, have other texts or
            pictures under the same ids, there is no such quantity, or no numbers on equally many rows.
    """
    if isinstance(a, ScoreResult) and isinstance(b, ScoreResult):
        return _of_scores(
            a, b, quantities, names, bootstrap=bootstrap, permutations=permutations, false_discovery=false_discovery
        )
    if isinstance(a, ScoreResult) or isinstance(b, ScoreResult):
        raise TypeError("expected two results of mmerank.score, or none")
    for given in (a, b):
        if not isinstance(given, pd.DataFrame) and not all(hasattr(given, name) for name in _MEASURED):
            raise TypeError(
                "expected a result of mmerank.align or mmerank.diff, the base or one of the transforms of "
                f"mmerank.perturb, or a frame of records, got {type(given).__name__}"
            )
    if not isinstance(a, pd.DataFrame) and not isinstance(b, pd.DataFrame):
        if a.data != b.data:
            raise ValueError(
                f"expected two results on the same data, got {a.data} and {b.data}; where both hold the same "
                "examples, give them one name (load_data(..., name=...)); for independent data sets there is "
                "difference_of_groups in mmerank.analysis.intervals"
            )
        if matched and _drawn(a) != _drawn(b):
            raise ValueError(f"expected rows drawn alike on both sides, got {_drawn(a)} and {_drawn(b)}")
    (frame_a, by_a), (frame_b, by_b) = _records(a, aggregate), _records(b, aggregate)
    if by_a != by_b:
        raise ValueError(f"expected the same aggregate on both sides, got {by_a} and {by_b}")
    if isinstance(quantities, str):
        raise TypeError(f"quantities: expected a list, got the text {quantities!r}; write [{quantities!r}]")
    if names is not None and (not isinstance(names, (tuple, list)) or len(names) != 2):
        raise TypeError(f"names: expected two, what A and B are called, got {names!r:.100}")
    if names is None:
        names = (getattr(a, "name", "") or shown_name(frame_a), getattr(b, "name", "") or shown_name(frame_b))
    found = compared(
        frame_a,
        frame_b,
        quantities=quantities,
        names=names,
        aggregate=by_a,
        point=point,
        name="matched" if matched else metric,
        bootstrap=bootstrap,
        permutations=permutations,
        false_discovery=false_discovery,
    )
    return Comparison(**vars(found))


def _of_scores(
    a: ScoreResult, b: ScoreResult, quantities: Sequence[str] | None, names: tuple[str, str] | None, **how: Any
) -> Comparison:
    if (a.data, a.convention) != (b.data, b.convention):
        raise ValueError(
            "expected scores on the same questions asked alike, got "
            f"{a.data}, {_plainly(a.convention)} and {b.data}, {_plainly(b.convention)}"
        )
    for of in (a, b):
        if not of.answers:
            raise ValueError(f"{of.model}: no answers to compare question by question, as of a task of lm-eval")
    called = names or (a.name or a.model, b.name or b.model)
    return Comparison(**vars(compared_answers(a.answers, b.answers, names=called, quantities=quantities, **how)))


def _plainly(convention: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in convention.items())


def _records(given: Measured | pd.DataFrame, aggregate: Aggregate | None) -> tuple[pd.DataFrame, Aggregate]:
    if isinstance(given, pd.DataFrame):
        return given, aggregate or "entropy"
    return to_frame(given.records, spectrum=False), aggregate or given.convention.aggregate


def _drawn(given: Measured) -> str:
    """How rows were drawn to match."""
    return ", ".join(f"{name} {getattr(given.convention, name, None)}" for name in MATCHED_BY)
