"""Measures of image and text that react to which text goes with which picture, with permutation nulls.

eRank1 to eRank5 say nothing of pairing: eRank3 and eRank4 are the same when texts are handed round. What is here is
computed from the mean states in the records, over the data set.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmerank.analysis.alignment import alignment
from mmerank.analysis.formulas.calibration import Permuted, shuffled
from mmerank.analysis.formulas.similarity import permuted_cka, permuted_knn
from mmerank.analysis.null import null_test
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
        nats, and `mean` and `stdev` of the same over examples. `cka` and `mutual_knn`: for the image states of
        `vision`, `connector` and `llm`, each against the LLM's text states, what `against_null` gives.
    """
    rows = list(records)
    states = {(r.point, r.input, r.example): r.mean_state for r in rows}
    entropies = {(r.point, r.input, r.example): r.entropy for r in rows}
    ids = sorted({r.example for r in rows})
    information = [
        entropies["llm", "image", i] + entropies["llm", "text", i] - entropies["llm", "pair", i] for i in ids
    ]
    e = alignment(rows, aggregate=aggregate)
    chosen = ids if len(ids) <= MOST_EXAMPLES else sorted(random.Random(seed).sample(ids, MOST_EXAMPLES))
    k = max(1, min(NEIGHBOURS, len(chosen) // SHARE))

    def stacked(point: str, kind: str) -> Array:
        return np.array([states[point, kind, i] for i in chosen], dtype=np.float64)

    text = stacked("llm", "text")
    images = {point: stacked(point, "image") for point in ("vision", "connector", "llm")}
    return {
        "n": len(chosen),
        "permutations": permutations,
        "neighbours": k,
        "mutual_information": {
            "value": math.log(e["erank3"]) + math.log(e["erank4"]) - math.log(e["erank5"]),
            "mean": statistics.fmean(information),
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


def clip_score(
    images: NDArray[np.float32], texts: NDArray[np.float32], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, float | None]:
    """Mean CLIPScore of pairs, 2.5 · max(cos(image, text), 0), beside what it is for shuffled pairs.

    Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (2021), Sec. 3, w = 2.5.

    Args:
        images: CLIP's embeddings, of unit length, (n, e).
        texts: Of the same examples in the same order, (n, e).
        permutations: Of the pairing, for the null.
        seed: Of the permutations.

    Returns:
        What `against_null` gives.
    """
    images, texts = images.astype(np.float64), texts.astype(np.float64)

    def score(order: NDArray[np.int64]) -> float:
        return float(CLIP_WEIGHT * np.einsum("ij,ij->i", images, texts[order]).clip(min=0).mean())

    return against_null(score, len(images), permutations, seed)


def against_null(statistic: Permuted, n: int, permutations: int, seed: int) -> dict[str, float | None]:
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
    value, draws = shuffled(statistic, n, permutations, seed)
    if not math.isfinite(value):
        return dict.fromkeys(("value", "null_mean", "null_stdev", "z", "p"))
    test = null_test(value, draws.tolist(), alternative="greater").to_dict()
    return {
        "null_stdev" if name == "null_sd" else name: test[name]
        for name in ("value", "null_mean", "null_sd", "z", "p")
    }
