"""eRank of each picture's own rows, of examples that have several: of the first pictures, of the second, of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS

PICTURE = "picture "
EACH = "each picture"
# Where the rows of a picture are measured, and what can move them.
LABELS: dict[str, Literal["image", "pair"]] = {"erank1": "image", "erank2": "image", "erank5": "pair"}


def _named(name: str) -> Quantity | None:
    which, _, label = name.rpartition("/")
    if label not in LABELS or not (which == EACH or which.startswith(PICTURE)):
        return None
    number = label.replace("erank", "eRank")
    return Quantity(name, f"{number}, {which}", differs="log", sees=LABELS[label])


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """By place in its example, and over all pictures; an example is drawn with all that it has."""
    if "entropy_pictures" not in records or not (of_several := records["entropy_pictures"].notna()).any():
        return
    there = records[of_several]
    values, examples = [], sorted(there["example"].unique())
    most = max(map(len, there["entropy_pictures"]))
    labels = [label for label in LABELS if ERANKS[label] in set(zip(there["point"], there["input"], strict=True))]
    for label in labels:
        point, kind = ERANKS[label]
        at = there[(there["point"] == point) & (there["input"] == kind)].set_index("example")["entropy_pictures"]
        values.append([np.pad(of, (0, most - len(of)), constant_values=np.nan) for of in at.loc[examples]])
    entropies = np.moveaxis(np.array(values, dtype=np.float64), 0, 2)  # (n, most, labels)
    entropies = entropies if aggregate == "entropy" else np.exp(entropies)
    told = np.isfinite(entropies)
    sums = np.where(told, entropies, 0.0)
    columns = [
        np.concatenate([of.sum(axis=1, keepdims=True), of], axis=1).reshape(len(examples), -1)
        for of in (sums, told.astype(np.float64))
    ]

    def of_means(means: Floats) -> Floats:
        total, share = np.split(means, 2, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without so many pictures
            mean = np.asarray(total / share)
        return np.exp(mean) if aggregate == "entropy" else mean

    places = [EACH, *(f"{PICTURE}{i + 1}" for i in range(most))]
    counts = np.concatenate([told.any(axis=1, keepdims=True), told], axis=1).sum(axis=0).ravel()
    yield (
        "",
        Sample(
            tuple(f"{place}/{label}" for place in places for label in labels),
            tuple(examples),
            np.concatenate(columns, axis=1),
            of_means,
            tuple(map(int, counts)),
        ),
    )


METRIC = Metric(
    "pictures", "eRank by picture of an example", (), _samples, follows_rows=True, named=_named, own_place=True
)
