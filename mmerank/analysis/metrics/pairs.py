"""Statistics of pairs that a run was asked for: image states at a hook point with the texts' at the LLM.

They are of the examples' mean states, over the data set, so an example has no number. Intervals are by the jackknife:
of CKA and mutual k-NN at the price of one matrix, of the others by leaving each example out of up to `LEFT_OUT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mmerank.analysis.metrics.cka import cka_without_each
from mmerank.analysis.metrics.mean_states import mean_states
from mmerank.analysis.metrics.mutual_knn import knn_without_each
from mmerank.analysis.pairing import PERMUTATIONS, against_null
from mmerank.analysis.sample import Floats, PairSample, Sample, no_means
from mmerank.analysis.statistics.calibration import Permuted, permuted
from mmerank.convention import Aggregate
from mmerank.formulas.asked import value_of
from mmerank.formulas.entry import Entry
from mmerank.formulas.similarity import permuted_cka, permuted_knn

# With more examples, what has no shorter way has no interval and no null: each example is a computation anew.
LEFT_OUT = 100
# Of the pairing, where each is a computation anew.
FEWER_PERMUTATIONS = 199
_K = 10
_ACROSS = "knn_overlap_connector_10"
_SHORTER: dict[str, Callable[[Floats, Floats], Floats]] = {
    "cka_linear_biased": cka_without_each,
    "mutual_knn_10": lambda x, y: knn_without_each(x, y, _K),
}


@dataclass
class Statistics:
    """A statistic at several places, and it without each example in turn; of one sample each is computed once.

    Attributes:
        metric: It.
        widths: Of the states that it takes at each place, side by side.
        reasons: Why a place has no number, by its position.
    """

    metric: Entry
    widths: tuple[tuple[int, ...], ...]
    reasons: dict[int, str] = field(default_factory=dict)
    _last: tuple[Floats, tuple[Floats, Floats]] | None = None

    def __call__(self, columns: Floats) -> tuple[Floats, Floats]:
        """As `PairSample.of_columns`."""
        if self._last is None or self._last[0] is not columns:
            self.reasons.clear()
            each = [self._at(i, arrays) for i, arrays in enumerate(self.arrays(columns))]
            values, without = zip(*each, strict=True)
            self._last = columns, (np.array(values), np.stack(without, axis=1))
        return self._last[1]

    def arrays(self, columns: Floats) -> list[list[Floats]]:
        """What the statistic takes at each place."""
        ends = np.cumsum([width for at in self.widths for width in at])[:-1]
        parts = iter(np.split(columns, ends, axis=1))
        return [[next(parts) for _ in at] for at in self.widths]

    def _at(self, place: int, arrays: list[Floats]) -> tuple[float, Floats]:
        n = len(arrays[0])
        value = self._value(arrays)
        without = np.full(n, np.nan)
        if isinstance(value, str):
            self.reasons[place] = value
            return math.nan, without
        if (shorter := _SHORTER.get(self.metric.name)) is not None:
            without = shorter(arrays[0], arrays[1])
        elif n <= LEFT_OUT and self.metric.kind != "your own":
            left = (self._value([np.delete(of, i, axis=0) for of in arrays]) for i in range(n))
            without = np.array([math.nan if isinstance(of, str) else of for of in left])
        return value, without

    def _value(self, arrays: list[Floats]) -> float | str:
        if len(arrays) > 1 and self.metric.name in _ONE_SPACE and arrays[0].shape[1] != arrays[1].shape[1]:
            return f"states of width {arrays[0].shape[1]} and {arrays[1].shape[1]} do not lie in one space"
        return value_of(self.metric, lambda: self.metric.function(*arrays), *_CALLED.get(self.metric.name, ()))


# Which are of other states than those of images and of texts.
_CALLED = {
    _ACROSS: (
        {
            "x": "the states before the connector, a row for each example",
            "y": "the states behind the connector, a row for each example",
            "x and y": "states before and behind the connector, a row for each example",
        },
    ),
    "uniformity_wang_isola_t2_of_Y": ({"y": "the states, a row for each example"},),
}
# Which hold a state against one of another modality directly.
_ONE_SPACE = ("alignment_wang_isola_a2", "infonce_symmetric_tau0.1")


def pair_samples(metric: Entry, records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """A statistic of pairs at each of the places that it is taken at.

    Args:
        metric: It.
        records: Of one model and transform, as from `mmerank.runs.record.to_frame`.
        aggregate: Not used.

    Yields:
        The sample; nothing where the mean states were not kept.
    """
    if (found := mean_states(records)) is None:
        return
    examples, images, text = found
    places: dict[str, tuple[Floats, ...]]
    if metric.name == _ACROSS:
        both = [images[point] for point in ("vision", "connector") if point in images]
        places = {"connector/image": tuple(both)} if len(both) == 2 else {}
    elif metric.takes == ("y",):
        places = {**{f"{point}/image": (x,) for point, x in images.items()}, "llm/text": (text,)}
    else:
        places = {f"{point}/pair": (x, text) for point, x in images.items()}
    if not places:
        return
    statistics = Statistics(metric, tuple(tuple(of.shape[1] for of in at) for at in places.values()))
    columns = np.concatenate([of for at in places.values() for of in at], axis=1)
    names = tuple(f"{metric.name}/{place}" for place in places)
    bounds = (_bound(metric.low, -math.inf), _bound(metric.high, math.inf))
    yield "", PairSample(names, examples, columns, no_means, of_columns=statistics, bounds=bounds)


def _bound(stated: str, default: float) -> float:
    """A number that a metric cannot pass; of a formula, or nothing, the default."""
    try:
        return float(stated)
    except ValueError:
        return default


def nulls(sample: PairSample) -> list[dict[str, float | None] | None]:
    """Each number of a statistic of pairs beside what it is when the pairing is shuffled.

    Args:
        sample: From `pair_samples`, or of pooled rows, of which there is nothing to shuffle.

    Returns:
        What `mmerank.analysis.pairing.against_null` gives, one-sided; None where nothing is paired, more is not
        better, or each shuffle would be a computation anew of more than `LEFT_OUT` examples.
    """
    of = sample.of_columns
    if not isinstance(of, Statistics):
        return [None] * len(sample.quantities)
    values, _ = of(sample.columns)
    found: list[dict[str, float | None] | None] = []
    for value, arrays in zip(values, of.arrays(sample.columns), strict=True):
        statistic, permutations = _permuted(of.metric, arrays, sample.n)
        known = statistic is not None and of.metric.better == "higher" and math.isfinite(value)
        found.append(against_null(statistic, sample.n, permutations, 0) if known and statistic is not None else None)
    return found


def _permuted(metric: Entry, arrays: list[Floats], n: int) -> tuple[Permuted | None, int]:
    if len(arrays) == 2 and metric.name == "cka_linear_biased":
        return permuted_cka(arrays[0], arrays[1]), PERMUTATIONS
    if len(arrays) == 2 and metric.name == "mutual_knn_10":
        return permuted_knn(arrays[0], arrays[1], _K), PERMUTATIONS
    if len(arrays) < 2 or n > LEFT_OUT or metric.name == "dime_10_perms_linear":
        return None, 0
    return permuted(metric.function, arrays[0], arrays[1]), FEWER_PERMUTATIONS
