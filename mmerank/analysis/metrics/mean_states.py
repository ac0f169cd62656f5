"""Mean hidden states of the examples of a data set, of which measures of the pairing are taken."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.sample import Floats
from mmerank.analysis.statistics.calibration import Permuted

# Where an image's mean state is held against that of its text at the LLM.
POINTS = ("vision", "connector", "llm")
# Above this a random choice is used: kernels over examples are square, and are permuted a thousand times.
MOST_EXAMPLES = 1000


def mean_states(records: pd.DataFrame, *, seed: int = 0) -> tuple[tuple[str, ...], dict[str, Floats], Floats] | None:
    """Mean states of images and texts.

    Args:
        records: Of one model and transform, as from `mmerank.runs.record.to_frame`.
        seed: Of the choice, where there are more than `MOST_EXAMPLES`.

    Returns:
        Ids, (n,); for each of `POINTS` the images' states, (n, d); the texts' at the LLM, (n, d). None where they
        were not kept.
    """
    if set(records["input"]) == {"text"} or "mean_state" not in records or records["mean_state"].isna().any():
        return None
    ids = sorted(records["example"].unique())
    chosen = ids if len(ids) <= MOST_EXAMPLES else sorted(random.Random(seed).sample(ids, MOST_EXAMPLES))
    by_place = {
        (str(point), str(kind)): rows.set_index("example")["mean_state"]
        for (point, kind), rows in records.groupby(["point", "input"])
    }
    if any((point, "image") not in by_place for point in POINTS):
        return None
    images = {point: _stacked(by_place[point, "image"], chosen) for point in POINTS}
    return tuple(chosen), images, _stacked(by_place["llm", "text"], chosen)


def split(columns: Floats, widths: Sequence[int]) -> list[Floats]:
    """Columns that stand side by side, taken apart.

    Args:
        columns: (n, sum of widths).
        widths: Of each.

    Returns:
        One array each.
    """
    return np.split(columns, np.cumsum(widths)[:-1], axis=1)


def value_of(statistic: Permuted, n: int) -> float:
    """A statistic of pairs as they are.

    Args:
        statistic: Of a permutation of the second half of the pairs.
        n: Number of pairs.

    Returns:
        Its value.
    """
    return statistic(np.arange(n))


def _stacked(states: pd.Series[Any], chosen: Sequence[str]) -> Floats:
    return np.stack([np.asarray(states[name], dtype=np.float64) for name in chosen])
