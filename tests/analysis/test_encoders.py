"""Numbers of embeddings: against counting by hand, and leaving out against doing it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mmerank.analysis.comparison import compared
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.embedded import GROUPS, groups
from mmerank.analysis.metrics.embeddings import METRIC as EMBEDDINGS
from mmerank.analysis.metrics.matched_cosine import METRIC as MATCHED_COSINE
from mmerank.analysis.metrics.retrieval import AT, RETRIEVAL, chance, retrieval
from mmerank.analysis.metrics.retrieval import METRIC as OF_RETRIEVAL
from mmerank.analysis.sample import PairSample
from mmerank.analysis.statistics.bootstrap import sample_intervals
from mmerank.analysis.statistics.jackknife import jackknife_limits, without_spread
from mmerank.runs.record import Record, to_frame
from tests.reference import entropy

Rows = NDArray[np.float64]


def unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def pairs(n: int, seed: int = 0, d: int = 6) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, d))
    return unit(shared + rng.normal(size=(n, d))), unit(shared + rng.normal(size=(n, d)) + 0.5)


def by_counting(queries: Rows, wanted: Rows, pictures: Rows, words: Rows, k: int) -> float:
    """Ties in every order: the mean over many random ones."""
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        for i in range(len(queries)):
            rivals = [j for j in range(len(queries)) if pictures[j] != pictures[i] and words[j] != words[i]]
            cosines = {j: round(float(queries[i] @ wanted[j]), 9) for j in [i, *rivals]}
            order = sorted(cosines, key=lambda j: (-cosines[j], rng.random()))
            found.append(order.index(i) < k)
    return float(np.mean(found))


def test_retrieval_is_what_counting_finds() -> None:
    x, y = pairs(9)
    own = np.arange(9.0)
    values, _ = retrieval(x, y, own, own)
    assert [*values] == [by_counting(x, y, own, own, k) for k in AT]


def test_equal_embeddings_find_their_partner_by_chance() -> None:
    x = np.ones((10, 4)) / 2
    own = np.arange(10.0)
    assert [*retrieval(x, x, own, own)[0]] == pytest.approx([0.1, 0.5]) == [*chance(own, own).values()]
    some, y = pairs(8, seed=2)
    some[1] = some[0]  # as near as the partner
    assert retrieval(y, some, own[:8], own[:8])[0] == pytest.approx(
        [by_counting(y, some, own[:8], own[:8], k) for k in AT], abs=0.02
    )


def test_candidates_with_the_same_picture_or_text_are_left_out() -> None:
    x, y = pairs(8, seed=3)
    pictures, words = np.array([0, 0, 1, 2, 3, 4, 5, 6.0]), np.array([0, 1, 2, 3, 3, 4, 5, 6.0])
    x[1] = x[0]
    for queries, wanted in ((x, y), (y, x)):
        values, _ = retrieval(queries, wanted, pictures, words)
        assert [*values] == [by_counting(queries, wanted, pictures, words, k) for k in AT]
    assert chance(pictures, words)[1] == pytest.approx((4 / 7 + 4 / 8) / 8)


@pytest.mark.parametrize("n", [7, GROUPS + 20])
def test_what_is_left_out_is_as_if_it_was_never_there(n: int) -> None:
    x, y = pairs(n)
    own = np.arange(float(n))
    _, without = retrieval(x, y, own, own)
    group = groups(n)
    sizes = np.bincount(group)
    assert len(without) == len(sizes) == min(n, GROUPS) and sizes.max() - sizes.min() <= 1
    for of in (0, len(without) - 1):
        kept = group != of
        assert without[of] == pytest.approx(retrieval(x[kept], y[kept], own[kept], own[kept])[0], abs=1e-12)


def record(model: str, example: str, side: str, vector: Rows) -> Record:
    spectrum = np.array([0.75, 0.25], np.float32)
    found = Record(
        model, example, "layer 1", side, "none", 5, 4, 0.56, 1.6, 0.75, 0, "f", spectrum,
        text_digest=f"t{example}", picture_digest=f"p{example}",
    )  # fmt: skip
    return replace(found, embedding=vector.astype(np.float32))


def frame(name: str, n: int = 12, seed: int = 0, d: int = 6) -> Any:
    records = []
    for model, draw in ((name, seed), (f"{TWIN}0 [0]", seed + 100)):
        for side, rows in zip(("image", "text"), pairs(n, draw, d), strict=True):
            records += [record(model, f"{i:03d}", side, 3 * row) for i, row in enumerate(rows)]  # of any length
    return to_frame(records)


def test_embeddings_are_measured_at_unit_length_beside_the_twin() -> None:
    found: dict[str, float] = {}
    for metric in (EMBEDDINGS, MATCHED_COSINE, OF_RETRIEVAL):
        for _, sample in metric.samples(frame("m"), "entropy"):
            found |= dict(zip(sample.quantities, sample.estimates, strict=True))
    for end, seed in (("", 0), ("_untrained", 100)):
        x, y = pairs(12, seed)
        assert found[f"erank_images{end}"] == pytest.approx(np.exp(entropy(x)), rel=1e-6)
        assert found[f"erank_joint{end}"] == pytest.approx(np.exp(entropy(np.concatenate([x, y]))), rel=1e-6)
        assert found[f"modality_gap{end}"] == pytest.approx(np.linalg.norm(x.mean(0) - y.mean(0)), rel=1e-6)
        assert found[f"matched_cosine{end}"] == pytest.approx((x * y).sum(1).mean(), rel=1e-6)
        own = np.arange(12.0)
        assert found[f"text_to_image_at_1{end}"] == retrieval(y, x, own, own)[0][0]


def test_pair_statistics_are_never_resampled_and_intervals_stay_between_their_bounds() -> None:
    found = {}
    for metric in (EMBEDDINGS, OF_RETRIEVAL):
        ((_, sample),) = metric.samples(frame("m"), "entropy")
        assert isinstance(sample, PairSample)
        values, without = sample.of_columns(sample.columns)
        reach = 2.200985 * np.sqrt(11 / 12 * ((without - without.mean(0)) ** 2).sum(0))
        limits = sample_intervals(sample)
        for name, *of in zip(sample.quantities, values, reach, strict=True):
            if name in limits:
                found[name] = (*of, *limits[name])
    for name, (value, reach_of_it, low, high) in found.items():
        if "erank" in name:  # a rank is at least 1
            expected = max(1, value - reach_of_it), value + reach_of_it
        else:
            most = 2 if "gap" in name else 1
            share = value / most
            z, apart = np.log(share / (1 - share)), reach_of_it / most / (share * (1 - share))
            expected = most / (1 + np.exp(apart - z)), most / (1 + np.exp(-apart - z))
        assert (low, high) == pytest.approx(expected, rel=1e-6), name
    assert any(value + reach_of_it > 1 for name, (value, reach_of_it, *_) in found.items() if "_at_" in name)
    assert {"erank_images", "modality_gap_untrained", "image_to_text_at_5"} <= {*found}


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("n", [24, 100])
def test_intervals_of_retrieval_hold_the_true_value(n: int, noise: float) -> None:
    """In 300 simulations, each true value being the mean over them; where all or none are found there is none."""
    generator = np.random.default_rng(0)
    own = np.arange(float(n))
    found = []
    for _ in range(300):
        shared, *apart = generator.normal(size=(3, n, 6))
        images, words = (unit(shared + noise * of) for of in apart)
        value, without = retrieval(images, words, own, own)
        limits = jackknife_limits(value, without, level=0.95, bounds=(0, 1))
        found.append((value, *limits, without_spread(without)))
    values, lows, highs, unmoved = (np.array(of) for of in zip(*found, strict=True))
    assert (lows >= 0).all() and (highs <= 1).all()
    held = ((lows <= values.mean(axis=0)) & (values.mean(axis=0) <= highs) & ~unmoved).sum(axis=0)
    share = held / (~unmoved).sum(axis=0)
    print(n, noise, values.mean(axis=0).round(3).tolist(), share.round(3).tolist(), unmoved.sum(axis=0).tolist())
    assert (share > 0.92).all(), share


def test_what_leaving_out_does_not_move_has_no_interval_and_no_p() -> None:
    perfect, none = np.eye(6), np.eye(6)[::-1]
    good = [record("a", f"{i}", side, row) for side in ("image", "text") for i, row in enumerate(perfect)]
    bad = [record("b", f"{i}", "image", row) for i, row in enumerate(perfect)]
    bad += [record("b", f"{i}", "text", row) for i, row in enumerate(none)]
    a, b = to_frame(good), to_frame(bad)
    for given, value in ((a, 1.0), (b, 0.0)):
        ((_, sample),) = OF_RETRIEVAL.samples(given, "entropy")
        assert sample.estimates[0] == value and "image_to_text_at_1" not in sample_intervals(sample)
    found = compared(a, b)["image_to_text_at_1"]
    assert found.difference == 1.0 and np.isnan(found.low) and found.p == 1.0


def test_encoders_of_different_widths_are_compared_by_retrieval() -> None:
    a, b = frame("a"), frame("b", seed=1, d=9)
    found = compared(a, b, quantities=RETRIEVAL)
    assert [d.quantity for d in found.differences] == [*RETRIEVAL] and found.n == 12
    own = np.arange(12.0)
    mine, its = (retrieval(*pairs(12, seed, d), own, own)[0][0] for seed, d in ((0, 6), (1, 9)))
    assert found["image_to_text_at_1"].difference == pytest.approx(mine - its)
    with pytest.raises(ValueError, match="expected the records of one encoder and its twin"):
        list(OF_RETRIEVAL.samples(pd.concat([frame("a"), frame("d")]), "entropy"))
