"""eRank1 to eRank5 and the two ratios on equally many rows everywhere, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric
from mmerank.analysis.metrics.alignment import ALIGNMENT, QUANTITIES, alignment_sample, sample_of
from mmerank.analysis.sample import Floats, Sample, of_pictures
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.runs.record import Record, to_frame

# What of a convention decides which rows are drawn to match.
MATCHED_BY = ("match_tokens", "match_repeats", "match_seed")
# What the quantities of equally many rows are called, where they stand beside the others.
MATCHED = "matched_"


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """The numbers of `AlignmentMetric` on equally many rows."""
    if not of_pictures(records) or "matched" not in records or records["matched"].isna().all():
        return  # not asked for
    rows = matched_rows(records)
    none = sample_of((), np.empty((0, len(ERANKS))), aggregate)
    yield "", alignment_sample(rows, aggregate=aggregate) if len(rows) else none


def matched_alignment(
    records: Iterable[Record], *, tokens: int, repeats: int, aggregate: Aggregate = "entropy"
) -> dict[str, Any]:
    """eRank1 to eRank5 and the two ratios, each measurement reduced to the same number of rows.

    A measurement's entropy is the mean over its draws. An example of which any of the five measurements has too few
    rows is left out of all five.

    Args:
        records: All five measurements of each example, with `matched`.
        tokens: Rows in each draw.
        repeats: Draws.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        `tokens`, `repeats`, `n` (examples that could be matched), `left_out` (the others), `fewest_rows` (of any
        measurement: that many leave nobody out); `erank1` .. `image_text_alignment`; `stdev_of_a_draw`, the standard
        deviation of each when drawn only once; `all_rows`, each from all rows of the same examples. Numbers that do
        not exist are None.
    """
    frame = to_frame(records, spectrum=False)
    rows = matched_rows(frame)
    numbers: dict[str, float | None] = dict.fromkeys(ALIGNMENT)
    stdev, all_rows = dict(numbers), dict(numbers)
    if len(rows):
        numbers |= _numbers(found := alignment_sample(rows, aggregate=aggregate))
        everything = frame[frame["example"].isin(found.examples)]
        all_rows |= _numbers(alignment_sample(everything, aggregate=aggregate))
        if repeats > 1:
            draws = [
                sample_of(found.examples, of_one, aggregate).estimates
                for of_one in _draws(rows, found.examples, repeats)
            ]
            stdev |= dict(zip(ALIGNMENT, map(float, np.std(draws, axis=0, ddof=1)), strict=True))
    return {
        "tokens": tokens,
        "repeats": repeats,
        "n": rows["example"].nunique(),
        "left_out": frame["example"].nunique() - rows["example"].nunique(),
        "fewest_rows": int(frame["n"].min()) if len(frame) else None,
        **_without_nan(numbers),
        "stdev_of_a_draw": _without_nan(stdev),
        "all_rows": _without_nan(all_rows),
    }


def _without_nan(numbers: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None or math.isnan(value) else value for name, value in numbers.items()}


def matched_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Records with the entropy of their random subsets in place of that of all rows.

    What takes records, as intervals and comparisons, gives the matched numbers of these. A measurement's entropy is
    the mean over its draws; an example of which any of the five has too few rows is left out of all of them.

    Args:
        frame: As from `mmerank.runs.record.to_frame`.

    Returns:
        The rows of the five measurements, `entropy` and `erank` replaced; none where nothing was matched.
    """
    where = pd.MultiIndex.from_frame(frame[["point", "input"]])
    found = frame[where.isin(list(ERANKS.values()))]
    draws = found["matched"] if "matched" in found else [None] * len(found)
    entropies = [float(np.nanmean(of)) if of is not None and np.isfinite(of).any() else math.nan for of in draws]
    found = found.assign(entropy=entropies, erank=np.exp(entropies))
    enough = found["entropy"].notna()
    return found[enough.groupby([found[name] for name in ("model", "transform", "example")]).transform("all")]


def unmatched(records: Iterable[Record]) -> set[str]:
    """The examples of which some of the five measurements has too few rows, or that have none of the five.

    Args:
        records: With `matched`; it is no matter what those of further layers have.

    Returns:
        Their ids.
    """
    there = list(records)
    short, whole = set[str](), set[str]()
    for record in of_the_five(there):
        (short if record.matched is None or not np.isfinite(record.matched).any() else whole).add(record.example)
    return {record.example for record in there} - (whole - short)


def of_the_five(records: Iterable[Record]) -> Iterator[Record]:
    """Those behind eRank1 to eRank5, without those of further layers.

    Args:
        records: Any.

    Yields:
        Records.
    """
    places = set(ERANKS.values())
    yield from (record for record in records if (record.point, record.input) in places)


def _draws(rows: pd.DataFrame, examples: tuple[str, ...], repeats: int) -> Iterator[Floats]:
    """Entropies of each draw, (n, 5): NaN of what a model lacks, and the others' mean where one has no spectrum."""
    means = np.full((len(examples), len(ERANKS)), math.nan)
    drawn = np.full((*means.shape, repeats), math.nan)
    by_place = dict(list(rows.set_index("example").groupby(["point", "input"])))
    for column, where in enumerate(ERANKS.values()):
        if (place := by_place.get(where)) is not None:
            place = place.loc[list(examples)]
            means[:, column] = place["entropy"]
            drawn[:, column] = np.stack(list(place["matched"]))
    for i in range(repeats):
        yield np.where(np.isfinite(drawn[..., i]), drawn[..., i], means)


def _numbers(of: Sample) -> dict[str, float]:
    return dict(zip(of.quantities, map(float, of.estimates), strict=True))


METRIC = Metric(
    "matched", "Image-text alignment on equally many rows", QUANTITIES, _samples, prefix=MATCHED, own_place=True
)
