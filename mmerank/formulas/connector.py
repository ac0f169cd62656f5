"""What a connector leaves of vision rows, beside what their smaller number alone leaves."""

from __future__ import annotations

import math
import random

from mmerank.formulas.arrays import Rows, as_rows
from mmerank.formulas.spectral import erank


def erank_at_connector_rows(vision: Rows, connector: Rows, *, repeats: int = 8, seed: int = 0) -> float:
    """Effective rank of as many vision rows, drawn at random, as there are connector rows.

    What eRank1 would be on the connector's number of rows: the part of the Image Reduction Ratio up to here is that
    of the count, and the part from here to eRank2 is the connector's doing. Rows that are independent and averaged in
    groups stay independent, and have this effective rank.

    Args:
        vision: Rows before the connector, (n, d), floating point, n >= 2.
        connector: Rows behind it, (m, e), of which the number alone counts, m >= 2.
        repeats: Number of draws.
        seed: Of the draws.

    Returns:
        exp of the mean entropy over the draws; the `erank` of all vision rows where m >= n.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(64, 32))
        >>> erank_at_connector_rows(rows, rows) == erank(rows)
        True
    """
    rows, count = as_rows(vision, "vision"), len(as_rows(connector, "connector"))
    if count >= len(rows):
        return erank(rows)
    draw = random.Random(seed)
    logs = [math.log(erank(rows[draw.sample(range(len(rows)), count)])) for _ in range(repeats)]
    return math.exp(math.fsum(logs) / repeats)
