"""The permutation test of two measurements of the same examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmerank.analysis.sample import Floats

# Most numbers of a chunk of permutations: 32 MB as float64.
_CHUNK = 4_000_000


def swap_test(
    a: Floats, b: Floats, of_means: Callable[[Floats], Floats], *, permutations: int = 9999, seed: int = 0
) -> tuple[Floats, int, bool]:
    """Two-sided p of a difference of functions of means, A and B being swapped within examples.

    Under the null hypothesis the labels A and B of an example's measurements are exchangeable. For a function that
    grows with one mean, exp of a mean entropy say, this is the sign-flip test of that mean's differences. A ratio has
    no sum over examples to flip the signs of, so all of an example's measurements change sides together and the ratio
    is taken again. Exchangeable is more than an equal ratio: where the interval of a difference of ratios holds 0 and
    p is small, A and B differ, but believe the interval about the ratio.

    Args:
        a: What is averaged, (n, k), a row per example.
        b: The same of the other side, (n, k).
        of_means: (..., k) -> (..., q).
        permutations: Most swaps to try.
        seed: Of their choice.

    Returns:
        p for each quantity, (q,); how many swaps it stands on; whether these are all there are. Of all swaps p is the
        share that are at least as far from 0; of random ones (count + 1) / (permutations + 1).
    """
    n = len(a)
    # Swapping moves a mean by a sum of differences, so that no difference stays none to the last bit.
    step = (a - b) / n
    mean_a = a.mean(axis=0)
    mean_b = mean_a - step.sum(axis=0)
    value_a, value_b = of_means(mean_a), of_means(mean_b)
    observed = np.abs(value_a - value_b)
    # Equal up to rounding is equal.
    reach = observed - 1e-12 * np.maximum(np.abs(value_a), np.abs(value_b))
    exact = 2**n <= permutations + 1
    tried = 2**n if exact else permutations
    rng = np.random.default_rng(seed)
    count = np.zeros(len(observed), dtype=np.int64)
    rows = max(1, _CHUNK // n)
    for start in range(0, tried, rows):
        size = min(rows, tried - start)
        if exact:
            swapped = (np.arange(start, start + size)[:, None] >> np.arange(n) & 1).astype(np.float64)
        else:
            drawn = rng.integers(0, 256, size=(size, -(-n // 8)), dtype=np.uint8)
            swapped = np.unpackbits(drawn, axis=1, count=n).astype(np.float64)
        moved = swapped @ step
        count += (np.abs(of_means(mean_a - moved) - of_means(mean_b + moved)) >= reach).sum(axis=0)
    p = count / tried if exact else (count + 1) / (tried + 1)
    return np.asarray(p), tried, exact
