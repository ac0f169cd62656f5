"""eRank of a picture's rows through the layers of a multimodal model's vision encoder."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.layers import EQUAL, by_rows, were_drawn
from mmerank.analysis.sample import Sample
from mmerank.convention import Aggregate
from mmerank.eranks import vision_layer

ALL = "all"


def _named(name: str) -> Quantity | None:
    point, _, rows = name.partition("/")
    if vision_layer(point) is None or rows not in (ALL, EQUAL):
        return None
    return Quantity(name, f"{point}, {rows} rows", differs="log", sees="image")


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """The picture's eRank at each layer that was measured: of all rows that go on, and of equally many."""
    numbers = {str(point): vision_layer(str(point)) or 0 for point in records["point"].unique()}
    points = sorted(filter(numbers.__getitem__, numbers), key=numbers.__getitem__)
    if not points:
        return
    here = records[records["point"].isin(points)]
    yield "", by_rows(here, points, {ALL: "entropy"}, aggregate, drawn=were_drawn(here))


METRIC = Metric(
    "vision_layers",
    "eRank of the picture by layer of the vision encoder",
    (),
    _samples,
    follows_rows=True,
    named=_named,
    own_place=True,
)
