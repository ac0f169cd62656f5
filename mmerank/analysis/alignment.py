"""The five data-set eRanks, and the two ratios the paper builds on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.records import Record


def dataset_erank(entropies: Sequence[float], *, aggregate: Aggregate = "entropy") -> float:
    """Effective rank of a data set.

    `entropy`: exp of the mean entropy, Diff-eRank (arXiv:2401.17139), Def. 3.5, "Algorithm (a)".
    `erank`: the mean of the samples' eRanks, Sec. 6.2, "Algorithm (b)"; never below (a).
    The order of the samples does not matter, to the last bit.

    Args:
        entropies: One per sample, in nats; at least one.
        aggregate: `entropy` or `erank`.

    Returns:
        The effective rank.

    Raises:
        ValueError: There is no sample.

    Example:
        >>> round(dataset_erank([0.0, math.log(9)]), 9)
        3.0
        >>> round(dataset_erank([0.0, math.log(9)], aggregate="erank"), 9)
        5.0
    """
    if not entropies:
        raise ValueError("expected at least one sample, got none")
    if aggregate == "entropy":
        return math.exp(math.fsum(entropies) / len(entropies))
    return math.fsum(map(math.exp, entropies)) / len(entropies)


def image_reduction_ratio(erank1: float, erank2: float) -> float:
    """Share of the image's effective rank that the connector takes away, (eRank1 - eRank2) / eRank1.

    Diff-eRank (arXiv:2401.17139), Sec. 5.2. Taken of data-set eRanks, not averaged over samples.

    Args:
        erank1: After the vision encoder.
        erank2: After the connector.

    Returns:
        Below 1; negative where the connector raises the effective rank.

    Example:
        >>> round(image_reduction_ratio(18.34, 11.28), 4)
        0.385
    """
    return (erank1 - erank2) / erank1


def image_text_alignment(erank3: float, erank4: float, erank5: float) -> float:
    """How close the LLM's eRanks for image, text and both are, mean / max.

    Diff-eRank (arXiv:2401.17139), Sec. 5.2. Taken of data-set eRanks. It has no null of its own: unrelated
    image and text tokens scored 0.67 to 0.93 in simulations, and it is never below 1/3.

    Args:
        erank3: LLM, image input.
        erank4: LLM, text input.
        erank5: LLM, image and text.

    Returns:
        Between 1/3 and 1; NaN where one of them is.

    Example:
        >>> round(image_text_alignment(45.62, 74.21, 76.34), 4)
        0.8566
    """
    eranks = (erank3, erank4, erank5)
    if any(map(math.isnan, eranks)):
        return math.nan
    return sum(eranks) / 3 / max(eranks)


def alignment(records: Iterable[Record], *, aggregate: Aggregate = "entropy") -> dict[str, float]:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment of one model on one data set.

    Args:
        records: All five measurements of each example, in any order.
        aggregate: See `dataset_erank`.

    Returns:
        `erank1` .. `erank5`, `image_reduction_ratio`, `image_text_alignment`; NaN where no example has a measurement.

    Raises:
        ValueError: A measurement is missing.
    """
    entropies: dict[tuple[str, str], list[float]] = {where: [] for where in ERANKS.values()}
    for record in records:
        entropies[record.point, record.input].append(record.entropy)
    if len({len(values) for values in entropies.values() if values}) > 1:
        counts = ", ".join(f"{point}/{kind} {len(values)}" for (point, kind), values in entropies.items())
        raise ValueError(f"expected all five measurements of every example, got {counts}")
    e = {
        label: dataset_erank(entropies[where], aggregate=aggregate) if entropies[where] else math.nan
        for label, where in ERANKS.items()
    }
    return {
        **e,
        "image_reduction_ratio": image_reduction_ratio(e["erank1"], e["erank2"]),
        "image_text_alignment": image_text_alignment(e["erank3"], e["erank4"], e["erank5"]),
    }
