"""What each row of one measurement adds to its entropy, and where in the picture it lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.convention import MOST_MAPPED
from mmerank.eranks import ERANKS
from mmerank.runs.record import Record

# Share of the smaller of two places that they may have in common and be of one layer.
_BESIDE = 0.5
TOO_MANY = f"more than {MOST_MAPPED} rows, of which what each adds is not computed"


@dataclass(frozen=True)
class RowMap:
    """The rows of one measurement.

    Attributes:
        label: `erank1`, `erank2` or `erank5`: rows at the vision point, behind the connector, and of the pair at the
            LLM.
        entropy: Of all rows, nats.
        contributions: H(all) - H(without the row), nats, (n,), NaN where the others have no entropy; empty where
            there were too many rows. See `mmerank.states.leave_one_out`.
        tokens: What stands in each row, as `text ' cat'`; empty for rows of the picture.
        places: Left, top, right and bottom edge of each row of the picture, as shares of its width and height,
            (m, 4), NaN of a row that is of no place; None where they are not known.
        why: Then the reason.
    """

    label: str
    entropy: float
    contributions: NDArray[np.float64]
    tokens: tuple[str, ...]
    places: NDArray[np.float64] | None
    why: str

    @classmethod
    def of(cls, record: Record) -> RowMap:
        """That of a record which has one."""
        assert record.contributions is not None and record.row_tokens is not None and record.places is not None
        places = None if record.unplaced else np.asarray(record.places, np.float64).reshape(-1, 4)
        label = next(name for name, where in ERANKS.items() if where == (record.point, record.input))
        contributions = np.asarray(record.contributions, np.float64)
        return cls(label, record.entropy, contributions, tuple(record.row_tokens), places, record.unplaced or "")

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.tokens)

    @cached_property
    def pictured(self) -> NDArray[np.int64]:
        """Which rows are the picture's, in their order."""
        return np.array([i for i, token in enumerate(self.tokens) if not token], np.int64)

    @cached_property
    def erank_ratios(self) -> NDArray[np.float64]:
        """ERank of all rows divided by that without the row, (n,)."""
        ratios: NDArray[np.float64] = np.exp(self.contributions)
        return ratios

    @cached_property
    def decisive(self) -> int | None:
        """The row whose removal changes the entropy most, up or down; None where no row has a contribution."""
        sizes = np.abs(self.contributions)
        return int(np.nanargmax(sizes)) if np.isfinite(sizes).any() else None

    def named(self, row: int) -> str:
        """What stands in a row, as `image row 17`, counted among the picture's, or `text ' cat'`."""
        return self.tokens[row] or f"image row {int((self.pictured < row).sum())}"

    @cached_property
    def layers(self) -> list[NDArray[np.int64]]:
        """Rows of the picture that have a place, such that no two of one layer lie on each other.

        Tiles are one layer and the thumbnail another; of most models there is one.
        """
        if self.places is None:
            return []
        found: list[list[int]] = []
        for row, box in enumerate(self.places):
            if np.isfinite(box).all():
                for layer in found:
                    if not _on_each_other(box, self.places[layer]):
                        layer.append(row)
                        break
                else:
                    found.append([row])
        return [self.pictured[layer] for layer in found]

    @cached_property
    def elsewhere(self) -> NDArray[np.int64]:
        """Rows of the picture that are not in `layers`."""
        return np.setdiff1d(self.pictured, np.concatenate([*self.layers, self.pictured[:0]]))

    def to_pandas(self) -> pd.DataFrame:
        """A row for each row of the measurement: `token`, `contribution`, `erank_ratio`, and the four edges."""
        missing = np.full(self.n, np.nan)
        table = pd.DataFrame({"token": [self.named(row) for row in range(self.n)]})
        table["contribution"] = self.contributions if len(self.contributions) else missing
        table["erank_ratio"] = np.exp(table["contribution"])
        edges = np.full((self.n, 4), np.nan)
        if self.places is not None:
            edges[self.pictured] = self.places
        return table.assign(**dict(zip(("left", "top", "right", "bottom"), edges.T, strict=True)))


def _on_each_other(box: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    common = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    sizes = (others[:, 2:] - others[:, :2]).prod(axis=1)
    smaller = np.minimum(sizes, (box[2:] - box[:2]).prod())
    return bool((np.clip(common, 0, None).prod(axis=1) > _BESIDE * smaller).any())


def row_maps(records: Iterable[Record], example: str) -> dict[str, RowMap]:
    """The maps of one example.

    Args:
        records: Any.
        example: Its id.

    Returns:
        By label; none where patches were not asked for.
    """
    found = [RowMap.of(of) for of in records if of.example == example and of.contributions is not None]
    return {of.label: of for of in sorted(found, key=lambda of: of.label)}


def mapped(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """How many examples have maps, and why others have none.

    Args:
        records: Of one model.

    Returns:
        By label: `n` examples, of how many what each row adds was `measured`, of how many the rows are `placed` in
        the picture, in how many the `decisive` row is one of the picture's, and the reasons against (`without`), each
        with how many examples it holds of; empty where patches were not asked for.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.contributions is None:
            continue
        of = RowMap.of(record)
        here = found.setdefault(
            of.label, {"n": 0, "measured": 0, "placed": 0, "decisive_of_picture": 0, "without": Counter[str]()}
        )
        here["n"] += 1
        here["measured"] += bool(len(of.contributions))
        here["placed"] += bool(of.layers)
        here["decisive_of_picture"] += of.decisive is not None and not of.tokens[of.decisive]
        here["without"].update([*([TOO_MANY] if not len(of.contributions) else []), *([of.why] if of.why else [])])
    return {label: {**of, "without": dict(of["without"])} for label, of in sorted(found.items())}
