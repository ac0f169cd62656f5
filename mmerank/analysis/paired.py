"""Two measurements of the same examples: two models, or one model before and after a transform."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from scipy import stats

from mmerank.analysis.bootstrap import Bootstrap, bootstrap_limits, influence
from mmerank.analysis.diff_erank import TWIN
from mmerank.analysis.effects import rank_biserial, signed_rank_p, smallest_detectable, standardised_mean
from mmerank.analysis.permutation import swap_test
from mmerank.analysis.samples import Floats, Sample, sample
from mmerank.analysis.tokens import MATCHED_BY, matched_rows
from mmerank.convention import Aggregate, Convention, TextConvention
from mmerank.records import Record, to_frame

FalseDiscovery = Literal["bh", "by"]
_MEASURED = ("data", "convention", "records")


class Measured(Protocol):
    """What `mmerank.align` and `mmerank.diff` return, and `mmerank.perturb` as base and for each transform."""

    @property
    def data(self) -> str:
        """Name of the data set."""

    @property
    def convention(self) -> Convention | TextConvention:
        """The choices in force."""

    @property
    def records(self) -> tuple[Record, ...]:
        """One per example and measurement."""


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
            this spread; NaN with fewer than two examples.
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
class Comparison:
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
        return {**settings, "bootstrap": self.bootstrap.to_dict(), "differences": rows, "fixed": list(self.fixed)}

    def __str__(self) -> str:
        from mmerank.uncertainty import comparison_text

        return comparison_text([self])


def compare(
    a: Measured | pd.DataFrame,
    b: Measured | pd.DataFrame,
    *,
    quantities: Sequence[str] | None = None,
    names: tuple[str, str] | None = None,
    aggregate: Aggregate | None = None,
    point: str = "final",
    matched: bool = False,
    bootstrap: Bootstrap | None = None,
    permutations: int = 9999,
    false_discovery: FalseDiscovery = "bh",
) -> Comparison:
    """A - B on the same examples: interval, tests, effect sizes, and what could have been seen.

    Examples that only one side has are left out on both. docs/statistics.md has formulas and sources.

    Args:
        a: A result of `mmerank.align` or `mmerank.diff`, the base or one of the transforms of `mmerank.perturb`, or
            a frame of records as from `mmerank.records.to_frame`, of one model (of texts: with its untrained twins)
            and one transform.
        b: The other.
        quantities: Those to test. Default: all. A quantity that is equal in every example of both, as `erank4`
            between image transforms, has no `q` and is not counted for that of the others.
        names: What A and B are called. Default: model, and transform unless it is `none`.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`. Default: that of the results; `entropy` for frames.
        point: Of texts: the hook point.
        matched: Compare the numbers on equally many rows, which were measured with `match_tokens`, see
            docs/tokens.md.
        bootstrap: Level, resamples, seed and method. The seed is also that of the permutations.
        permutations: Most swaps to try; where there are no more than this and one, all are tried and `p` is exact.
        false_discovery: `bh` (Benjamini-Hochberg) or `by` (Benjamini-Yekutieli, for any dependence) over the
            quantities; over several comparisons see `controlled`.

    Returns:
        The differences.

    Raises:
        TypeError: One is something else.
        ValueError: The two have no example in common, are of different data sets or aggregates, have other texts or
            pictures under the same ids, there is no such quantity, or no numbers on equally many rows.
    """
    bootstrap = bootstrap or Bootstrap()
    for given in (a, b):
        if not isinstance(given, pd.DataFrame) and not all(hasattr(given, name) for name in _MEASURED):
            raise TypeError(
                "expected a result of mmerank.align or mmerank.diff, the base or one of the transforms of "
                f"mmerank.perturb, or a frame of records, got {type(given).__name__}"
            )
    if not isinstance(a, pd.DataFrame) and not isinstance(b, pd.DataFrame) and a.data != b.data:
        raise ValueError(
            f"expected two results on the same data, got {a.data} and {b.data}; for independent data sets see "
            "mmerank.analysis.bootstrap.difference_of_groups"
        )
    (frame_a, by_a), (frame_b, by_b) = _records(a, aggregate), _records(b, aggregate)
    if by_a != by_b:
        raise ValueError(f"expected the same aggregate on both sides, got {by_a} and {by_b}")
    if matched:
        drawn = [_drawn(given) for given in (a, b)]
        if drawn[0] != drawn[1] and not any(isinstance(given, pd.DataFrame) for given in (a, b)):
            raise ValueError(f"expected rows drawn alike on both sides, got {drawn[0]} and {drawn[1]}")
        frame_a, frame_b = _matched(frame_a), _matched(frame_b)
    one, other = sample(frame_a, aggregate=by_a, point=point), sample(frame_b, aggregate=by_b, point=point)
    if ("reduced_loss" in one.quantities) != ("reduced_loss" in other.quantities):  # a causal model and an encoder
        one, other = (sample(frame.assign(predicted=0), aggregate=by_a, point=point) for frame in (frame_a, frame_b))
    common = sorted(set(one.examples) & set(other.examples))
    if not common:
        raise ValueError(f"expected examples in common, got none: {one.n} on one side and {other.n} on the other")
    if unlike := unlike_examples(frame_a, frame_b):
        raise ValueError(f"expected the same examples on both sides, got {unlike}")
    unpaired = one.n + other.n - 2 * len(common)
    chosen = _chosen(one, other, quantities)
    names = names or (_name(frame_a), _name(frame_b))
    found, equal, tried, exact = _differences(one.of(common), other.of(common), chosen, bootstrap, permutations)
    comparison = Comparison(
        *names,
        len(common),
        unpaired,
        tuple(found),
        bootstrap,
        tried,
        exact,
        false_discovery,
        len(found),
        equal,
        matched,
    )
    return controlled([comparison], false_discovery)[0]


def unlike_examples(a: pd.DataFrame, b: pd.DataFrame) -> str | None:
    """Examples of one id that are not the same ones, by the hashes of text and picture that stand in their records.

    Args:
        a: As from `mmerank.records.to_frame`; records of versions that took no hashes tell nothing.
        b: The other.

    Returns:
        How many, and which is the first, in words; None where there are none.
    """
    for what in ("text", "picture"):
        column = f"{what}_digest"
        if column not in a or column not in b:
            continue
        one, other = (of.drop_duplicates("example").set_index("example")[column] for of in (a, b))
        common = one.index.intersection(other.index)
        one, other = one[common], other[common]
        if (differ := (one != other) & (one != "") & (other != "")).any():
            return (
                f"another {what} for {int(differ.sum())} of the ids they share, {common[differ].min()!r} among them"
            )
    return None


def controlled(comparisons: Iterable[Comparison], false_discovery: FalseDiscovery = "bh") -> list[Comparison]:
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


def _differences(
    a: Sample, b: Sample, chosen: Sequence[str], bootstrap: Bootstrap, permutations: int
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
    single_a, single_b = _by_example(a, chosen), _by_example(b, chosen)
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


def _by_example(of: Sample, chosen: Sequence[str]) -> Floats:
    """Each example as a data set of its own; of an eRank the entropy, whose differences are the more symmetric."""
    with np.errstate(invalid="ignore"):  # a text without a loss
        values = of.of_means(of.columns)
    picked = [
        np.log(values[:, of.quantities.index(name)]) if _is_erank(name) else values[:, of.quantities.index(name)]
        for name in chosen
    ]
    return np.stack(picked, axis=1)


def _is_erank(name: str) -> bool:
    return name.startswith("erank") and name != "erank_ratio" and "fraction" not in name


def _records(given: Measured | pd.DataFrame, aggregate: Aggregate | None) -> tuple[pd.DataFrame, Aggregate]:
    if isinstance(given, pd.DataFrame):
        return given, aggregate or "entropy"
    return to_frame(given.records, spectrum=False), aggregate or given.convention.aggregate


def _matched(frame: pd.DataFrame) -> pd.DataFrame:
    found = matched_rows(frame)
    if found.empty:
        raise ValueError(
            f"no numbers of {_name(frame)} on equally many rows; they are measured with --match-tokens, of "
            "examples that have as many rows at each of the five places"
        )
    return found


def _drawn(given: Measured | pd.DataFrame) -> str:
    """How rows were drawn to match; of a frame that is not known."""
    convention = None if isinstance(given, pd.DataFrame) else given.convention
    return ", ".join(f"{name} {getattr(convention, name, None)}" for name in MATCHED_BY)


def _chosen(a: Sample, b: Sample, quantities: Sequence[str] | None) -> list[str]:
    if a.quantities != b.quantities or a.columns.shape[1] != b.columns.shape[1]:
        raise ValueError("expected the same measurements on both sides: hook points, number of untrained models")
    unknown = [name for name in quantities or () if name not in a.quantities]
    if unknown:
        raise ValueError(f"no quantity {', '.join(map(repr, unknown))}; known: {', '.join(a.quantities)}")
    return list(quantities or a.quantities)


def _name(frame: pd.DataFrame) -> str:
    models = [model for model in frame["model"].unique() if not model.startswith(TWIN)]
    transforms = [name for name in frame["transform"].unique() if name != "none"]
    return ", ".join(map(str, [*models, *transforms]))
