"""Mean hidden states of the examples of a data set, of which measures of the pairing are taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.sample import Floats, PairSample, Sample, no_means

# Where an image's mean state is held against that of its text at the LLM.
POINTS = ("vision", "connector", "llm")
_WHERE = {*((point, "image") for point in POINTS), ("llm", "text")}
# Above this a random choice is used: kernels over examples are square, and are permuted a thousand times.
MOST_EXAMPLES = 1000


def mean_states(records: pd.DataFrame, *, seed: int = 0) -> tuple[tuple[str, ...], dict[str, Floats], Floats] | None:
    """Mean states of images and texts.

    Args:
        records: Of one model and transform, as from `mmerank.runs.record.to_frame`.
        seed: Of the choice, where there are more than `MOST_EXAMPLES`.

    Returns:
        Ids, (n,); for each of `POINTS` that the model has, the images' states, (n, d); the texts' at the LLM, (n, d).
        None where they were not kept.
    """
    by_place = _by_place(records)
    if by_place is None:
        return None
    ids = sorted(records["example"].unique())
    chosen = ids if len(ids) <= MOST_EXAMPLES else sorted(random.Random(seed).sample(ids, MOST_EXAMPLES))
    images = {point: _stacked(by_place[point, "image"], chosen) for point in POINTS if (point, "image") in by_place}
    return tuple(chosen), images, _stacked(by_place["llm", "text"], chosen)


def were_kept(records: pd.DataFrame) -> bool:
    """Whether `mean_states` has something to give; arguments as there."""
    return _by_place(records) is not None


def of_each_point(
    name: str,
    records: pd.DataFrame,
    statistic: Callable[[Floats, Floats], tuple[float, Floats]],
    bounds: tuple[float, float],
) -> Iterator[tuple[str, Sample]]:
    """A statistic of the images' mean states at each of `POINTS` with those of their texts.

    Args:
        name: Before the name of the point, in those of the quantities.
        records: As for `mean_states`.
        statistic: States of images (n, d) and of texts (n, e) -> its value, and it without each example, (n,).
        bounds: The least and the largest value that it can have.

    Yields:
        The sample; nothing where the mean states were not kept.
    """
    if (found := mean_states(records)) is None:
        return
    examples, images, text = found
    parts = [*images.values(), text]
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]

    def of_columns(columns: Floats) -> tuple[Floats, Floats]:
        *of_images, of_text = np.split(columns, ends, axis=1)
        values, without = zip(*(statistic(x, of_text) for x in of_images), strict=True)
        return np.array(values), np.stack(without, axis=1)

    names = tuple(f"{name}_{point}" for point in images)
    yield (
        "",
        PairSample(names, examples, np.concatenate(parts, axis=1), no_means, of_columns=of_columns, bounds=bounds),
    )


def _by_place(records: pd.DataFrame) -> dict[tuple[str, str], pd.Series[Any]] | None:
    """By hook point and input, where each example has them; those of further layers have none."""
    if "mean_state" not in records:
        return None
    found = {
        (str(point), str(kind)): rows.set_index("example")["mean_state"]
        for (point, kind), rows in records.groupby(["point", "input"])
    }
    kept = {where: states for where, states in found.items() if where in _WHERE}
    some = len(kept) > 1 and ("llm", "text") in kept
    return kept if some and not any(states.isna().any() for states in kept.values()) else None


def _stacked(states: pd.Series[Any], chosen: Sequence[str]) -> Floats:
    return np.stack([np.asarray(states[name], dtype=np.float64) for name in chosen])
