"""Text -> text; what is random is given its generator."""

from __future__ import annotations

import numpy as np


def shuffle_words(response: str, rng: np.random.Generator) -> str:
    """The words of the response in a random order, joined by single spaces; the instruction stays.

    A word is what stands between white space, with its punctuation.

    Args:
        response: The response.
        rng: Where the order comes from.

    Returns:
        The words in another order.
    """
    words = response.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))
