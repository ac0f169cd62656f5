"""Transforms against their base: enumeration, hand computation, and `compare` itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmerank import compare
from mmerank.analysis.metrics.alignment import ALIGNMENT
from mmerank.analysis.perturbation import (
    against_nulls,
    differences_frame,
    fixed_quantities,
    matched_deltas,
    paired_tests,
)
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.null import null_test
from tests.analysis.simulated import MEANS, Floats, alignment_values, deviations, frame
from tests.analysis.test_paired import enumerated
from tests.analysis.test_tokens import draws, logs, measured

FEW = Bootstrap(resamples=200)
OF_PICTURE = ["erank1", "erank2", "erank3", "erank5", "image_reduction_ratio", "image_text_alignment"]
OF_TEXT = ["erank4", "erank5", "image_text_alignment"]


@pytest.mark.parametrize(
    ("transform", "moved"),
    [
        ("identity", []),
        ("rotate:90", OF_PICTURE),
        ("identity+blur:2", OF_PICTURE),
        ("other", ["erank5", "image_text_alignment"]),
        ("other+blur:2", OF_PICTURE),
        ("shuffle-words", OF_TEXT),
        ("other-text+shuffle-words", OF_TEXT),
        ("identity+other-text", ["erank5", "image_text_alignment"]),
        ("other+other-text", ["erank5", "image_text_alignment"]),
        ("grey+other-text", OF_PICTURE),
        ("grey+shuffle-words", list(ALIGNMENT)),
    ],
)
def test_what_a_transform_cannot_move(transform: str, moved: list[str]) -> None:
    assert [name for name in ALIGNMENT if name not in fixed_quantities(transform)] == moved


def run_of(n: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Records of a base, three transforms and a null, and the entropies of the four."""
    rng = np.random.default_rng(n)
    base = MEANS + deviations(rng, n)
    turned, shuffled = base + 0.05 + 0.1 * deviations(rng, n), base + 0.1 * deviations(rng, n)
    turned[:, 3] = base[:, 3]
    shuffled[:, :3] = base[:, :3]
    values = {"none": base, "rotate:90": turned, "shuffle-words": shuffled, "identity": base}
    frames = [frame(entropies, transform=name) for name, entropies in values.items()]
    null = frame(base, transform="mismatch/0").query("input == 'pair'")
    return pd.concat([*frames, null]), values


@pytest.mark.parametrize("n", [2, 6])
def test_p_of_all_swaps_and_q_over_what_can_move(n: int) -> None:
    records, values = run_of(n)
    tests = paired_tests(records, bootstrap=FEW)
    assert list(tests) == ["rotate:90", "shuffle-words", "identity"]
    before = alignment_values(values["none"].mean(axis=0))
    family = []
    for name, comparison in tests.items():
        p = enumerated(values[name], values["none"])
        assert comparison.exact and comparison.tests == 6 + 3 and (comparison.a, comparison.b) == (name, "base")
        for i, (quantity, found) in enumerate(zip(ALIGNMENT, comparison.differences, strict=True)):
            assert found.quantity == quantity and found.p == pytest.approx(p[i])
            assert found.difference == pytest.approx(alignment_values(values[name].mean(axis=0))[i] - before[i])
            assert math.isnan(found.q) == (quantity in comparison.fixed)
            if quantity not in comparison.fixed:
                family.append((found.p, found.q))
    # Benjamini and Hochberg's step-up by hand: the least p(j) m / j over all j from i on.
    family.sort()
    by_hand = [
        min(p * len(family) / (j + 1) for j, (p, _) in enumerate(family) if j >= i) for i in range(len(family))
    ]
    assert [q for _, q in family] == pytest.approx(by_hand)


def test_each_is_the_comparison_of_both_frames() -> None:
    records, values = run_of(24)
    tests = paired_tests(records, bootstrap=FEW, false_discovery="by")
    for name, comparison in tests.items():
        alone = compare(frame(values[name]), frame(values["none"]), bootstrap=FEW)
        keys = ("quantity", "a", "b", "difference", "low", "high", "p", "p_wilcoxon", "d_z", "rank_biserial",
                "smallest_detectable")  # fmt: skip
        for one, other in zip(comparison.differences, alone.differences, strict=True):
            np.testing.assert_equal([getattr(one, k) for k in keys], [getattr(other, k) for k in keys])
        assert comparison.n == 24 and not comparison.exact and comparison.false_discovery == "by"


def test_no_change_is_exactly_none() -> None:
    records, _ = run_of(12)
    tests = paired_tests(records)
    for found in tests["identity"].differences:
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1) and math.isnan(found.q)
        assert math.isnan(found.smallest_detectable)
    for name, quantity in (("rotate:90", "erank4"), ("shuffle-words", "image_reduction_ratio")):
        found = tests[name][quantity]
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1) and quantity in tests[name].fixed
    printed = json.loads(json.dumps(tests["identity"].to_dict(), allow_nan=False))
    assert printed["fixed"] == list(ALIGNMENT) and {row["q"] for row in printed["differences"]} == {None}
    only = records[records["transform"].isin(["none", "identity"])]
    assert paired_tests(only)["identity"].tests == 0


