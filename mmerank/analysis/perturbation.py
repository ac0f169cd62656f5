"""What a change of the input did to the numbers, and what they would be if picture and text had nothing to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, get_args

import pandas as pd

from mmerank.analysis.comparison import compared
from mmerank.analysis.metric import Metric
from mmerank.analysis.metrics.alignment import ALIGNMENT, QUANTITIES, dataset_erank, image_text_alignment
from mmerank.analysis.metrics.known import listed_metrics, metric, metrics_of
from mmerank.analysis.metrics.matched import matched_alignment, unmatched
from mmerank.analysis.sample import of_encoders
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.null import NullTest, null_test
from mmerank.analysis.statistics.paired import ComparisonResult, FalseDiscovery, controlled
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.inputs.transforms.known import KNOWN
from mmerank.inputs.variants import BASE, Control
from mmerank.runs.record import Record


@dataclass(frozen=True)
class Null:
    """What eRank5 and the Image-Text Alignment are for pictures with other examples' texts.

    Attributes:
        control: `mismatch` or `independent`.
        draws: Quantity -> its value in each draw.
        tests: Quantity -> where the base's value stands among them.
    """

    control: Control
    draws: dict[str, tuple[float, ...]]
    tests: dict[str, NullTest]

    def to_dict(self, n: int) -> dict[str, Any]:
        """As `--json` prints it.

        Args:
            n: Number of examples.

        Returns:
            JSON values.
        """
        quantities = {name: {**self.tests[name].to_dict(), "null": list(draws)} for name, draws in self.draws.items()}
        return {"control": self.control, "draws": len(self.draws["erank5"]), "n": n, **quantities}


def deltas(base: Mapping[str, float], changed: Mapping[str, float]) -> dict[str, float]:
    """How much higher each quantity is after the change.

    Args:
        base: The quantities before.
        changed: The same after.

    Returns:
        Changed minus base, by quantity.

    Example:
        >>> deltas({"erank1": 1.0, "erank2": 1.0}, {"erank1": 3.5, "erank2": 1.0})
        {'erank1': 2.5, 'erank2': 0.0}
    """
    return {name: changed[name] - base[name] for name in base}


def matched_deltas(
    base: Iterable[Record], changed: Iterable[Record], *, tokens: int, repeats: int, aggregate: Aggregate = "entropy"
) -> dict[str, float | None]:
    """The same on equally many rows everywhere, over the examples that have as many before and after.

    Args:
        base: Records before, see `mmerank.analysis.metrics.matched.matched_alignment`.
        changed: After.
        tokens: Rows in each draw.
        repeats: Draws.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        `n`, the number of examples, and changed minus base by quantity; None where there is no example.
    """
    both = [list(base), list(changed)]
    short = unmatched(both[0]) | unmatched(both[1])
    before, after = (
        matched_alignment(
            [r for r in records if r.example not in short], tokens=tokens, repeats=repeats, aggregate=aggregate
        )
        for records in both
    )
    found: dict[str, Any] = dict.fromkeys(ALIGNMENT)
    if before["n"]:
        found = deltas(*({name: numbers[name] for name in ALIGNMENT} for numbers in (before, after)))
    return {"n": before["n"], **found}


def fixed_quantities(transform: str) -> tuple[str, ...]:
    """The quantities that a transform cannot move, since they do not see what it changes.

    `other` and `other-text` alone deal the same pictures or texts out anew, so only what sees pairs can move.

    Args:
        transform: Its name.

    Returns:
        In the order of `ALIGNMENT`; all of them for `identity`.

    Example:
        >>> fixed_quantities("rotate:90"), fixed_quantities("identity+shuffle-words")
        (('erank4',), ('erank1', 'erank2', 'erank3', 'image_reduction_ratio'))
    """
    return tuple(quantity.name for quantity in QUANTITIES if quantity.sees not in seen_by(transform))


def seen_by(transform: str) -> set[str]:
    """What of an example a transform changes, as `mmerank.analysis.metric.Quantity.sees` has it.

    Args:
        transform: Its name.

    Returns:
        Some of `image`, `text` and `pair`; nothing for `identity`.

    Example:
        >>> sorted(seen_by("rotate:90")), seen_by("other")
        (['image', 'pair'], {'pair'})
    """
    moved: set[str] = set()
    for kind in {step.partition(":")[0] for step in transform.split("+")} - {"identity"}:
        if kind in ("other", "other-text"):
            moved.add("pair")
        elif kind in KNOWN:
            moved |= {"pair", "text" if KNOWN[kind].of == "text" else "image"}
        else:  # one's own: what it moves in no example is fixed all the same
            moved |= {"image", "text", "pair"}
    return moved


def paired_tests(
    records: pd.DataFrame,
    *,
    aggregate: Aggregate = "entropy",
    bootstrap: Bootstrap | None = None,
    false_discovery: FalseDiscovery = "bh",
    of: str = "alignment",
) -> dict[str, ComparisonResult]:
    """Each transform minus the base on the same examples: interval, tests, effect sizes, what could have been seen.

    Args:
        records: Of one model, as from `mmerank.runs.record.to_frame`; those of nulls are passed over.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.
        false_discovery: How `q` is made, over all transforms and of each the quantities that it can move, and does in
            some example.
        of: Name of the metric, see `mmerank.analysis.metrics.known`.

    Returns:
        By transform, in the order of the records; only transforms with examples that have such numbers before and
        after.
    """
    kept = records[~_control(records).isin(get_args(Control))]
    by_transform = {str(name): frame for name, frame in kept.groupby("transform", sort=False)}
    base = by_transform.pop(BASE.name, kept)
    measure = metric(of)
    there = _examples(base, measure, aggregate)
    found: dict[str, ComparisonResult] = {}
    for name, frame in by_transform.items():
        if not there & _examples(frame, measure, aggregate):
            continue
        how = partial(compared, names=(name, "base"), aggregate=aggregate, bootstrap=bootstrap, name=of)
        comparison = joined([how(frame, base, point=point) for point, _ in measure.samples(base, aggregate)])
        moved = seen_by(name)
        fixed = (
            d.quantity
            for d in comparison.differences
            if d.quantity in comparison.fixed or ((known := measure.quantity(d.quantity)) and known.sees not in moved)
        )
        found[name] = replace(comparison, fixed=tuple(fixed))
    return dict(zip(found, controlled(found.values(), false_discovery), strict=True))


def metric_tests(
    records: pd.DataFrame,
    *,
    aggregate: Aggregate = "entropy",
    bootstrap: Bootstrap | None = None,
    false_discovery: FalseDiscovery = "bh",
) -> dict[str, dict[str, ComparisonResult]]:
    """The same of several metrics, with `q` over all of their tests together.

    Of pairs these are the metrics that results list by name. The numbers that every run has are apart: asking for
    more does not change what is said of them. Of encoders they are all that there are.

    Args:
        records: As for `paired_tests`, as are all others.
        aggregate: See there.
        bootstrap: See there.
        false_discovery: See there.

    Returns:
        By name of the metric (of one that was asked for, its column) and transform; only metrics with numbers before
        and after one.
    """
    each = {
        of: tests
        for of in (metric.name for metric in (metrics_of if of_encoders(records) else listed_metrics)(records))
        if (tests := paired_tests(records, aggregate=aggregate, bootstrap=bootstrap, of=of))
    }
    together = iter(controlled((one for tests in each.values() for one in tests.values()), false_discovery))
    return {of: {name: next(together) for name in tests} for of, tests in each.items()}


def joined(comparisons: Sequence[ComparisonResult]) -> ComparisonResult:
    """Comparisons of one transform with the base on the same examples, by different numbers, as one.

    Args:
        comparisons: At least one; each `q` stays as it is.

    Returns:
        All their differences.
    """
    first = max(comparisons, key=lambda of: of.permutations)  # statistics of pairs have no swaps
    return replace(
        first,
        differences=tuple(found for of in comparisons for found in of.differences),
        fixed=tuple(name for of in comparisons for name in of.fixed),
    )


def _examples(records: pd.DataFrame, of: Metric, aggregate: Aggregate) -> set[str]:
    return {example for _, sample in of.samples(records, aggregate) for example in sample.examples}


def differences_frame(tests: Mapping[str, ComparisonResult]) -> pd.DataFrame:
    """A row per transform and quantity.

    Args:
        tests: From `paired_tests`.

    Returns:
        `transform`, the columns of `mmerank.analysis.statistics.paired.PairedDifference` (`a` is after, `b` before),
        `n`, `fixed`: whether the transform cannot move the quantity, and `tests`, over how many `q` is.
    """
    rows = [
        {
            "transform": name,
            **asdict(found),
            "n": comparison.n,
            "fixed": found.quantity in comparison.fixed,
            "tests": comparison.tests,
        }
        for name, comparison in tests.items()
        for found in comparison.differences
    ]
    return pd.DataFrame(rows)


def against_nulls(records: pd.DataFrame, *, aggregate: Aggregate = "entropy") -> tuple[Null, ...]:
    """eRank5 and the Image-Text Alignment with other examples' texts, and where the base's stand among them.

    A derangement gives each text to another picture, so eRank3 and eRank4 are those of the base.

    Args:
        records: Of one model, as from `mmerank.runs.record.to_frame`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        A null for each control that there are records of.
    """
    base = records[records["transform"] == BASE.name]
    e3, e4, e5 = (
        dataset_erank(there, aggregate=aggregate) if there else math.nan
        for there in (
            base[(base["point"] == point) & (base["input"] == kind)]["entropy"].tolist()
            for point, kind in (ERANKS[name] for name in ("erank3", "erank4", "erank5"))
        )
    )
    here = {"erank5": e5, "image_text_alignment": image_text_alignment(e3, e4, e5)}
    found = []
    for control in get_args(Control):
        pairs = records[_control(records) == control]
        if pairs.empty:
            continue
        by_draw = pairs.groupby(pairs["transform"].str.partition("/")[2].astype(int))["entropy"]
        eranks = [dataset_erank(entropies.tolist(), aggregate=aggregate) for _, entropies in by_draw]
        draws = {
            "erank5": tuple(eranks),
            "image_text_alignment": tuple(image_text_alignment(e3, e4, e) for e in eranks),
        }
        draws = {name: values for name, values in draws.items() if not math.isnan(here[name])}
        found.append(Null(control, draws, {name: null_test(here[name], values) for name, values in draws.items()}))
    return tuple(found)


def _control(records: pd.DataFrame) -> pd.Series[str]:
    """What stands before the `/` of a null's transform, `CONTROL/DRAW`."""
    return records["transform"].str.partition("/")[0]
