"""What a change of the input did to the numbers, and what they would be if picture and text had nothing to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmerank.analysis.alignment import dataset_erank, image_text_alignment
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.records import Record

QUANTITIES = (*ERANKS, "image_reduction_ratio", "image_text_alignment")


def deltas(base: Mapping[str, float], changed: Mapping[str, float]) -> dict[str, float]:
    """How much higher each quantity is after the change.

    Args:
        base: The seven quantities before.
        changed: The same after.

    Returns:
        Changed minus base, by quantity.

    Example:
        >>> before = dict.fromkeys(QUANTITIES, 1.0)
        >>> deltas(before, {**before, "erank1": 3.5})["erank1"]
        2.5
    """
    return {name: changed[name] - base[name] for name in QUANTITIES}


def null_draws(
    erank3: float, erank4: float, pairs: Iterable[Record], *, aggregate: Aggregate = "entropy"
) -> dict[str, tuple[float, ...]]:
    """eRank5 and the Image-Text Alignment with other examples' texts, once per draw.

    A derangement gives each text to another picture, so eRank3 and eRank4 are those of the base.

    Args:
        erank3: Of the base.
        erank4: Of the base.
        pairs: Records of the pair input, of all draws; a draw is a `transform`.
        aggregate: See `dataset_erank`.

    Returns:
        `erank5` and `image_text_alignment`, a value per draw.
    """
    entropies: dict[str, list[float]] = {}
    for record in pairs:
        entropies.setdefault(record.transform, []).append(record.entropy)
    eranks = tuple(dataset_erank(values, aggregate=aggregate) for values in entropies.values())
    return {
        "erank5": eranks,
        "image_text_alignment": tuple(image_text_alignment(erank3, erank4, e) for e in eranks),
    }
