from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmerank.analysis.metrics.alignment import alignment, dataset_erank, image_reduction_ratio, image_text_alignment
from mmerank.eranks import ERANKS
from tests.test_records import record

# Table 2 of the paper: eRank1 to eRank5, Image Reduction Ratio, Image-Text Alignment, as printed.
TABLE_2 = [
    (18.34, 11.28, 45.62, 74.21, 76.34, 0.3850, 0.8566),
    (90.59, 55.70, 58.50, 63.63, 108.53, 0.3851, 0.7084),
    (74.79, 46.15, 48.68, 52.68, 93.29, 0.3829, 0.6955),
]
entropies = st.lists(st.floats(0, 7), min_size=1, max_size=20)
eranks = st.floats(1, 500)


@pytest.mark.parametrize("row", TABLE_2)
def test_ratios_of_the_papers_table(row: tuple[float, ...]) -> None:
    e1, e2, e3, e4, e5, reduction, alignment_ratio = row
    assert image_reduction_ratio(e1, e2) == pytest.approx(reduction, abs=2e-4)  # of eRanks with two decimals
    assert image_text_alignment(e3, e4, e5) == pytest.approx(alignment_ratio, abs=2e-4)


@given(entropies)
def test_algorithm_b_is_never_below_a(values: list[float]) -> None:
    a, b = (dataset_erank(values, aggregate=aggregate) for aggregate in ("entropy", "erank"))
    assert math.exp(min(values)) * (1 - 1e-12) <= a <= b * (1 + 1e-12) <= math.exp(max(values)) * (1 + 1e-11)


@given(entropies, st.integers(0, 100))
def test_order_does_not_matter_to_the_last_bit(values: list[float], seed: int) -> None:
    shuffled = random.Random(seed).sample(values, len(values))
    assert dataset_erank(shuffled) == dataset_erank(values)


@given(eranks, eranks, eranks)
def test_alignment_bounds(e3: float, e4: float, e5: float) -> None:
    assert 1 / 3 < image_text_alignment(e3, e4, e5) <= 1 + 1e-12


def records(*entropies: tuple[float, ...]) -> list[object]:
    return [
        record(f"{i}", entropy, point=point, input=kind)
        for i, sample in enumerate(entropies)
        for entropy, (point, kind) in zip(sample, ERANKS.values(), strict=True)
    ]


def test_all_numbers_from_records() -> None:
    found = alignment(records((0, 0, 1, 2, 3), (2, 1, 1, 2, 3)))  # type: ignore[arg-type]
    assert found["erank1"] == pytest.approx(math.e)
    assert found["erank2"] == pytest.approx(math.exp(0.5))
    assert found["image_reduction_ratio"] == pytest.approx(1 - math.exp(-0.5))
    assert found["image_text_alignment"] == pytest.approx((math.e + math.e**2 + math.e**3) / 3 / math.e**3)
    other = alignment(records((0, 0, 1, 2, 3), (2, 1, 1, 2, 3)), aggregate="erank")  # type: ignore[arg-type]
    assert other["erank1"] == pytest.approx((1 + math.e**2) / 2)


def test_missing_measurement() -> None:
    with pytest.raises(ValueError, match="vision/image 1, connector/image 2"):
        alignment(records((0, 0, 1, 2, 3), (2, 1, 1, 2, 3))[1:])  # type: ignore[arg-type]


def test_no_sample() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        dataset_erank([])