def test_a_row_for_each_transform_and_quantity() -> None:
    records, _ = run_of(5)
    tests = paired_tests(records, bootstrap=FEW)
    found = differences_frame(tests)
    assert len(found) == 3 * 7 and set(found["n"]) == {5} and found["fixed"].sum() == 1 + 4 + 7
    row = found[(found["transform"] == "rotate:90") & (found["quantity"] == "erank1")].iloc[0]
    assert row["low"] == tests["rotate:90"]["erank1"].low and row["q"] == tests["rotate:90"]["erank1"].q


@pytest.mark.parametrize("aggregate", ["entropy", "erank"])
def test_the_base_among_its_nulls(aggregate: Any) -> None:
    rng = np.random.default_rng(1)
    base = MEANS + deviations(rng, 8)
    pairs = MEANS[4] + 0.1 * rng.standard_normal((12, 8))
    frames = [frame(base)]
    for draw in reversed(range(12)):  # in any order, and 10 after 9
        made = frame(np.tile(pairs[draw][:, None], 5), transform=f"independent/{draw}")
        frames.append(made[made["input"] == "pair"])
    (null,) = against_nulls(pd.concat(frames), aggregate=aggregate)

    def mean(h: Floats) -> Floats:
        return np.asarray(np.exp(h.mean(axis=0)) if aggregate == "entropy" else np.exp(h).mean(axis=0))

    e3, e4, e5 = mean(base)[2:]
    eranks = [float(mean(of_draw)) for of_draw in pairs]
    ratios = [(e3 + e4 + e) / 3 / max(e3, e4, e) for e in eranks]
    assert null.control == "independent" and null.draws["erank5"] == pytest.approx(eranks)
    assert null.draws["image_text_alignment"] == pytest.approx(ratios)
    here = {"erank5": e5, "image_text_alignment": (e3 + e4 + e5) / 3 / max(e3, e4, e5)}
    for name, values in (("erank5", eranks), ("image_text_alignment", ratios)):
        test, value = null.tests[name], here[name]
        above, below = sum(x >= value for x in values), sum(x <= value for x in values)
        assert test.value == pytest.approx(value) and test.p == pytest.approx(
            min(1, 2 * (min(above, below) + 1) / 13)
        )
        assert test.null_mean == pytest.approx(np.mean(values))
        assert test.null_sd == pytest.approx(np.std(values, ddof=1))
        assert test.z == pytest.approx((value - np.mean(values)) / np.std(values, ddof=1))
    printed = json.loads(json.dumps(null.to_dict(8), allow_nan=False))
    assert printed["draws"] == 12 and printed["n"] == 8 and printed["erank5"]["null"] == list(null.draws["erank5"])
    assert printed["erank5"]["p"] == null.tests["erank5"].p


@pytest.mark.parametrize("draws_of_null", [1, 10, 39, 99])
def test_least_p_of_so_many_draws(draws_of_null: int) -> None:
    far = null_test(9.0, np.random.default_rng(0).random(draws_of_null).tolist())
    assert far.p == pytest.approx(min(1, 2 / (draws_of_null + 1)))


def test_matched_differences_stand_on_examples_that_both_have() -> None:
    short: list[Any] = [np.empty(0)] * 5
    base = [
        *measured("a", logs(8, 6, 5, 7, 9), matched=draws((4, 1), (2, 2), (3, 3), (5, 5), (4, 9))),
        *measured("b", logs(8, 6, 5, 7, 9), matched=draws(*[(7, 7)] * 5)),
        *measured("c", logs(8, 6, 5, 7, 9), matched=short),
    ]
    changed = [
        *measured("a", logs(8, 6, 5, 7, 9), matched=draws((8, 2), (2, 2), (3, 3), (5, 5), (4, 4))),
        *measured("b", logs(8, 6, 5, 7, 9), matched=short),
        *measured("c", logs(8, 6, 5, 7, 9), matched=draws(*[(7, 7)] * 5)),
    ]
    found = matched_deltas(base, changed, tokens=3, repeats=2)
    assert found.pop("n") == 1
    expected = [2, 0, 0, 0, -2, 0.5, 12 / 3 / 5 - 14 / 3 / 6]  # eRank1 2 -> 4, eRank5 6 -> 4
    assert list(found.values()) == pytest.approx(expected, abs=1e-12) and list(found) == list(ALIGNMENT)
    none = matched_deltas([replace(r, matched=np.empty(0)) for r in base], changed, tokens=3, repeats=2)
    assert none == {"n": 0, **dict.fromkeys(ALIGNMENT)}
