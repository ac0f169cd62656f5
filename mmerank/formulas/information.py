"""Measures of what paired states share, in nats, by the entropies of their kernels."""

from __future__ import annotations

import numpy as np

from mmerank.formulas.arrays import Floats, Rows, as_pairs, entropy, shares, unit_rows


def matrix_mutual_information(x: Rows, y: Rows) -> float:
    """Matrix-based mutual information, H(Kx) + H(Ky) - H(Kx ∘ Ky), of cosine kernels divided by their traces.

    Sanchez Giraldo et al., "Measures of entropy from data using infinitely divisible kernels" (arXiv:1211.2459), with
    order 1 and linear kernels.

    Args:
        x: A row per example, (n, d), floating point, n >= 2, none zero.
        y: The same examples in the same order, (n, e).

    Returns:
        Between 0 and ln n.
    """
    of_x, of_y = _kernels(x, y)
    return max(0.0, _kernel_entropy(of_x) + _kernel_entropy(of_y) - _kernel_entropy(of_x * of_y))


def dime(x: Rows, y: Rows, *, permutations: int = 10, seed: int = 0) -> float:
    """Difference of matrix entropies: mean of H(Kx ∘ P Ky P') over permutations P, minus H(Kx ∘ Ky).

    In the form of "Layer by Layer" (arXiv:2502.02013). The number depends on the permutations drawn: state their
    number and seed.

    Args:
        x: A row per example, (n, d), floating point, n >= 2, none zero.
        y: The same examples in the same order, (n, e).
        permutations: How many, at least 1.
        seed: Of their choice.

    Returns:
        0 on average for unrelated states, at most ln n.

    Raises:
        ValueError: There is no permutation.
    """
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    of_x, of_y = _kernels(x, y)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(of_x)) for _ in range(permutations)]
    shuffled = [_kernel_entropy(of_x * of_y[np.ix_(order, order)]) for order in orders]
    return float(np.mean(shuffled)) - _kernel_entropy(of_x * of_y)


def _kernels(x: Rows, y: Rows) -> tuple[Floats, Floats]:
    a, b = as_pairs(x, y)
    a, b = unit_rows(a, "x"), unit_rows(b, "y")
    return a @ a.T, b @ b.T


def _kernel_entropy(kernel: Floats) -> float:
    """Of a positive semidefinite kernel divided by its trace; eigenvalues below 0 are rounding."""
    return entropy(shares(np.linalg.eigvalsh(kernel).clip(min=0)))
