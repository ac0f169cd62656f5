"""Measures of image and text that react to which text goes with which picture, with permutation nulls.

eRank1 to eRank5 say nothing of pairing: eRank3 and eRank4 are the same when texts are handed round. What is here is
computed from the mean states in the records, over the data set.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from mmerank.analysis.metrics.mean_states import mean_states
from mmerank.analysis.metrics.mutual_information import METRIC as MUTUAL_INFORMATION
from mmerank.analysis.metrics.mutual_knn import neighbours
from mmerank.analysis.pairing import PERMUTATIONS, against_null
from mmerank.convention import Aggregate
from mmerank.formulas.similarity import permuted_cka, permuted_knn
from mmerank.runs.record import Record, to_frame


def companions(
    records: Iterable[Record], *, aggregate: Aggregate = "entropy", permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, Any]:
    """Mutual information form, CKA and mutual k-NN between image and text, over a data set.

    Args:
        records: All five measurements of each example, with `mean_state`.
        aggregate: See `mmerank.analysis.metrics.alignment.dataset_erank`.
        permutations: Of the pairing, for the nulls.
        seed: Of the permutations.

    Returns:
        `n`, `permutations`, `neighbours`. `mutual_information`: `value`, log eRank3 + log eRank4 - log eRank5 in
        nats, and `mean` and `stdev` of the same over examples. `cka` and `mutual_knn`: for the image states of
        `vision`, `connector` and `llm`, each against the LLM's text states, what `against_null` gives.
    """
    frame = to_frame(records, spectrum=False)
    found = mean_states(frame, seed=seed)
    assert found is not None  # they are asked for with the rest
    examples, images, text = found
    n, k = len(examples), neighbours(len(examples))
    ((_, information),) = MUTUAL_INFORMATION.samples(frame, aggregate)
    ((_, by_example),) = MUTUAL_INFORMATION.samples(frame, "entropy")
    single = by_example.of_means(by_example.columns)[:, 0].tolist()
    return {
        "n": n,
        "permutations": permutations,
        "neighbours": k,
        "mutual_information": {
            "value": float(information.estimates[0]),
            "mean": statistics.fmean(single),
            "stdev": statistics.stdev(single) if len(single) > 1 else None,
        },
        "cka": {point: against_null(permuted_cka(x, text), n, permutations, seed) for point, x in images.items()},
        "mutual_knn": {
            point: against_null(permuted_knn(x, text, k), n, permutations, seed) for point, x in images.items()
        },
    }
