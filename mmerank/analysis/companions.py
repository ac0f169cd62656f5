"""Measures of image and text that react to which text goes with which picture, with permutation nulls.

eRank1 to eRank5 say nothing of pairing: eRank3 and eRank4 are the same when texts are handed round. What is here is
computed from the mean states in the records, over the data set.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmerank.analysis.alignment import alignment
from mmerank.convention import Aggregate
from mmerank.records import Record

Array = NDArray[np.float64]

PERMUTATIONS = 1000
# Above this a random choice is used: kernels over examples are square, and are permuted a thousand times.
MOST_EXAMPLES = 1000
# Huh et al. take 10 of 1024; of fewer examples, fewer.
NEIGHBOURS, SHARE = 10, 10
CLIP_WEIGHT = 2.5


def companions(
    records: Iterable[Record], *, aggregate: Aggregate = "entropy", permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, Any]:
    """Mutual information form, CKA and mutual k-NN between image and text, over a data set.

    Args:
        records: All five measurements of each example, with `mean_state`.
        aggregate: See `mmerank.analysis.alignment.dataset_erank`.
        permutations: Of the pairing, for the nulls.
        seed: Of the permutations.

    Returns:
        `n`, `permutations`, `neighbours`. `mutual_information`: `value`, log eRank3 + log eRank4 - log eRank5 in
        nats, and `mean` and `stdev` of the same over examples; None where a model has no eRank3. `cka` and
        `mutual_knn`: for the image states of `vision`, `connector` and `llm`, each against the LLM's text states,
        what `against_null` gives.
    """
    rows = list(records)
    states = {(r.point, r.input, r.example): r.mean_state for r in rows}
    entropies = {(r.point, r.input, r.example): r.entropy for r in rows}
    ids = sorted({r.example for r in rows})
    points = [point for point in ("vision", "connector", "llm") if (point, "image") in {of[:2] for of in states}]
    information = [
        entropies["llm", "image", i] + entropies["llm", "text", i] - entropies["llm", "pair", i]
        for i in (ids if "llm" in points else ())
    ]
    e = alignment(rows, aggregate=aggregate)
    chosen = ids if len(ids) <= MOST_EXAMPLES else sorted(random.Random(seed).sample(ids, MOST_EXAMPLES))
    k = max(1, min(NEIGHBOURS, len(chosen) // SHARE))

    def stacked(point: str, kind: str) -> Array:
        return np.array([states[point, kind, i] for i in chosen], dtype=np.float64)

    text = stacked("llm", "text")
    images = {point: stacked(point, "image") for point in points}
    return {
        "n": len(chosen),
        "permutations": permutations,
        "neighbours": k,
        "mutual_information": {
            "value": math.log(e["erank3"]) + math.log(e["erank4"]) - math.log(e["erank5"]) if information else None,
            "mean": statistics.fmean(information) if information else None,
            "stdev": statistics.stdev(information) if len(information) > 1 else None,
        },
        "cka": {
            point: against_null(permuted_cka(x, text), len(chosen), permutations, seed) for point, x in images.items()
        },
        "mutual_knn": {
            point: against_null(permuted_knn(x, text, k), len(chosen), permutations, seed)
            for point, x in images.items()
        },
    }


def clip_score(images: NDArray[np.float32], texts: NDArray[np.float32], *, seed: int = 0) -> dict[str, float | None]:
    """Mean CLIPScore of pairs, 2.5 · max(cos(image, text), 0), beside what it is for shuffled pairs.

    Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (2021), Sec. 3, w = 2.5.

    Args:
        images: CLIP's embeddings, of unit length, (n, e).
        texts: Of the same examples in the same order, (n, e).
        seed: Of the permutations.

    Returns:
        What `against_null` gives.
    """
    images, texts = images.astype(np.float64), texts.astype(np.float64)

    def score(order: NDArray[np.int64]) -> float:
        return float(CLIP_WEIGHT * np.einsum("ij,ij->i", images, texts[order]).clip(min=0).mean())

    return against_null(score, len(images), PERMUTATIONS, seed)


def linear_cka(x: Array, y: Array) -> float:
    """Centred kernel alignment with linear kernels, ‖Yᵀ X‖²_F / (‖Xᵀ X‖_F ‖Yᵀ Y‖_F) of the centred X and Y.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (2019). With fewer examples than
    dimensions it is high for unrelated states too: read it against its null.

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).

    Returns:
        Between 0 and 1; NaN where all rows of x, or of y, are equal.

    Example:
        >>> x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(linear_cka(x, 3 * x @ np.array([[0.0, 1.0], [-1.0, 0.0]])), 9)
        1.0
    """
    return permuted_cka(x, y)(np.arange(len(x)))


def mutual_knn(x: Array, y: Array, k: int) -> float:
    """Mean share of an example's k nearest neighbours among x that are so among y too, by cosine.

    Huh et al., "The Platonic Representation Hypothesis" (2024): the mutual nearest-neighbour metric.
    Chance is k / (n - 1).

    Args:
        x: A row per example, (n, d).
        y: The same examples in the same order, (n, e).
        k: Number of neighbours, at most n - 1.

    Returns:
        Between 0 and 1.

    Example:
        >>> x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> mutual_knn(x, x[:, ::-1], k=1)
        1.0
    """
    return permuted_knn(x, y, k)(np.arange(len(x)))


def permuted_cka(x: Array, y: Array) -> Callable[[NDArray[np.int64]], float]:
    """Permutation -> linear CKA of x with the permuted rows of y; arguments as in `linear_cka`."""
    of_x, of_y = (_centred_kernel(z) for z in (x, y))
    scale = float(np.linalg.norm(of_x) * np.linalg.norm(of_y))

    def cka(order: NDArray[np.int64]) -> float:
        return float(np.vdot(of_x, of_y[order[:, None], order])) / scale if scale > 0 else math.nan

    return cka


def permuted_knn(x: Array, y: Array, k: int) -> Callable[[NDArray[np.int64]], float]:
    """Permutation -> mutual k-NN of x with the permuted rows of y; arguments as in `mutual_knn`."""
    near_x = _neighbours(x, k)
    near_y = np.zeros((len(y), len(y)), dtype=bool)
    np.put_along_axis(near_y, _neighbours(y, k), True, axis=1)

    def overlap(order: NDArray[np.int64]) -> float:
        return float(near_y[order[:, None], order[near_x]].mean())

    return overlap


def against_null(
    statistic: Callable[[NDArray[np.int64]], float], n: int, permutations: int, seed: int
) -> dict[str, float | None]:
    """A statistic of paired examples, beside what it is when the pairing is shuffled.

    A similarity score has no meaning of its own without such a null (arXiv:2602.14486).

    Args:
        statistic: Permutation of the second half of the pairs, (n,), -> number.
        n: Number of pairs.
        permutations: How many.
        seed: Of the permutations.

    Returns:
        `value`; `null_mean` and `null_stdev` over permutations; `z` = (value - null_mean) / null_stdev; `p`,
        one-sided: (1 + permutations that reach the value) / (1 + permutations), Phipson and Smyth (2010). None where
        not defined.
    """
    value = statistic(np.arange(n))
    generator = np.random.default_rng(seed)
    null = np.array([statistic(generator.permutation(n)) for _ in range(permutations)])
    mean, stdev = float(null.mean()), float(null.std(ddof=1)) if permutations > 1 else math.nan
    # Reached up to rounding: the sum over a permutation is taken in another order.
    reached = int((null >= value - 1e-12 * abs(value)).sum())
    defined = math.isfinite(value)
    numbers = {
        "value": value,
        "null_mean": mean,
        "null_stdev": stdev,
        "z": (value - mean) / stdev if stdev > 1e-12 * abs(mean) else math.nan,
        "p": (1 + reached) / (1 + permutations) if defined else math.nan,
    }
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _centred_kernel(x: Array) -> Array:
    x = x - x.mean(axis=0)
    kernel: Array = x @ x.T
    return kernel


def _neighbours(x: Array, k: int) -> NDArray[np.int64]:
    """Indices of each row's k nearest other rows by cosine, (n, k)."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(lengths > 0, lengths, 1)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.int64] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return nearest
