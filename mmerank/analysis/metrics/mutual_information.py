"""The mutual information form of the LLM's three entropies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.alignment import alignment_sample
from mmerank.analysis.metrics.mean_states import were_kept
from mmerank.analysis.sample import Floats, Sample
from mmerank.convention import Aggregate

_QUANTITY = Quantity("mutual_information", "mutual information form", "mutual information", decimals=3)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Log eRank3 + log eRank4 - log eRank5, nats."""
    if not were_kept(records):
        return  # not asked for
    eranks = alignment_sample(records, aggregate=aggregate)
    if not np.isfinite(eranks.means[2:5]).all():
        return  # a model without eRank3

    def of_means(means: Floats) -> Floats:
        logs = np.log(eranks.of_means(means)[..., 2:5])
        return np.asarray(logs[..., 0:1] + logs[..., 1:2] - logs[..., 2:3])

    yield "", Sample((_QUANTITY.name,), eranks.examples, eranks.columns, of_means)


METRIC = Metric(
    "mutual_information", "Mutual information form", (_QUANTITY,), _samples, follows_rows=True, own_place=True
)
