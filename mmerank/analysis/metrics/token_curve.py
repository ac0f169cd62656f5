"""Each data-set eRank against the number of rows that it is measured on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mmerank.analysis.metrics.alignment import dataset_erank
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS, by_label
from mmerank.runs.record import Record


def token_curve(
    records: Iterable[Record], *, tokens: Sequence[int], repeats: int, aggregate: Aggregate = "entropy"
) -> dict[str, Any]:
    """Each data-set eRank against the number of rows it is measured on.

    Every point stands on the examples that have as many rows there, so a curve's end may stand on fewer.

    Args:
        records: With `curve`.
        tokens: Numbers of rows, in the order of `curve`.
        repeats: Draws.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        `tokens`, `repeats`, `erank1` .. `erank5`: a list for each, None where no example has as many rows; `n`: for
        each of them, how many examples stand behind each number.
    """
    curves: dict[str, list[float | None]] = {label: [] for label in ERANKS}
    counts: dict[str, list[int]] = {label: [] for label in ERANKS}
    there = by_label(records)
    for label, rows in there.items():
        for i in range(len(tokens)):
            values = [float(r.curve[i]) for r in rows if r.curve is not None and math.isfinite(r.curve[i])]
            curves[label].append(dataset_erank(values, aggregate=aggregate) if values else None)
            counts[label].append(len(values))
    return {"tokens": list(tokens), "repeats": repeats, **curves, "n": counts}
