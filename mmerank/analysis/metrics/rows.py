"""Each data-set eRank by the rows that it is taken of, and without its most influential row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.alignment import dataset_erank
from mmerank.analysis.sample import Sample, of_pictures, of_those_there
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS, by_label
from mmerank.runs.record import Record

# Share of a data-set eRank that a single row may decide without a warning.
SINGLE_ROW = 0.1
_WITHOUT = {"without_strongest": "without the row furthest out", "without_decisive": "without the decisive row"}
_BY_ROLE = {"image": "image rows", "text": "text rows", "modality": "image and text rows"}
# Of which rows there can be an eRank beside that of all.
_ROWS = {
    "erank1": (*_WITHOUT,),
    "erank2": (*_WITHOUT,),
    "erank3": ("image", *_WITHOUT),
    "erank4": ("text", *_WITHOUT),
    "erank5": ("image", "text", "modality", *_WITHOUT),
}
_QUANTITIES = tuple(
    Quantity(
        f"{label}_{rows}",
        f"{label.replace('erank', 'eRank')} {(_BY_ROLE | _WITHOUT)[rows]}",
        differs="log",
        sees={"image": "image", "text": "text"}.get(ERANKS[label][1], "pair"),  # type: ignore[arg-type]
    )
    for label, several in _ROWS.items()
    for rows in several
)


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """ERanks of image rows, of text rows, and without a single row."""
    if not of_pictures(records) or not (records["strongest_row"] >= 0).any():
        return
    columns: dict[str, pd.Series[float]] = {}
    for label, several in _ROWS.items():
        point, kind = ERANKS[label]
        here = records[(records["point"] == point) & (records["input"] == kind)].set_index("example")
        if len(here):
            columns |= {f"{label}_{rows}": here[f"entropy_{rows}"] for rows in several}
    table = pd.DataFrame(columns).sort_index()
    entropies = table.to_numpy(dtype=np.float64)
    counts = tuple(map(int, np.isfinite(entropies).sum(axis=0)))
    yield "", Sample(tuple(columns), tuple(table.index), *of_those_there(entropies, aggregate), counts)


def row_eranks(records: Iterable[Record], *, aggregate: Aggregate = "entropy") -> dict[str, dict[str, Any]]:
    """Each data-set eRank by the rows that it is measured on, and without its most influential row.

    Args:
        records: With the fields that `Convention.rows` asks for.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.

    Returns:
        For `erank1` .. `erank5`: the eRank of `all` rows, of `image`, `text` and `modality` (image and text) rows
        alone, and without a row, `without_strongest` (furthest from the centre) and `without_decisive` (whose removal
        changes the collision entropy most). For these two: `change_...`, the relative change, and `..._token` with
        `..._in`, what stands there most often and in how many examples. What does not exist is None.
    """
    return {label: _rows(found, aggregate) for label, found in by_label(records).items()}


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


METRIC = Metric("rows", "eRank by rows", _QUANTITIES, _samples, follows_rows=True, own_place=True)
