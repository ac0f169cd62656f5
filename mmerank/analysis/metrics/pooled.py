"""Metrics of rows that are pooled over a data set: MIR, and how well a map takes one layer to the next.

The records have the same few rows of an example at every layer, so that rows of two layers are paired. A statistic of
pooled rows is no function of means over examples, and an example that is drawn twice would be in both halves of the
fit: intervals are by the jackknife, which leaves out groups of examples.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.embedded import groups
from mmerank.analysis.metrics.layers import layer_names
from mmerank.analysis.sample import Floats, PairSample, Sample, no_means, of_pictures
from mmerank.eranks import FINAL
from mmerank.formulas.asked import value_of
from mmerank.formulas.entry import FITTED, Entry

# Of more examples a random choice is taken: a fit takes rows times the square of the width, and MIR, published of 100
# examples, matrices as large as the pooled rows.
MOST_FITTED, MOST_OF_LAYERS = 1000, 100
# Each is left out in turn, and all computed anew.
GROUPS = 10
# Rows of the fit for each column, and for the offset: with as many rows as columns it is noise on other rows.
_ROWS_FOR_EACH = 2
_CALLED = {
    "x": "the rows of the first layer",
    "y": "the rows of the second layer",
    "x_new": "the held-out rows of the first layer",
    "y_new": "the held-out rows of the second layer",
    "image": "the pooled image rows",
    "text": "the pooled text rows",
}

# Of each example its image rows and its text rows, (k, d) each.
Kept = list[tuple[Floats, Floats]]


@dataclass
class Pooled:
    """A metric of pooled rows at several places, and it without each group of examples.

    Attributes:
        metric: It.
        places: Of each the layers that it is taken of.
        examples: Ids of all examples.
        reasons: Why a place has no number, by its position.
    """

    metric: Entry
    places: tuple[tuple[Kept, ...], ...]
    examples: tuple[str, ...]
    reasons: dict[int, str] = field(default_factory=dict)

    def __call__(self, columns: Floats) -> tuple[Floats, Floats]:
        """As `PairSample.of_columns`; the only column is the position of the example."""
        chosen = columns[:, 0].astype(np.int64)
        fits = self._fits(chosen)
        group = groups(len(chosen), GROUPS)
        kept = [group != of for of in range(int(group.max(initial=-1)) + 1)]
        values, without = np.full(len(self.places), np.nan), np.full((len(kept), len(self.places)), np.nan)
        self.reasons.clear()
        for i, layers in enumerate(self.places):
            found = self._few(layers, chosen, fits) or self._at(layers, chosen, fits)
            if isinstance(found, str):
                self.reasons[i] = found
                continue
            values[i] = found
            left = (self._at(layers, chosen[rows], fits[rows]) for rows in kept)
            without[:, i] = [math.nan if isinstance(of, str) else of for of in left]
        return values, without

    def _fits(self, chosen: Any) -> Any:
        """Which examples the map is fitted to: a half that follows from their ids, whatever the order."""
        order = np.argsort([random.Random(f"held out/{self.examples[i]}").random() for i in chosen], kind="stable")
        fits = np.zeros(len(chosen), bool)
        fits[order[: (len(chosen) + 1) // 2]] = True
        return fits

    def _few(self, layers: Sequence[Kept], chosen: Any, fits: Any) -> str:
        if self.metric.takes != FITTED or not len(chosen):
            return ""
        width = layers[0][chosen[0]][0].shape[1]
        rows = sum(len(part) for i in chosen[fits] for part in layers[0][i])
        if rows >= _ROWS_FOR_EACH * (width + 1):
            return ""
        return (
            f"a map of width {width} is fitted to at least {_ROWS_FOR_EACH * (width + 1)} rows, and those kept of "
            f"{int(fits.sum())} examples, half of all, are {rows}; take more examples"
        )

    def _at(self, layers: Sequence[Kept], chosen: Any, fits: Any) -> float | str:
        arrays: list[Any]
        if self.metric.takes == FITTED:
            halves = (chosen[fits], chosen[~fits])
            arrays = [_together([part for i in half for part in of[i]]) for half in halves for of in layers]
        else:
            arrays = [[tuple(_together([of[i][side] for i in chosen]) for side in (0, 1)) for of in layers]]
        return value_of(self.metric, lambda: self.metric.function(*arrays), _CALLED)


def _together(parts: list[Floats]) -> Floats:
    return np.concatenate(parts, dtype=np.float64) if parts else np.zeros((0, 1))


def pooled_samples(metric: Entry, records: pd.DataFrame) -> Iterator[tuple[str, Sample]]:
    """A metric of pooled rows: of all layers together, or from each layer to the next that was measured.

    Args:
        metric: It.
        records: Of one model (of texts: with its untrained twins) and transform, as from
            `mmerank.runs.record.to_frame`.

    Yields:
        The sample, of texts for each two layers; nothing where no rows were kept.
    """
    if "rows_image" not in records:
        return
    fitted = metric.takes == FITTED
    there = records[records["rows_image"].notna()]
    if there.empty:
        return
    if of_pictures(records):
        layers = [*layer_names(there["point"]), "llm"]
        examples, kept = _kept(there, layers, fitted)
        places: dict[str, tuple[str, ...]]
        if fitted:
            places = {f"{a} to {b}": (a, b) for a, b in pairwise(layers)}
        else:
            places = {"llm" if len(layers) == 1 else f"{len(layers)} layers": tuple(layers)}
        names = tuple(f"{metric.name}/{place}/pair" for place in places)
        of_places = tuple(tuple(kept[point] for point in points) for points in places.values())
        most = 1.0 if metric.high == "1" else math.inf
        yield "", _sample(names, examples, Pooled(metric, of_places, examples), (-math.inf, most))
    elif fitted and set(records["input"]) == {"text"}:
        models = sorted(there["model"].unique(), key=lambda name: str(name).startswith(TWIN))
        twins = [model for model in models if str(model).startswith(TWIN)]
        if len(models) - len(twins) != 1 or not twins:
            return
        layers = [*layer_names(there["point"]), FINAL]
        common = set.intersection(*(set(of["example"]) for _, of in there.groupby("model")))
        there = there[there["example"].isin(common)]
        each = [_kept(there[there["model"] == model], layers, fitted) for model in models]
        examples = each[0][0]
        for a, b in pairwise(layers):
            of_models = Pooled(metric, tuple((kept[a], kept[b]) for _, kept in each), examples)
            names = tuple(f"{metric.name}/{end}" for end in ("untrained", "trained", "difference"))
            ends = np.array([1.0, 1.0, math.inf]) if metric.high == "1" else math.inf  # a difference has no bound
            yield f"{a} to {b}", _sample(names, examples, _Ends(of_models), (-math.inf, ends))


def _sample(names: tuple[str, ...], examples: tuple[str, ...], statistic: Any, bounds: tuple[Any, Any]) -> PairSample:
    places = np.arange(len(examples), dtype=np.float64)[:, None]
    return PairSample(names, examples, places, no_means, of_columns=statistic, bounds=bounds)


@dataclass
class _Ends:
    """The same of a trained model, which comes first, and its twins: untrained, trained, and their difference."""

    each: Pooled

    @property
    def reasons(self) -> dict[int, str]:
        """Why there is no number: of a model none, then of none of them."""
        found = next(iter(self.each.reasons.values()), "")
        return dict.fromkeys(range(3), found) if found else {}

    def __call__(self, columns: Floats) -> tuple[Floats, Floats]:
        """As `PairSample.of_columns`."""
        values, without = map(self._ends, self.each(columns))
        return values, without

    @staticmethod
    def _ends(found: Floats) -> Floats:
        before, after = found[..., 1:].mean(axis=-1), found[..., 0]
        ends = np.stack([before, after, before - after], axis=-1)
        return np.where(np.isfinite(ends).all(axis=-1, keepdims=True), ends, np.nan)


def _kept(records: pd.DataFrame, layers: Sequence[str], fitted: bool) -> tuple[tuple[str, ...], dict[str, Kept]]:
    """Ids of the examples, sorted, at most so many; and at each layer the rows of each."""
    ids = sorted(map(str, records["example"].unique()))
    most = MOST_FITTED if fitted else MOST_OF_LAYERS
    chosen = ids if len(ids) <= most else sorted(random.Random(0).sample(ids, most))
    found: dict[str, Kept] = {}
    for point in layers:
        of = records[records["point"] == point].set_index("example").loc[chosen]
        found[point] = [
            (np.reshape(image, (-1, d)), np.reshape(text, (-1, d)))
            for image, text, d in zip(of["rows_image"], of["rows_text"], of["d"], strict=True)
        ]
    return tuple(chosen), found
