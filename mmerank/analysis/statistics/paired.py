"""Two measurements of the same examples: two models, or one model before and after a transform."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from mmerank.analysis.sample import Floats, PairSample, Sample
from mmerank.analysis.statistics.bootstrap import Bootstrap, bootstrap_limits, influence
from mmerank.analysis.statistics.effects import rank_biserial, signed_rank_p, smallest_detectable, standardised_mean
from mmerank.analysis.statistics.jackknife import jackknife_error, jackknife_limits, without_spread
from mmerank.analysis.statistics.permutation import swap_test

FalseDiscovery = Literal["bh", "by"]
PERMUTATIONS = 9999


@dataclass(frozen=True)
class PairedDifference:
    """A - B of one quantity of a data set, on the same examples.

    Attributes:
        quantity: `erank1`, `image_reduction_ratio`, `diff_erank`, ...
        a: The quantity of A.
        b: Of B.
        difference: a - b.
        low: Lower limit of the difference, by the paired bootstrap; NaN with fewer than two examples.
        high: Upper limit.
        p: Of the permutation test: A and B are swapped within examples, all measurements of an example together.
        q: The same after control of the false discovery rate over everything tested together; NaN where there is
            nothing to test, since the quantity cannot differ, or is equal in every example, as that of a twin that A
            and B share.
        p_wilcoxon: Of the Wilcoxon signed-rank test on the examples' differences.
        d_z: Mean over standard deviation of the examples' differences (of entropies, for an eRank); NaN where all
            are equal.
        rank_biserial: Matched-pairs rank-biserial correlation of them, -1 to 1.
        smallest_detectable: The difference that a two-sided test at 5 % finds with 80 % power, given this n and
            this spread; NaN with fewer than two examples, and where all differences are equal.
    """

    quantity: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    q: float
    p_wilcoxon: float
    d_z: float
    rank_biserial: float
    smallest_detectable: float


@dataclass(frozen=True)
class ComparisonResult:
    """A against B on the same examples.

    Attributes:
        a: Name of A.
        b: Name of B.
        n: Number of examples that both have.
        unpaired: Number of examples that only one of them has, which do not count.
        differences: One per quantity.
        bootstrap: How intervals are made.
        permutations: Number of swaps behind `p`.
        exact: Whether these are all swaps there are.
        false_discovery: `bh` or `by`.
        tests: Number of tests behind `q`.
        fixed: Quantities that cannot differ by how A and B were made, or are equal in every example; they are not
            among `tests`.
        matched: Whether the numbers are those of equally many rows everywhere.
        unlike: Quantities that stand on other numbers of rows in A than in B, which they follow first.
        groups: How many groups of examples, as the questions about each picture, are drawn and swapped together; 0
            where each example stands alone.
    """

    a: str
    b: str
    n: int
    unpaired: int
    differences: tuple[PairedDifference, ...]
    bootstrap: Bootstrap
    permutations: int
    exact: bool
    false_discovery: FalseDiscovery
    tests: int
    fixed: tuple[str, ...] = ()
    matched: bool = False
    unlike: tuple[str, ...] = ()
    groups: int = 0

    @property
    def opposed(self) -> tuple[str, ...]:
        """Quantities whose `d_z` has another sign than the difference: a ratio of means is no mean of ratios."""
        return tuple(found.quantity for found in self.differences if found.difference * found.d_z < 0)

    def __getitem__(self, quantity: str) -> PairedDifference:
        """The difference of one quantity."""
        for found in self.differences:
            if found.quantity == quantity:
                return found
        raise KeyError(f"{quantity!r}; known: {', '.join(d.quantity for d in self.differences)}")

    def to_pandas(self) -> pd.DataFrame:
        """A row per quantity; columns as in `PairedDifference`."""
        return pd.DataFrame([asdict(found) for found in self.differences])

    def to_dict(self) -> dict[str, Any]:
        """JSON values; numbers that do not exist are null."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(found).items()}
            for found in self.differences
        ]
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **settings,
            "bootstrap": self.bootstrap.to_dict(),
            "differences": rows,
            "fixed": list(self.fixed),
            "unlike": list(self.unlike),
        }


