"""eRank of a picture's patches, and of a text's tokens, through the layers of encoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.embedded import UNTRAINED
from mmerank.analysis.metrics.layers import layer_names
from mmerank.analysis.sample import Sample, of_encoders, wide
from mmerank.convention import Aggregate

_SIDES: dict[str, tuple[str, Literal["image", "text"]]] = {
    "erank_image": ("patches", "image"),
    "erank_text": ("tokens", "text"),
}
_QUANTITIES = tuple(
    Quantity(
        f"{name}{end}", f"eRank of {rows}{', untrained' * bool(end)}", "" if end else rows, differs="log", sees=side
    )
    for name, (rows, side) in _SIDES.items()
    for end in ("", UNTRAINED)
)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Data-set eRank at each layer."""
    if not of_encoders(records):
        return
    for point in layer_names(records["point"]):
        here = records[records["point"] == point]
        here = here.assign(
            quantity=["erank_" + side for side in here["input"]],
            end=np.where(here["model"].str.startswith(TWIN), UNTRAINED, ""),
        )
        here = here.assign(quantity=here["quantity"] + here["end"])
        common = here.groupby("example")["quantity"].transform("nunique") == here["quantity"].nunique()
        names = [quantity.name for quantity in _QUANTITIES if quantity.name in set(here["quantity"])]
        entropies = wide(here[common], ["quantity"], names)
        values = entropies.to_numpy(dtype=np.float64)
        if aggregate == "entropy":
            yield point, Sample(tuple(names), tuple(entropies.index), values, np.exp)
        else:
            yield point, Sample(tuple(names), tuple(entropies.index), np.exp(values), lambda means: means)


METRIC = Metric(
    "encoder_layers", "eRank by layer of the encoders", _QUANTITIES, _samples, follows_rows=True, own_place=True
)
