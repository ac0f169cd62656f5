"""CLIPScore of pairs, beside what it is for shuffled ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmerank.analysis.pairing import PERMUTATIONS, against_null

CLIP_WEIGHT = 2.5


@dataclass(frozen=True)
class ClipEmbeddings:
    """Unit embeddings of pictures and texts.

    Attributes:
        model: As named by the person.
        ids: Of the examples.
        images: (n, e), float32.
        texts: (n, e), float32.
        texts_cut: How many texts are longer than the model reads.
    """

    model: str
    ids: tuple[str, ...]
    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    texts_cut: int


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
