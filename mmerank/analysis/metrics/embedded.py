"""Embeddings of a data set by an encoder and its untrained twin, of which several metrics are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.sample import Floats, PairSample, Sample, no_means, of_encoders

# Behind the names of the twin's numbers.
UNTRAINED = "_untrained"
# Of more examples than these, groups are left out in turn: a spectrum without each of them would take too long.
GROUPS = 64

# Unit embeddings of images (n, e), and of texts or None; what tells pictures apart, and texts, (n,) each.
Statistic = Callable[[Floats, "Floats | None", Floats, Floats], "tuple[Floats, Floats]"]


@dataclass(frozen=True)
class Embedded:
    """Unit embeddings of the examples that trained encoder and twin have.

    Attributes:
        examples: Ids, sorted; n of them.
        models: By what stands behind the names of its numbers (nothing, or `UNTRAINED`): embeddings of the images,
            (n, e), and of the texts, None where it reads none.
        pictures: A number for each picture, the same for the same picture, (n,).
        texts: The same of texts.
    """

    examples: tuple[str, ...]
    models: dict[str, tuple[Floats, Floats | None]]
    pictures: Floats
    texts: Floats


def embedded(records: pd.DataFrame) -> Embedded | None:
    """The embeddings that records hold.

    Args:
        records: Of one encoder, with its twin if there is one, as from `mmerank.runs.record.to_frame`.

    Returns:
        They; None of other records.

    Raises:
        ValueError: They are of several encoders.
    """
    if not of_encoders(records) or "embedding" not in records:
        return None
    there = records[records["embedding"].notna()]
    names = {name: UNTRAINED if str(name).startswith(TWIN) else "" for name in there["model"].unique()}
    if sorted(names.values()) not in ([""], ["", UNTRAINED]):
        raise ValueError(f"expected the records of one encoder and its twin, got {', '.join(map(str, names))}")
    by_side = {
        (names[model], str(side)): rows.set_index("example")["embedding"]
        for (model, side), rows in there.groupby(["model", "input"])
    }
    examples = sorted(set.intersection(*({*of.index} for of in by_side.values())))
    found = {where: _unit(of.loc[examples]) for where, of in by_side.items()}
    first = there.drop_duplicates("example").set_index("example").loc[examples]
    pictures, texts = (_codes(first[name], examples) for name in ("picture_digest", "text_digest"))
    models = {end: (found[end, "image"], found.get((end, "text"))) for end in sorted({end for end, _ in found})}
    return Embedded(tuple(examples), models, pictures, texts)


def pair_samples(
    records: pd.DataFrame,
    names: Sequence[str],
    statistic: Statistic,
    *,
    texts: bool,
    bounds: Sequence[tuple[float, float]],
) -> Iterator[tuple[str, Sample]]:
    """Statistics of the embeddings of an encoder, and of its twin.

    Args:
        records: As for `embedded`.
        names: Of the statistics, k of them.
        statistic: Gives (k,), and without each group of examples, (g, k).
        texts: Whether it is of images and texts, so that there is none of an encoder of images alone.
        bounds: The least and the largest value that each of the statistics can have, k of them.

    Yields:
        The sample; nothing of other records.
    """
    found = embedded(records)
    if found is None or (texts and found.models[""][1] is None):
        return
    parts = [side for sides in found.models.values() for side in sides if side is not None]
    ends = np.cumsum([part.shape[1] for part in parts])

    def of_columns(columns: Floats) -> tuple[Floats, Floats]:
        *vectors, codes = np.split(columns, ends, axis=1)
        waiting = iter(vectors)
        results = []
        for _, words in found.models.values():
            own = next(waiting)
            results.append(statistic(own, None if words is None else next(waiting), codes[:, 0], codes[:, 1]))
        values, without = zip(*results, strict=True)
        return np.concatenate(values), np.concatenate(without, axis=1)

    columns = np.concatenate([*parts, np.stack([found.pictures, found.texts], axis=1)], axis=1)
    quantities = tuple(name + end for end in found.models for name in names)
    least, most = np.tile(np.array(bounds).T, len(found.models))
    yield (
        "",
        PairSample(quantities, found.examples, columns, no_means, of_columns=of_columns, bounds=(least, most)),
    )


def groups(n: int, most: int = GROUPS) -> NDArray[np.int64]:
    """The group of each example, which is left out as one: of up to so many examples each is its own.

    Args:
        n: Number of examples.
        most: Number of groups.

    Returns:
        (n,), from 0.
    """
    return np.arange(n) if n <= most else np.random.default_rng(0).permutation(n) % most


def _unit(column: pd.Series[Any]) -> Floats:
    rows = np.stack([np.asarray(of, dtype=np.float64) for of in column])
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))


def _codes(digests: pd.Series[str], examples: Sequence[str]) -> Floats:
    """A number for each digest; of an example without one, a number of its own."""
    told = [digest or f"example {name}" for digest, name in zip(digests, examples, strict=True)]
    return np.unique(told, return_inverse=True)[1].astype(np.float64)