_Compared = TypeVar("_Compared", bound=ComparisonResult)


def controlled(comparisons: Iterable[_Compared], false_discovery: FalseDiscovery = "bh") -> list[_Compared]:
    """The same comparisons, with `q` over all of their tests together.

    For hook points and transforms that are looked at side by side; what is `fixed` stays out. Benjamini and
    Hochberg, J. R. Stat. Soc. B 57 (1995); under arbitrary dependence Benjamini and Yekutieli, Ann. Stat. 29 (2001);
    computed by `scipy.stats.false_discovery_control`.

    Args:
        comparisons: At least one.
        false_discovery: `bh` or `by`.

    Returns:
        One for each, in their order.
    """
    given = list(comparisons)
    p = [
        found.p for comparison in given for found in comparison.differences if found.quantity not in comparison.fixed
    ]
    adjusted = iter(stats.false_discovery_control(p, method=false_discovery).tolist() if p else ())
    return [
        replace(
            comparison,
            differences=tuple(
                replace(found, q=math.nan if found.quantity in comparison.fixed else next(adjusted))
                for found in comparison.differences
            ),
            false_discovery=false_discovery,
            tests=len(p),
        )
        for comparison in given
    ]


def paired(
    a: Sample,
    b: Sample,
    chosen: Sequence[str],
    *,
    names: tuple[str, str],
    unpaired: int,
    logs: Collection[str],
    bootstrap: Bootstrap,
    permutations: int,
    false_discovery: FalseDiscovery,
    matched: bool,
) -> ComparisonResult:
    """A - B of samples of the same examples.

    Args:
        a: One.
        b: The other, of the same examples in the same order.
        chosen: Quantities.
        names: What A and B are called.
        unpaired: How many examples only one of them has.
        logs: Quantities whose examples are held against each other by their logarithms.
        bootstrap: Level, resamples, seed and method.
        permutations: Most swaps to try.
        false_discovery: `bh` or `by`.
        matched: Whether the numbers are those of equally many rows.

    Returns:
        The differences. Statistics of pairs have intervals and p by the jackknife, t with n - 1 degrees of freedom,
        and no effect sizes, since they have no value of an example.
    """
    if isinstance(a, PairSample) and isinstance(b, PairSample):
        found, equal = _of_pairs(a, b, chosen, bootstrap.level)
        tried, exact = 0, False
    else:
        found, equal, tried, exact = _of_means(a, b, chosen, logs, bootstrap, permutations)
    comparison = ComparisonResult(
        *names,
        n=a.n,
        unpaired=unpaired,
        differences=tuple(found),
        bootstrap=bootstrap,
        permutations=tried,
        exact=exact,
        false_discovery=false_discovery,
        tests=len(found),
        fixed=equal,
        matched=matched,
    )
    return controlled([comparison], false_discovery)[0]


