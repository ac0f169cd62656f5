"""Two measurements of the same examples, from records: two models, or one model before and after a transform."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TypeVar

import pandas as pd

from mmerank.analysis.alike import stands_on
from mmerank.analysis.metric import Metric
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.known import main_metric, metric, metric_with
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.sample import Sample
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.paired import (
    PERMUTATIONS,
    ComparisonResult,
    FalseDiscovery,
    chosen_quantities,
    paired,
)
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS, FINAL

_Of = TypeVar("_Of")
MANY = 4  # models of which each two can still be read side by side


def each_two(of: Sequence[_Of]) -> Iterable[tuple[_Of, _Of]]:
    """Each two of a few models; of more than `MANY`, as of the checkpoints of a training, each with the next."""
    return combinations(of, 2) if len(of) <= MANY else pairwise(of)


def compared(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    quantities: Sequence[str] | None = None,
    names: tuple[str, str] | None = None,
    aggregate: Aggregate = "entropy",
    point: str = FINAL,
    name: str = "",
    bootstrap: Bootstrap | None = None,
    permutations: int = PERMUTATIONS,
    false_discovery: FalseDiscovery = "bh",
) -> ComparisonResult:
    """A - B on the same examples, from records; arguments and errors as of `mmerank.compare`.

    Args:
        a: Records of one model and transform, as from `mmerank.runs.record.to_frame`.
        b: The other's.
        quantities: Those to test; by default all that its metric compares models by.
        names: What A and B are called.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        point: Of texts: the hook point.
        name: Of the metric; by default that of `quantities`, or else eRank1 to eRank5 of pairs, Diff-eRank of texts.
        bootstrap: Level, resamples, seed and method.
        permutations: Most swaps to try.
        false_discovery: `bh` or `by`.

    Returns:
        The differences.

    Raises:
        ValueError: They cannot be compared.
    """
    of = metric(name) if name else main_metric(a)
    owners = {metric_with(quantity) for quantity in quantities or () if not name and of.quantity(quantity) is None}
    if len(owners) == 1 and (owner := owners.pop()):  # numbers of one other metric
        of, name = metric(owner), owner
        quantities = [quantity.removeprefix(of.prefix) for quantity in quantities or ()]
    if not name and main_metric(b) is not of:
        raise ValueError(f"expected the same measurements on both sides, got {of.title} and {main_metric(b).title}")
    one, other = (_sample(frame, of, aggregate, point) for frame in (a, b))
    if ("reduced_loss" in one.quantities) != ("reduced_loss" in other.quantities):  # a causal model and an encoder
        one, other = (_sample(frame.assign(predicted=0), of, aggregate, point) for frame in (a, b))
    common = sorted(set(one.examples) & set(other.examples))
    if not common:
        raise ValueError(f"expected examples in common, got none: {one.n} on one side and {other.n} on the other")
    if unlike := unlike_examples(a, b):
        raise ValueError(f"expected the same examples on both sides, got {unlike}")
    if quantities is None:
        quantities = [name for name in one.quantities if name.startswith(of.compared)]
    chosen = chosen_quantities(one, other, quantities)
    logs = {name for name in chosen if (known := of.quantity(name)) and known.differs == "log"}
    found = paired(
        one.of(common),
        other.of(common),
        chosen,
        names=names or (shown_name(a), shown_name(b)),
        unpaired=one.n + other.n - 2 * len(common),
        logs=logs,
        bootstrap=bootstrap or Bootstrap(),
        permutations=permutations,
        false_discovery=false_discovery,
        matched=of.prefix == MATCHED,
    )
    return replace(found, unlike=_on_other_rows(a, b, chosen) if of.follows_rows and of.prefix != MATCHED else ())


def _on_other_rows(a: pd.DataFrame, b: pd.DataFrame, chosen: Sequence[str]) -> tuple[str, ...]:
    """Quantities of pairs or texts that stand on other numbers of rows in A than in B."""
    keys = ["example", "point", "input"]
    one, other = (frame[~frame["model"].str.startswith(TWIN)].set_index(keys)["n"] for frame in (a, b))
    if not one.index.is_unique or not other.index.is_unique:
        return ()
    common = one.index.intersection(other.index)
    unlike = {of[1:] for of in common[(one[common] != other[common]).to_numpy()]}
    if (FINAL, "text") in unlike:
        return tuple(chosen)
    labels = [label for label, where in ERANKS.items() if where in unlike]
    return tuple(name for name in chosen if {*labels} & {*stands_on(name)})


def _sample(frame: pd.DataFrame, of: Metric, aggregate: Aggregate, point: str) -> Sample:
    found = dict(of.samples(frame, aggregate))
    chosen = found.get(point) or found.get("")
    if chosen is not None and chosen.n:
        return chosen
    if of.prefix == MATCHED:
        raise ValueError(
            f"no numbers of {shown_name(frame)} on equally many rows; they are measured with --match-tokens, of "
            "examples that have as many rows at each of the five places"
        )
    if found:
        raise ValueError(f"no record of hook point {point!r}; known: {', '.join(found)}")
    raise ValueError(f"no {of.name} was measured of {shown_name(frame)}")


def unlike_examples(a: pd.DataFrame, b: pd.DataFrame) -> str | None:
    """Examples of one id that are not the same ones, by the hashes of text and picture that stand in their records.

    Args:
        a: As from `mmerank.runs.record.to_frame`; records of versions that took no hashes tell nothing.
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


def shown_name(frame: pd.DataFrame) -> str:
    """What a side of a comparison is called where it was given no name: model, and transform unless it is `none`.

    Args:
        frame: Its records.

    Returns:
        The name.
    """
    models = [model for model in frame["model"].unique() if not model.startswith(TWIN)]
    transforms = [name for name in frame["transform"].unique() if name != "none"]
    return ", ".join(map(str, [*models, *transforms]))
