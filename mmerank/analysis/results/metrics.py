"""The numbers of the metrics that a run was asked for, as results have them."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pandas as pd

from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.known import listed_metrics
from mmerank.analysis.metrics.of_examples import columns_of
from mmerank.analysis.metrics.pairs import nulls
from mmerank.analysis.sample import PairSample
from mmerank.analysis.statistics.bootstrap import Bootstrap, sample_intervals
from mmerank.convention import Aggregate
from mmerank.runs.record import MATCHED, NO_VALUE, VALUE

# Reasons that are told of a number; the others are counted among the last.
_REASONS = 5


def metric_numbers(
    records: pd.DataFrame, *, aggregate: Aggregate = "entropy", bootstrap: Bootstrap | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Every number of every metric that results list by name, with its interval.

    Args:
        records: Of one model (of texts: with its untrained twins) and transform.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        bootstrap: Level, resamples, seed and method.

    Returns:
        By metric, a number for each hook point and input (of texts: hook point, and `trained` or `untrained`):
        `point`, `input`, `rows` (`all`, or `matched` where as many were drawn everywhere), `value`, `interval`, `n`
        (examples with a number) and, where some have none, `no_value`: how many, by reason. What does not exist is
        None. Statistics of pairs are of the image states at a point and the texts' at the LLM; those of which more is
        better have `null`, see `mmerank.analysis.pairing.against_null`. Metrics of pooled rows stand at the layers
        that they are taken of, see `mmerank.analysis.metrics.pooled`. Of a metric of records, which has no place
        among the measurements, `point` is empty for pairs, and `input` the name of the number.
    """
    asked = set(columns_of(records))
    found: dict[str, list[dict[str, Any]]] = {
        column.removeprefix(VALUE): [] for column in columns_of(records) if column.startswith(VALUE)
    }
    reasons = _reasons(records) if asked else {}
    for of in listed_metrics(records):
        front = MATCHED if of.name.startswith(MATCHED) else VALUE
        for point, sample in of.samples(records, aggregate):
            limits = sample_intervals(sample, bootstrap)
            counts = sample.counts or (sample.n,) * len(sample.quantities)
            pairs = isinstance(sample, PairSample)
            shuffled = nulls(sample) if isinstance(sample, PairSample) else [None] * len(counts)
            why = sample.of_columns.reasons if pairs else {}  # type: ignore[attr-defined]
            for i, (name, value, n) in enumerate(zip(sample.quantities, sample.estimates, counts, strict=True)):
                *where, kind = name.split("/")[1:] if of.name in asked else [name]
                at = point or "/".join(where)
                missing = reasons.get((of.name, at, kind), {}) if not pairs else {why[i]: n} if i in why else {}
                found.setdefault(of.name.removeprefix(front), []).append(
                    {
                        "point": at,
                        "input": kind,
                        "rows": "all" if front == VALUE else "matched",
                        "value": float(value) if math.isfinite(value) else None,
                        "interval": list(limits[name]) if name in limits else None,
                        "n": 0 if i in why else n,
                        **({"null": shuffled[i]} if shuffled[i] is not None else {}),
                        **({"no_value": missing} if missing else {}),
                    }
                )
    return found


def _reasons(records: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, int]]:
    """By column, hook point and input: how many examples have no number, by reason."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    said = records[records[NO_VALUE] != ""]
    for model, point, kind, why in zip(*(said[name] for name in ("model", "point", "input", NO_VALUE)), strict=True):
        end = kind if kind != "text" or point == "llm" else "untrained" if model.startswith(TWIN) else "trained"
        for column, reason in json.loads(why).items():
            counts.setdefault((column, point, end), Counter())[reason] += 1
    return {where: _fewest(of) for where, of in counts.items()}


def _fewest(counts: Counter[str]) -> dict[str, int]:
    common = dict(counts.most_common(_REASONS))
    rest = counts.total() - sum(common.values())
    return {**common, "other reasons": rest} if rest else common
