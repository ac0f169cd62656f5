"""How the data-set eRanks depend on the number of rows, and on which rows they are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.alignment import alignment, dataset_erank
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.records import Record

# What of a convention decides which rows are drawn to match.
MATCHED_BY = ("match_tokens", "match_repeats", "match_seed")
# What the quantities of equally many rows are called, where they stand beside the others.
MATCHED = "matched_"
# Share of a data-set eRank that a single row may decide without a warning.
SINGLE_ROW = 0.1


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
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        `tokens`, `repeats`, `n` (examples that could be matched), `left_out` (the others), `fewest_rows` (of any
        measurement: that many leave nobody out); `erank1` .. `image_text_alignment`; `stdev_of_a_draw`, the standard
        deviation of each when drawn only once; `all_rows`, each from all rows of the same examples. Numbers that do
        not exist are None.
    """
    rows = list(records)
    short = unmatched(rows)
    kept = [r for r in rows if r.example not in short]
    names = [*ERANKS, "image_reduction_ratio", "image_text_alignment"]
    numbers: dict[str, float | None] = dict.fromkeys(names)
    stdev, all_rows = dict(numbers), dict(numbers)
    if kept:
        means = [replace(r, entropy=float(np.nanmean(_draws(r)))) for r in kept]
        numbers.update(alignment(means, aggregate=aggregate))
        all_rows.update(alignment(kept, aggregate=aggregate))
        if repeats > 1:
            draws = [
                # A draw that has no spectrum stands at the mean of the others.
                alignment(
                    [replace(r, entropy=_draw(r, i, m.entropy)) for r, m in zip(kept, means, strict=True)],
                    aggregate=aggregate,
                )
                for i in range(repeats)
            ]
            defined = [name for name in names if not math.isnan(draws[0][name])]
            stdev.update({name: statistics.stdev(draw[name] for draw in draws) for name in defined})
    return {
        "tokens": tokens,
        "repeats": repeats,
        "n": len({record.example for record in kept}),
        "left_out": len(short),
        "fewest_rows": min((r.n for r in rows), default=None),
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
        frame: As from `mmerank.records.to_frame`.

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


def unlike_rows(models: Sequence[Iterable[Record]]) -> dict[str, list[float]]:
    """The eRanks that models take of different numbers of rows of the same examples.

    Such eRanks, and ratios of them, compare numbers of rows first.

    Args:
        models: Records of each model, of untouched examples.

    Returns:
        By label, the mean number of rows of each model; only labels for which two of them have different numbers in
        any example that both have.
    """
    counts = [_by_label(records) for records in models]
    found = {}
    for label in ERANKS:
        by_example: dict[str, set[int]] = {}
        for count in counts:
            for record in count[label]:
                by_example.setdefault(record.example, set()).add(record.n)
        if all(count[label] for count in counts) and any(len(different) > 1 for different in by_example.values()):
            found[label] = [statistics.fmean(record.n for record in count[label]) for count in counts]
    return found


def unlike_text(unlike: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """What to say of models that read the same examples as different numbers of rows.

    Args:
        unlike: From `unlike_rows`.
        names: Of the models.

    Returns:
        A clause without an end.

    Example:
        >>> unlike_text({"erank1": [576, 256.0]}, ["a", "b"])[-48:]
        'different numbers of them (eRank1: a 576, b 256)'
    """
    told = "; ".join(
        f"{label.replace('erank', 'eRank')}: {', '.join(f'{n} {x:.6g}' for n, x in zip(names, found, strict=True))}"
        for label, found in unlike.items()
    )
    return f"eRank mostly follows the number of tokens, and the models have different numbers of them ({told})"


def unmatched(records: Iterable[Record]) -> set[str]:
    """The examples of which some measurement has too few rows.

    Args:
        records: With `matched`.

    Returns:
        Their ids.
    """
    return {r.example for r in records if r.matched is None or not np.isfinite(r.matched).any()}


def token_curve(
    records: Iterable[Record], *, tokens: Sequence[int], repeats: int, aggregate: Aggregate = "entropy"
) -> dict[str, Any]:
    """Each data-set eRank against the number of rows it is measured on.

    Every point stands on the examples that have as many rows there, so a curve's end may stand on fewer.

    Args:
        records: With `curve`.
        tokens: Numbers of rows, in the order of `curve`.
        repeats: Draws.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        `tokens`, `repeats`, `erank1` .. `erank5`: a list for each, None where no example has as many rows; `n`: for
        each of them, how many examples stand behind each number.
    """
    curves: dict[str, list[float | None]] = {label: [] for label in ERANKS}
    counts: dict[str, list[int]] = {label: [] for label in ERANKS}
    there = _by_label(records)
    for label, rows in there.items():
        for i in range(len(tokens)):
            values = [float(r.curve[i]) for r in rows if r.curve is not None and math.isfinite(r.curve[i])]
            curves[label].append(dataset_erank(values, aggregate=aggregate) if values else None)
            counts[label].append(len(values))
    return {"tokens": list(tokens), "repeats": repeats, **curves, "n": counts}


def row_eranks(records: Iterable[Record], *, aggregate: Aggregate = "entropy") -> dict[str, dict[str, Any]]:
    """Each data-set eRank by the rows that it is measured on, and without its most influential row.

    Args:
        records: With the fields that `Convention.rows` asks for.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.

    Returns:
        For `erank1` .. `erank5`: the eRank of `all` rows, of `image`, `text` and `modality` (image and text) rows
        alone, and without a row, `without_strongest` (furthest from the centre) and `without_decisive` (whose removal
        changes the collision entropy most). For these two: `change_...`, the relative change, and `..._token` with
        `..._in`, what stands there most often and in how many examples. What does not exist is None.
    """
    return {label: _rows(found, aggregate) for label, found in _by_label(records).items()}


def _rows(records: Sequence[Record], aggregate: Aggregate) -> dict[str, Any]:
    def erank(entropy: Callable[[Record], float], among: Sequence[Record] = records) -> float | None:
        values = [entropy(r) for r in among if math.isfinite(entropy(r))]
        return dataset_erank(values, aggregate=aggregate) if values else None

    found: dict[str, Any] = {
        "all": erank(lambda r: r.entropy),
        "image": erank(lambda r: r.entropy_image),
        "text": erank(lambda r: r.entropy_text),
        "modality": erank(lambda r: r.entropy_modality),
    }
    for name in ("strongest", "decisive"):
        compared = [r for r in records if math.isfinite(getattr(r, f"entropy_without_{name}"))]
        without = erank(lambda r, name=name: getattr(r, f"entropy_without_{name}"))  # type: ignore[misc]
        whole = erank(lambda r: r.entropy, compared)
        tokens = Counter(getattr(r, f"{name}_token") for r in compared).most_common(1)
        found |= {
            f"without_{name}": without,
            f"change_without_{name}": without / whole - 1 if without and whole else None,
            f"{name}_token": tokens[0][0] if tokens else None,
            f"{name}_in": tokens[0][1] if tokens else 0,
        }
    return found


def single_rows(rows: dict[str, dict[str, Any]]) -> list[tuple[str, float, str, int]]:
    """The eRanks that one row decides: those that change by more than 10 % without it.

    Args:
        rows: By `row_eranks`.

    Returns:
        For each: label, relative change without the row, what stands there most often, in how many examples.
    """
    found = []
    for label, numbers in rows.items():
        name = max(("strongest", "decisive"), key=lambda name: abs(numbers[f"change_without_{name}"] or 0))
        change = numbers[f"change_without_{name}"]
        if change is not None and abs(change) > SINGLE_ROW:
            found.append((label, change, numbers[f"{name}_token"], numbers[f"{name}_in"]))
    return found


def _by_label(records: Iterable[Record]) -> dict[str, list[Record]]:
    rows = list(records)
    return {label: [r for r in rows if (r.point, r.input) == where] for label, where in ERANKS.items()}


def _draws(record: Record) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert record.matched is not None  # the others are left out
    return record.matched


def _draw(record: Record, i: int, otherwise: float) -> float:
    value = float(_draws(record)[i])
    return value if math.isfinite(value) else otherwise
