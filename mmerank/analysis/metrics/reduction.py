"""The Image Reduction Ratio in two parts: what fewer rows take of eRank1, and what the connector does to them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample, of_pictures, wide
from mmerank.convention import AT_CONNECTOR_ROWS, Aggregate
from mmerank.eranks import ERANKS
from mmerank.runs.record import VALUE

_COLUMN = f"{VALUE}{AT_CONNECTOR_ROWS}"
QUANTITIES = (
    Quantity("reduction_by_count", "by fewer rows", "by count", 3, sees="image"),
    Quantity("reduction_by_geometry", "by the connector itself", "by geometry", 3, sees="image"),
)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """(e1 - e) / e1 and (e - e2) / e1, where e is eRank1 on as many rows as the connector puts out."""
    if _COLUMN not in records or not of_pictures(records):
        return
    places = [ERANKS[label] for label in ("erank1", "erank2")]
    entropies = wide(records, ["point", "input"], places)
    drawn = records[(records["point"] == "vision") & (records["input"] == "image")].set_index("example")[_COLUMN]
    logs = np.log(drawn.reindex(entropies.index).to_numpy(np.float64))
    there = np.isfinite(logs)
    values = np.column_stack([entropies.to_numpy(np.float64), logs])[there]
    exponential = aggregate == "entropy"

    def of_means(means: Floats) -> Floats:
        e1, e2, fewer = np.moveaxis(np.exp(means) if exponential else means, -1, 0)
        return np.stack([(e1 - fewer) / e1, (fewer - e2) / e1], axis=-1)

    examples = tuple(map(str, entropies.index[there]))
    names = tuple(quantity.name for quantity in QUANTITIES)
    yield "", Sample(names, examples, values if exponential else np.exp(values), of_means)


METRIC = Metric("image_reduction", "Image Reduction Ratio in two parts", QUANTITIES, _samples)
