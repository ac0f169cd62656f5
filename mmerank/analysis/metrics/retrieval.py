"""How often an example's own text is among the nearest of its picture, and its picture among those of its text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.embedded import UNTRAINED, groups, pair_samples
from mmerank.analysis.sample import Floats, Sample
from mmerank.convention import Aggregate

AT = (1, 5)
_TRAINED = tuple(
    Quantity(f"{name}_at_{k}", f"{label}, at {k}", f"{short}@{k}", 3, "higher")
    for name, label, short in (
        ("image_to_text", "image to text", "i→t"),
        ("text_to_image", "text to image", "t→i"),
    )
    for k in AT
)
QUANTITIES = (
    *_TRAINED,
    *(Quantity(f"{q.name}{UNTRAINED}", f"{q.label}, untrained", "", q.decimals) for q in _TRAINED),
)
RETRIEVAL = tuple(quantity.name for quantity in _TRAINED)
# Cosines of embeddings in float32 that differ by less are the same.
_TIE = 1e-6
_CHUNK = 1 << 24  # numbers that are held at once


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """Share of examples whose partner is among the k nearest by cosine, both ways."""
    bounds = [(0.0, 1.0)] * len(RETRIEVAL)
    yield from pair_samples(records, RETRIEVAL, _statistic, texts=True, bounds=bounds)


def _statistic(images: Floats, texts: Floats | None, pictures: Floats, words: Floats) -> tuple[Floats, Floats]:
    assert texts is not None
    found = [retrieval(*sides, pictures, words) for sides in ((images, texts), (texts, images))]
    values, without = zip(*found, strict=True)
    return np.concatenate(values), np.concatenate(without, axis=1)


def retrieval(queries: Floats, wanted: Floats, pictures: Floats, words: Floats) -> tuple[Floats, Floats]:
    """Share of queries whose own partner is among the k nearest, for each of `AT`.

    Candidates with the picture of the query's example, or with its text, are neither right nor wrong, and left out.
    Of candidates as near as the partner each order is as likely: embeddings that are all alike find it by chance.

    Args:
        queries: Unit rows, (n, e).
        wanted: Of the same examples in the same order, (n, e).
        pictures: What tells pictures apart, (n,).
        words: What tells texts apart, (n,).

    Returns:
        (k,), and without each group of examples (`mmerank.analysis.metrics.embedded.groups`), (g, k).
    """
    n = len(queries)
    group = groups(n)
    member = np.eye(group.max() + 1)[group]  # (n, g)
    nearer, as_near = np.empty((n, 1 + member.shape[1])), np.empty((n, 1 + member.shape[1]))
    step = max(1, _CHUNK // max(n, 1))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        cosines = queries[rows] @ wanted.T
        own = np.einsum("ij,ij->i", queries[rows], wanted[rows])[:, None]
        rival = (pictures[rows, None] != pictures) & (words[rows, None] != words)
        for counts, which in ((nearer, cosines > own + _TIE), (as_near, np.abs(cosines - own) <= _TIE)):
            beside = (which & rival).astype(np.float64)
            every = beside.sum(axis=1, keepdims=True)
            counts[rows] = np.concatenate([every, every - beside @ member], axis=1)
    hits = [np.clip((k - nearer) / (as_near + 1), 0, 1) for k in AT]  # (n, 1 + g) each
    there = np.concatenate([np.ones((n, 1)), 1 - member], axis=1)
    with np.errstate(invalid="ignore"):  # nothing is left of a single example
        shares = np.stack([(hit * there).sum(axis=0) / there.sum(axis=0) for hit in hits], axis=1)
    return shares[0], shares[1:]


def chance(pictures: Floats, words: Floats) -> dict[int, float]:
    """What retrieval is for embeddings that know nothing.

    Args:
        pictures: What tells pictures apart, (n,).
        words: What tells texts apart, (n,).

    Returns:
        Share of queries, by k.
    """
    rivals = np.array([int(((pictures != p) & (words != w)).sum()) for p, w in zip(pictures, words, strict=True)])
    return {k: float(np.minimum(1, k / (rivals + 1)).mean()) for k in AT}


METRIC = Metric("retrieval", "Retrieval of the partner", QUANTITIES, _samples, own_place=True)
