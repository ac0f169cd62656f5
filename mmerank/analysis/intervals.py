"""Confidence intervals of the numbers of a data set, from records."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from mmerank.analysis.metrics.diff_erank import layers_in
from mmerank.analysis.metrics.known import main_sample
from mmerank.analysis.metrics.layers import METRIC as LAYERS
from mmerank.analysis.metrics.vision_layers import METRIC as VISION_LAYERS
from mmerank.analysis.sample import Floats
from mmerank.analysis.statistics.bootstrap import (
    Bootstrap,
    Interval,
    bootstrap_limits,
    influence,
    limits,
    resampled_means,
    sample_intervals,
)
from mmerank.convention import Aggregate
from mmerank.eranks import FINAL

_OF_LAYERS = ("point", "rows", "value", "low", "high", "n")


def intervals(
    records: pd.DataFrame,
    *,
    aggregate: Aggregate = "entropy",
    point: str = FINAL,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Interval]:
    """Confidence intervals of every quantity of a data set, from the records of one model.

    Examples are drawn with replacement; one draw serves all measurements and all quantities, so that both ratios are
    taken of the five eRanks of the same examples.

    Args:
        records: As from `mmerank.runs.record.to_frame`, of one model (of texts: with its untrained twins) and
            transform.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        point: Of texts: the hook point.
        bootstrap: Level, resamples, seed and method.

    Returns:
        (low, high) by quantity; empty if there are fewer than two examples, or where it cannot be computed.
    """
    return sample_intervals(main_sample(records, aggregate=aggregate, point=point), bootstrap)


def intervals_by_point(
    records: pd.DataFrame, *, aggregate: Aggregate = "entropy", bootstrap: Bootstrap | None = None
) -> dict[str, dict[str, Interval]]:
    """`intervals` of texts at every hook point, from one set of resamples.

    Args:
        records: Of one trained model and its untrained twins.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.

    Returns:
        (low, high) by quantity, by hook point in the order of the records.
    """
    points = layers_in(records)
    samples = [main_sample(records, aggregate=aggregate, point=point) for point in points]
    ends = np.cumsum([s.columns.shape[1] for s in samples])[:-1]

    def of_means(means: Floats) -> Floats:
        parts = np.split(means, ends, axis=-1)
        return np.concatenate([s.of_means(part) for s, part in zip(samples, parts, strict=True)], axis=-1)

    columns = np.concatenate([s.columns for s in samples], axis=1)
    found: dict[str, dict[str, Interval]] = {point: {} for point in points}
    places = [(point, name) for point, s in zip(points, samples, strict=True) for name in s.quantities]
    limits = bootstrap_limits(columns, of_means, bootstrap or Bootstrap())
    for (point, name), low, high in zip(places, *limits, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            found[point][name] = (float(low), float(high))
    return found


def layer_eranks(
    records: pd.DataFrame,
    *,
    aggregate: Aggregate = "entropy",
    bootstrap: Bootstrap | None = None,
    of_vision: bool = False,
) -> pd.DataFrame:
    """The data-set eRank of the pair at each layer that was measured, by the rows that it is taken of.

    Each has its own centre: image and text rows that lie far apart have a low eRank together and high ones alone.

    Args:
        records: Of one model and one transform, as from `mmerank.runs.record.to_frame`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.
        of_vision: Of the picture at each layer of the vision encoder instead (`all` and `equal` rows).

    Returns:
        A row per hook point, from the first layer to `llm`, and per `rows` (`all`, `image`, `text`, and with
        `match_tokens` `equal`): `point`, `rows`, `value`, `low`, `high` (NaN with fewer than two examples), and `n`,
        the examples with such an eRank. Nothing where no layer was measured.
    """
    found = []
    for _, sample in (VISION_LAYERS if of_vision else LAYERS).samples(records, aggregate):
        assert sample.counts is not None
        limits = sample_intervals(sample, bootstrap)
        for name, value, n in zip(sample.quantities, sample.estimates, sample.counts, strict=True):
            point, _, rows = name.partition("/")
            found.append((point, rows, float(value), *limits.get(name, (math.nan, math.nan)), n))
    return pd.DataFrame(found, columns=_OF_LAYERS)


def difference_of_groups(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    aggregate: Aggregate = "entropy",
    point: str = FINAL,
    bootstrap: Bootstrap | None = None,
) -> pd.DataFrame:
    """A - B of two independent groups of examples, as of two data sets; for the same examples see `compare`.

    Args:
        a: Records of one group, as for `intervals`.
        b: Of the other, with no example in common.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        point: Of texts: the hook point.
        bootstrap: Level, resamples, seed and method; the groups are resampled independently.

    Returns:
        A row per quantity that both have: `quantity`, `a`, `b`, `difference`, `low`, `high`.
    """
    bootstrap = bootstrap or Bootstrap()
    first, second = (main_sample(frame, aggregate=aggregate, point=point) for frame in (a, b))
    rng = np.random.default_rng(bootstrap.seed)
    drawn = [s.of_means(resampled_means(s.columns, bootstrap.resamples, rng)) for s in (first, second)]
    effects = [influence(s.columns, s.of_means) for s in (first, second)]
    shared = [name for name in first.quantities if name in second.quantities]
    one, other = ([s.quantities.index(name) for name in shared] for s in (first, second))
    low, high = limits(
        drawn[0][:, one] - drawn[1][:, other],
        first.estimates[one] - second.estimates[other],
        np.concatenate([effects[0][:, one], -effects[1][:, other]]),
        min(first.n, second.n),
        bootstrap,
    )
    values = {"a": first.estimates[one], "b": second.estimates[other]}
    found = pd.DataFrame({"quantity": shared, **values, "low": low, "high": high})
    found.insert(3, "difference", found["a"] - found["b"])
    return found