def _of_pairs(
    a: PairSample, b: PairSample, chosen: Sequence[str], level: float
) -> tuple[list[PairedDifference], tuple[str, ...]]:
    places = [a.quantities.index(name) for name in chosen]
    (value_a, without_a), (value_b, without_b) = a.found, b.found
    value, without = (value_a - value_b)[places], (without_a - without_b)[:, places]
    low, high = jackknife_limits(value, without, level=level)
    error, freedom = jackknife_error(without), max(len(without) - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stats.t.sf(np.abs(value) / error, freedom)
    unmoved = without_spread(without) & (value != 0)
    low[unmoved] = high[unmoved] = p[unmoved] = np.nan
    found, equal = [], []
    for i, name in enumerate(chosen):
        if value[i] == 0 and not without[:, i].any():
            equal.append(name)
        found.append(
            PairedDifference(
                quantity=name,
                a=float(value_a[places[i]]),
                b=float(value_b[places[i]]),
                difference=float(value[i]),
                low=float(low[i]),
                high=float(high[i]),
                p=1.0 if name in equal or not np.isfinite(p[i]) else float(p[i]),
                q=math.nan,
                p_wilcoxon=math.nan,
                d_z=math.nan,
                rank_biserial=math.nan,
                smallest_detectable=smallest_detectable(float(error[i]), a.n),
            )
        )
    return found, tuple(equal)


def _of_means(
    a: Sample, b: Sample, chosen: Sequence[str], logs: Collection[str], bootstrap: Bootstrap, permutations: int
) -> tuple[list[PairedDifference], tuple[str, ...], int, bool]:
    """Each difference; what is equal in every example; how many swaps, and whether these are all."""
    n, k = a.columns.shape
    places = [a.quantities.index(name) for name in chosen]

    def of_means(means: Floats) -> Floats:
        return a.of_means(means)[..., places]

    def difference(means: Floats) -> Floats:
        return of_means(means[..., :k]) - of_means(means[..., :k] - means[..., k:])

    both = np.concatenate([a.columns, a.columns - b.columns], axis=1)
    low, high = bootstrap_limits(both, difference, bootstrap)
    p, tried, exact = swap_test(a.columns, b.columns, of_means, permutations=permutations, seed=bootstrap.seed)
    values = difference(both.mean(axis=0))
    error = np.full(len(places), np.nan)
    if n > 1:
        error = np.sqrt((influence(both, difference) ** 2).sum(axis=0) * n / (n - 1))
    found, equal = [], []
    single_a, single_b = _by_example(a, chosen, logs), _by_example(b, chosen, logs)
    single = single_a - single_b
    single[np.abs(single) <= 1e-12 * np.maximum(np.abs(single_a), np.abs(single_b))] = 0  # equal up to rounding
    means_a = of_means(a.means)
    for i, name in enumerate(chosen):
        d = single[:, i][np.isfinite(single[:, i])]
        # A ratio of means may differ where each example's is equal.
        if d.size and not d.any() and abs(values[i]) <= 1e-12 * max(abs(means_a[i]), abs(means_a[i] - values[i])):
            equal.append(name)
        found.append(
            PairedDifference(
                quantity=name,
                a=float(means_a[i]),
                b=float(means_a[i] - values[i]),
                difference=float(values[i]),
                low=float(low[i]),
                high=float(high[i]),
                p=float(p[i]),
                q=math.nan,
                p_wilcoxon=signed_rank_p(d),
                d_z=standardised_mean(d),
                rank_biserial=rank_biserial(d),
                smallest_detectable=smallest_detectable(float(error[i]), n),
            )
        )
    return found, tuple(equal), tried, exact


def _by_example(of: Sample, chosen: Sequence[str], logs: Collection[str]) -> Floats:
    """Each example as a data set of its own; of an eRank the entropy, whose differences are the more symmetric."""
    with np.errstate(invalid="ignore"):  # a text without a loss
        values = of.of_means(of.columns)
    picked = [
        np.log(values[:, of.quantities.index(name)]) if name in logs else values[:, of.quantities.index(name)]
        for name in chosen
    ]
    return np.stack(picked, axis=1)


def chosen_quantities(a: Sample, b: Sample, quantities: Sequence[str] | None) -> list[str]:
    """Quantities that two samples are compared by.

    Args:
        a: One.
        b: The other.
        quantities: Those asked for; None for all.

    Returns:
        Their names.

    Raises:
        ValueError: There is no such quantity, or the samples have other ones.
    """
    unlike = a.columns.shape[1] != b.columns.shape[1] and not isinstance(a, PairSample)  # embeddings have any width
    if a.quantities != b.quantities or unlike:
        raise ValueError("expected the same measurements on both sides: hook points, number of untrained models")
    unknown = [name for name in quantities or () if name not in a.quantities]
    if unknown:
        raise ValueError(f"no quantity {', '.join(map(repr, unknown))}; known: {', '.join(a.quantities)}")
    return list(quantities or a.quantities)
