"""What pictures are worth to the likelihood of responses."""

from __future__ import annotations

from mmerank.formulas.arrays import Rows, as_floats


def match_margin(own: Rows, others: Rows) -> float:
    """The loss of responses under their own pictures less that under other examples' pictures.

    mean_i (own_i - mean_j others_ij): below 0 where the own picture makes a response likelier than others do.

    Args:
        own: Loss of n responses, each with its own picture, (n,), floating point; nats per token, say.
        others: Of the same responses, each with k other pictures, (n, k).

    Returns:
        The margin, in the unit of the losses.

    Raises:
        TypeError: Not arrays of floating point.
        ValueError: Other shapes.
        NonFiniteTokens: A loss is NaN or infinite.

    Example:
        >>> import numpy as np
        >>> match_margin(np.array([0.5, 1.5]), np.array([[2.5, 1.5], [2.0, 2.0]]))
        -1.0
    """
    mine, theirs = as_floats(own, "own", ndim=1), as_floats(others, "others")
    if len(mine) != len(theirs):
        raise ValueError(f"own and others: expected one response a row, got {mine.shape} and {theirs.shape}")
    return float((mine - theirs.mean(axis=1)).mean())
