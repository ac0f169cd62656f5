"""Effective rank of a data set's embeddings by an encoder, and the gap between those of images and texts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.metrics.embedded import UNTRAINED, embedded, groups, pair_samples
from mmerank.analysis.sample import Floats, Sample
from mmerank.convention import Aggregate
from mmerank.errors import DegenerateTokens
from mmerank.formulas.between import modality_gap
from mmerank.formulas.spectral import erank

_TRAINED = (
    Quantity("erank_images", "eRank of image embeddings", "images", differs="log", sees="image"),
    Quantity("erank_texts", "eRank of text embeddings", "texts", differs="log", sees="text"),
    Quantity("erank_joint", "eRank of both together", "joint", differs="log"),
    Quantity("modality_gap", "modality gap", "gap", 3),
)
QUANTITIES = (
    *_TRAINED,
    *(
        Quantity(f"{q.name}{UNTRAINED}", f"{q.label}, untrained", "", q.decimals, "", q.differs, q.sees)
        for q in _TRAINED
    ),
)
EMBEDDINGS = tuple(quantity.name for quantity in _TRAINED)
# Of effective ranks, and of the distance of two means of unit rows.
_BOUNDS = ((1.0, math.inf), (1.0, math.inf), (1.0, math.inf), (0.0, 2.0))


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """The eRank of the unit embeddings of images, of texts and of both, and the modality gap."""
    found = embedded(records)
    if found is not None:
        names = EMBEDDINGS if found.models[""][1] is not None else EMBEDDINGS[:1]
        yield from pair_samples(records, names, _statistic, texts=False, bounds=_BOUNDS[: len(names)])


def _statistic(images: Floats, texts: Floats | None, pictures: Floats, words: Floats) -> tuple[Floats, Floats]:
    group = groups(len(images))
    kept = [group != of for of in range(group.max() + 1)]
    without = [_numbers(images[rows], None if texts is None else texts[rows]) for rows in kept]
    return _numbers(images, texts), np.stack(without)


def _numbers(images: Floats, texts: Floats | None) -> Floats:
    if texts is None:
        return np.array([_erank(images)])
    gap = modality_gap(images, texts) if len(images) else np.nan
    return np.array([_erank(images), _erank(texts), _erank(np.concatenate([images, texts])), gap])


def _erank(rows: Floats) -> float:
    try:
        return erank(rows)
    except DegenerateTokens:  # too few, or all the same
        return np.nan


METRIC = Metric("embeddings", "Embeddings of a data set", QUANTITIES, _samples, own_place=True)
