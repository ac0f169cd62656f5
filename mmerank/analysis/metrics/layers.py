"""eRank through the layers of the LLM: of all rows of the pair, of the image's, and of the text's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from mmerank.analysis.sample import Floats, Sample
from mmerank.analysis.statistics.bootstrap import Bootstrap, sample_intervals
from mmerank.convention import Aggregate

LAYER = "layer "
# What the rows are called -> their entropy in a record.
ROWS = {"all": "entropy", "image": "entropy_image", "text": "entropy_text"}
_COLUMNS = ("point", "rows", "value", "low", "high", "n")


def layer_eranks(
    records: pd.DataFrame, *, aggregate: Aggregate = "entropy", bootstrap: Bootstrap | None = None
) -> pd.DataFrame:
    """The data-set eRank of the pair at each layer that was measured, by the rows that it is taken of.

    Each has its own centre: image and text rows that lie far apart have a low eRank together and high ones alone.

    Args:
        records: Of one model and one transform, as from `mmerank.runs.record.to_frame`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.

    Returns:
        A row per hook point, from the first layer to `llm`, and per `rows` (`all`, `image`, `text`): `point`, `rows`,
        `value`, `low`, `high` (NaN with fewer than two examples), and `n`, the examples with such an eRank. Nothing
        where no layer was measured.
    """
    points = layer_names(records["point"])
    if not points:
        return pd.DataFrame(columns=_COLUMNS)
    pairs = records[(records["input"] == "pair") & records["point"].isin([*points, "llm"])]
    wide = pairs.pivot(index="example", columns="point", values=[*ROWS.values()])
    names = [(point, rows) for point in (*points, "llm") for rows in ROWS]
    entropies = wide[[(ROWS[rows], point) for point, rows in names]].to_numpy(dtype=np.float64)
    there = np.isfinite(entropies)
    values = np.where(there, entropies if aggregate == "entropy" else np.exp(entropies), 0.0)

    def of_means(means: Floats) -> Floats:
        total, share = np.split(means, 2, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample without any such row
            mean = total / share
        return np.exp(mean) if aggregate == "entropy" else mean

    columns = np.concatenate([values, there.astype(np.float64)], axis=1)
    chosen = Sample(tuple(f"{point}/{rows}" for point, rows in names), tuple(wide.index), columns, of_means)
    limits = sample_intervals(chosen, bootstrap)
    found = [
        (point, rows, float(value), *limits.get(quantity, (math.nan, math.nan)), int(count))
        for (point, rows), quantity, value, count in zip(
            names, chosen.quantities, chosen.estimates, there.sum(axis=0), strict=True
        )
    ]
    return pd.DataFrame(found, columns=_COLUMNS)


def layer_names(points: pd.Series[str]) -> list[str]:
    """The hook points that are layers, from the first on.

    Args:
        points: Hook points of records.

    Returns:
        Names as in `layer 12`, each once.
    """
    found = {str(point) for point in points.unique() if str(point).startswith(LAYER)}
    return sorted(found, key=lambda point: int(point.removeprefix(LAYER)))
