"""The five data-set eRanks, and the two ratios the paper builds on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from mmerank.analysis.metric import Metric, Quantity
from mmerank.analysis.sample import Floats, Sample, of_pictures, only, wide
from mmerank.convention import Aggregate
from mmerank.eranks import ERANKS
from mmerank.runs.record import Record, to_frame

QUANTITIES = (
    Quantity("erank1", "eRank1", differs="log", sees="image"),
    Quantity("erank2", "eRank2", differs="log", sees="image"),
    Quantity("erank3", "eRank3", differs="log", sees="image"),
    Quantity("erank4", "eRank4", differs="log", sees="text"),
    Quantity("erank5", "eRank5", differs="log"),
    # What a connector removes may have been redundant or not, so neither more nor less of it is better.
    Quantity("image_reduction_ratio", "Image Reduction Ratio", "Reduction", 4, sees="image"),
    Quantity("image_text_alignment", "Image-Text Alignment", "Alignment", 4, "higher"),
)
ALIGNMENT = tuple(quantity.name for quantity in QUANTITIES)
LABELS = {quantity.name: quantity.label for quantity in QUANTITIES}
DECIMALS = {quantity.name: quantity.decimals for quantity in QUANTITIES}


def _samples(records: pd.DataFrame, aggregate: Aggregate) -> Iterator[tuple[str, Sample]]:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment."""
    if of_pictures(records):
        yield "", alignment_sample(records, aggregate=aggregate)


def alignment_sample(frame: pd.DataFrame, *, aggregate: Aggregate = "entropy") -> Sample:
    """eRank1 to eRank5 and the two ratios, which are taken of the five data-set eRanks.

    Args:
        frame: Records of one model under one transform, as from `mmerank.runs.record.to_frame`; rows in any order.
        aggregate: See `dataset_erank`.

    Returns:
        The sample; quantities as in `ALIGNMENT`.

    Raises:
        ValueError: A measurement is missing or there twice, or there are several models or transforms.
    """
    only("model", frame["model"])
    only("transform", frame["transform"])
    there = set(frame[["point", "input"]].drop_duplicates().itertuples(index=False, name=None))
    # What no example has, its model does not have.
    wanted = [where for where in ERANKS.values() if where in there]
    entropies = wide(frame, ["point", "input"], wanted).reindex(columns=pd.MultiIndex.from_tuples(ERANKS.values()))
    return sample_of(tuple(entropies.index), entropies.to_numpy(dtype=np.float64), aggregate)


def sample_of(examples: tuple[str, ...], entropies: Floats, aggregate: Aggregate) -> Sample:
    """The same of entropies.

    Args:
        examples: Ids, n of them.
        entropies: Of eRank1 to eRank5, (n, 5), nats.
        aggregate: See `dataset_erank`.

    Returns:
        The sample.
    """
    exponential = aggregate == "entropy"

    def of_means(means: Floats) -> Floats:
        eranks = np.exp(means) if exponential else means
        e1, e2 = eranks[..., 0], eranks[..., 1]
        llm = eranks[..., 2:5]
        ratios = ((e1 - e2) / e1, llm.mean(axis=-1) / llm.max(axis=-1))
        return np.concatenate([eranks, np.stack(ratios, axis=-1)], axis=-1)

    return Sample(ALIGNMENT, examples, entropies if exponential else np.exp(entropies), of_means)


def alignment(records: Iterable[Record], *, aggregate: Aggregate = "entropy") -> dict[str, float]:
    """eRank1 to eRank5, Image Reduction Ratio and Image-Text Alignment of one model on one data set.

    Args:
        records: All five measurements of each example, in any order.
        aggregate: See `dataset_erank`.

    Returns:
        `erank1` .. `erank5`, `image_reduction_ratio`, `image_text_alignment`; NaN where no example has a
        measurement.

    Raises:
        ValueError: A measurement is missing of some examples.
    """
    found = alignment_sample(to_frame(records, spectrum=False), aggregate=aggregate)
    return dict(zip(found.quantities, map(float, found.estimates), strict=True))


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
    image and text tokens scored 0.67 to 0.93 in simulations and less in some models; 1/3 is the least possible.

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


METRIC = Metric("alignment", "Image-text alignment", QUANTITIES, _samples, follows_rows=True, own_place=True)
