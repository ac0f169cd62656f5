"""The examples of a data set as statistics take them.

Most numbers of a data set are smooth functions of means over its examples: exp of a mean entropy, a ratio of such, a
mean loss. A resample of the examples, or a swap of labels, needs the means alone. Statistics of pairs, as CKA, are no
function of means, and an example that is drawn twice is its own nearest neighbour: they are never resampled, and have
the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS

Floats = NDArray[np.float64]
Bounds = tuple[float | Floats, float | Floats]
_PLACES = {point for point, _ in ERANKS.values()}


@dataclass(frozen=True)
class Sample:
    """The examples of one model on one data set, and quantities that are functions of means over them.

    Attributes:
        quantities: Names of the q quantities of the data set.
        examples: Ids, sorted; n of them.
        columns: What is averaged, (n, k).
        of_means: Means (..., k) -> quantities (..., q).
        counts: How many examples stand behind each quantity, (q,); None for all of them behind each.
    """

    quantities: tuple[str, ...]
    examples: tuple[str, ...]
    columns: Floats
    of_means: Callable[[Floats], Floats]
    counts: tuple[int, ...] | None = None

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.examples)

    @property
    def means(self) -> Floats:
        """Of the columns, (k,); NaN where there is no example."""
        return np.asarray(self.columns.mean(axis=0) if self.n else np.full(self.columns.shape[1], np.nan))

    @property
    def estimates(self) -> Floats:
        """The quantities, (q,)."""
        return self.of_means(self.means)

    def of(self, examples: Sequence[str]) -> Sample:
        """The same of some of its examples.

        Args:
            examples: Ids, each in `examples`.

        Returns:
            The sample, its examples in the order given.
        """
        rows = pd.Index(self.examples).get_indexer(pd.Index(examples))
        return replace(self, examples=tuple(examples), columns=self.columns[rows])


@dataclass(frozen=True)
class PairSample(Sample):
    """Examples whose quantities are statistics of pairs of examples.

    Attributes:
        columns: What the statistic is taken of, (n, k).
        of_means: Not used.
        of_columns: Columns (n, k) -> quantities (q,), and the quantities without each example in turn, (n, q), or
            without each of g groups of examples, of equal size up to one, (g, q).
        bounds: The least and the largest value that the quantities can have, one for all or of each, (q,).
    """

    of_columns: Callable[[Floats], tuple[Floats, Floats]] = lambda columns: (columns[0], columns)
    bounds: Bounds = (-math.inf, math.inf)

    @cached_property
    def found(self) -> tuple[Floats, Floats]:
        """The quantities, (q,), and what they are without each example or group, (n, q); computed once."""
        return self.of_columns(self.columns)

    @property
    def estimates(self) -> Floats:
        """The quantities, (q,)."""
        return self.found[0]


def of_pictures(records: pd.DataFrame) -> bool:
    """Whether records are those of whole examples that a model with an LLM was fed with a picture.

    Not those of texts, not the pairs of a null alone, and not those of encoders.

    Args:
        records: Of one model and transform.

    Returns:
        Whether any stands at an image input of the five places.
    """
    return bool(((records["input"] == "image") & records["point"].isin(_PLACES)).any())


def of_encoders(records: pd.DataFrame) -> bool:
    """Whether records are those of an encoder alone, whose places are layers.

    Args:
        records: Of one model, or of it and its untrained twin.

    Returns:
        Whether an image input is there, and no place of a model with an LLM.
    """
    return bool((records["input"] == "image").any()) and not of_pictures(records)


def no_means(means: Floats) -> Floats:
    """Of statistics of pairs.

    Args:
        means: Whatever.

    Raises:
        TypeError: Always.
    """
    raise TypeError(f"statistics of pairs are not functions of means, got {means.shape}")


def of_those_there(entropies: Floats, aggregate: Aggregate) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Effective ranks over the examples that have them.

    Args:
        entropies: (n, q), NaN where an example has none.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        What is averaged, (n, 2 q), and means -> effective ranks, NaN where no example has one.
    """
    columns, mean = mean_of_those_there(entropies if aggregate == "entropy" else np.exp(entropies))
    return columns, lambda means: np.exp(mean(means)) if aggregate == "entropy" else mean(means)


def mean_of_those_there(values: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Means over the examples that have a number.

    Args:
        values: (n, q), NaN where an example has none.

    Returns:
        What is averaged, (n, 2 q), and means -> the means over those that have one, NaN where none has.
    """
    there = np.isfinite(values)

    def of_means(means: Floats) -> Floats:
        total, share = np.split(means, 2, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without any such example
            return np.asarray(total / share)

    return np.concatenate([np.where(there, values, 0.0), there.astype(np.float64)], axis=1), of_means


def wide(frame: pd.DataFrame, by: list[str], wanted: Sequence[Hashable], value: str = "entropy") -> pd.DataFrame:
    """A row per example in the order of the ids, a column per measurement.

    Args:
        frame: Records.
        by: Columns that tell measurements apart.
        wanted: Their values, of each measurement.
        value: What is taken of a record.

    Returns:
        The values, in the order of `wanted`.

    Raises:
        ValueError: A measurement is missing or there twice.
    """
    if frame.duplicated(["example", *by]).any():
        raise ValueError(f"expected one record per example and {' and '.join(by)}, got some twice")
    found = frame.pivot(index="example", columns=by, values=value).sort_index()
    missing = [name for name in wanted if name not in found.columns]
    if missing or (value == "entropy" and found[list(wanted)].isna().any(axis=None)):
        counts = ", ".join(f"{_said(name)} {found[name].count() if name in found else 0}" for name in wanted)
        raise ValueError(f"expected every measurement of every example, got {counts}")
    return found[list(wanted)]


def only(what: str, column: pd.Series[str]) -> str:
    """The one value that a column has.

    Args:
        what: Its name, for the error.
        column: Of records.

    Returns:
        The value.

    Raises:
        ValueError: There are several, or none.
    """
    found = list(map(str, column.unique()))
    if len(found) != 1:
        raise ValueError(f"expected the records of one {what}, got {', '.join(found) or 'none'}; choose its rows")
    return found[0]


def _said(name: Hashable) -> str:
    return "/".join(name) if isinstance(name, tuple) else str(name)
