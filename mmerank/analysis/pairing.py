"""Statistics of paired examples, beside what they are when the pairing is shuffled."""

from __future__ import annotations

import math

from mmerank.analysis.statistics.calibration import Permuted, shuffled
from mmerank.analysis.statistics.null import null_test

# Of a pairing, for a null.
PERMUTATIONS = 1000


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
