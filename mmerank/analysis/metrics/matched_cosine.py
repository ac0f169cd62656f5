"""Mean cosine of a picture's embedding and that of its own text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.embedded import UNTRAINED, embedded
from mmerank.analysis.sample import Sample
from mmerank.convention import Aggregate

MATCHED_COSINE = "matched_cosine"
_QUANTITIES = (
    Quantity(MATCHED_COSINE, "cosine of matched pairs", "cosine", 3),
    Quantity(f"{MATCHED_COSINE}{UNTRAINED}", "cosine of matched pairs, untrained", decimals=3),
)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Mean over examples of the cosine of both embeddings."""
    found = embedded(records)
    if found is None or found.models[""][1] is None:
        return
    columns = [np.einsum("ij,ij->i", images, texts) for images, texts in found.models.values() if texts is not None]
    names = tuple(f"{MATCHED_COSINE}{end}" for end in found.models)
    yield "", Sample(names, found.examples, np.stack(columns, axis=1), lambda means: means)


METRIC = Metric(MATCHED_COSINE, "Cosine of matched pairs", _QUANTITIES, _samples, own_place=True)
