"""What blocks add to the residual stream, as results list it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mmerank.analysis.metrics.inside import METRIC, points_in
from mmerank.analysis.statistics.bootstrap import Bootstrap, sample_intervals
from mmerank.convention import Aggregate
from mmerank.eranks import update_at


def inside_numbers(
    records: pd.DataFrame, *, aggregate: Aggregate = "entropy", bootstrap: Bootstrap | None = None
) -> list[dict[str, Any]]:
    """Every number of every update.

    Args:
        records: Of one model (of texts: with its untrained twins), as from `mmerank.runs.record.to_frame`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.

    Returns:
        For each update and each of its sets of rows (`all`, `image`, `text`; of texts `trained` and `untrained`):
        `block`, its number; `update`, `attention` or `mlp`; `rows`; `n`, the examples that have such rows; `erank`,
        `share`, `share_by_chance`, `overlap`, `overlap_by_chance`, `norm_ratio`, None where none has; `intervals`
        over examples; and `deviation`, the most by which a block's input and updates were off what leaves it. Nothing
        where no block was looked into.
    """
    points = points_in(records)
    if not points:
        return []
    worst = records[records["point"].isin(points)].groupby("point")["deviation"].max()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, sample in METRIC.samples(records, aggregate):
        limits = sample_intervals(sample, bootstrap or Bootstrap())
        for name, value, n in zip(sample.quantities, sample.estimates, sample.counts or (), strict=True):
            point, rows, number = name.split("/")
            part, block = update_at(point) or ("", 0)
            at = found.setdefault(
                (point, rows), {"block": block, "update": part, "rows": rows, "n": n, "intervals": {}}
            )
            at[number] = float(value) if n else None
            if name in limits:
                at["intervals"][number] = list(limits[name])
    return [{**at, "deviation": float(worst[point])} for (point, _), at in found.items()]
