"""Paired tests against enumeration, scipy, hand computation, and how often they should be wrong."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from mmerank.analysis.metrics.alignment import ALIGNMENT
from mmerank.analysis.metrics.diff_erank import DIFF_ERANK
from mmerank.analysis.statistics import permutation
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.analysis.statistics.effects import rank_biserial, smallest_detectable
from mmerank.analysis.statistics.paired import controlled
from mmerank.analysis.statistics.permutation import swap_test
from mmerank.jobs.compare import Comparison, compare
from mmerank.report.terminal.intervals import comparison_notes
from tests.analysis.simulated import MEANS, Floats, alignment_values, deviations, frame
from tests.analysis.test_samples import texts

FEW = Bootstrap(resamples=200)


def pair(n: int, seed: int = 0, shift: float = 0.0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    a = MEANS + deviations(rng, n)
    return a, a + shift + 0.3 * deviations(rng, n)


def enumerated(a: Floats, b: Floats) -> Floats:
    """p of every swap there is, one by one."""
    observed = np.abs(alignment_values(a.mean(axis=0)) - alignment_values(b.mean(axis=0)))
    counts = np.zeros(7)
    for swaps in itertools.product([False, True], repeat=len(a)):
        swap = np.array(swaps)[:, None]
        one, other = np.where(swap, b, a), np.where(swap, a, b)
        value = np.abs(alignment_values(one.mean(axis=0)) - alignment_values(other.mean(axis=0)))
        counts += value >= observed - 1e-10
    return np.asarray(counts / 2 ** len(a))


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_p_is_that_of_all_swaps(n: int) -> None:
    a, b = pair(n, seed=n, shift=0.05)
    p, tried, exact = swap_test(a, b, alignment_values)
    assert exact and tried == 2**n
    assert p == pytest.approx(enumerated(a, b))
    found = compare(frame(a), frame(b), bootstrap=FEW)
    assert [d.p for d in found.differences] == pytest.approx(list(p)) and found.exact


def test_random_swaps_come_near_all_of_them() -> None:
    a, b = pair(9, shift=0.02)
    p, tried, exact = swap_test(a, b, alignment_values, permutations=500, seed=2)
    assert not exact and tried == 500
    expected = enumerated(a, b)
    assert np.abs(p - expected).max() < 4 * np.sqrt(0.25 / 500) and (p >= 1 / 501).all()


def test_p_of_an_erank_is_scipys() -> None:
    a, b = pair(8, seed=3)
    data: Any = (a[:, 3], b[:, 3])
    expected = stats.permutation_test(
        data,
        lambda x, y, axis: np.exp(x.mean(axis=axis)) - np.exp(y.mean(axis=axis)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=300,  # more than there are: all are tried
    )
    p, _, _ = swap_test(a, b, alignment_values)
    # scipy's two-sided p is twice the smaller tail; swaps are symmetric, so the two agree.
    assert p[3] == pytest.approx(expected.pvalue)


def test_chunks_of_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(11, seed=5)
    whole = swap_test(a, b, alignment_values)[0]
    monkeypatch.setattr(permutation, "_CHUNK", 200)
    assert swap_test(a, b, alignment_values)[0] == pytest.approx(whole)
    many, _, exact = swap_test(*pair(30, seed=5), alignment_values, permutations=999)
    assert not exact and (many >= 1 / 1000).all() and (many <= 1).all()


def test_a_ratio_is_taken_of_the_resampled_eranks() -> None:
    """The interval of the difference by a plain loop over the same resamples."""
    a, b = pair(40, seed=7, shift=0.1)
    how = Bootstrap(resamples=300, seed=4, method="percentile")
    rows = np.random.default_rng(4).integers(40, size=(300, 40), dtype=np.int64)
    values = np.array([alignment_values(a[r].mean(axis=0)) - alignment_values(b[r].mean(axis=0)) for r in rows])
    found = compare(frame(a), frame(b), bootstrap=how)
    assert [d.quantity for d in found.differences] == list(ALIGNMENT)
    for i, difference in enumerate(found.differences):
        assert difference.a == pytest.approx(alignment_values(a.mean(axis=0))[i])
        assert difference.b == pytest.approx(alignment_values(b.mean(axis=0))[i])
        assert difference.difference == pytest.approx(difference.a - difference.b)
        assert (difference.low, difference.high) == pytest.approx(np.quantile(values[:, i], [0.025, 0.975]))


def test_effect_sizes_are_of_entropies() -> None:
    a, b = pair(25, seed=1, shift=0.04)
    found = compare(frame(a), frame(b), bootstrap=FEW)
    d = a[:, 4] - b[:, 4]
    assert found["erank5"].d_z == pytest.approx(d.mean() / d.std(ddof=1))
    assert found["erank5"].p_wilcoxon == pytest.approx(stats.wilcoxon(a[:, 4], b[:, 4]).pvalue)
    single = alignment_values(a)[:, 5] - alignment_values(b)[:, 5]
    assert found["image_reduction_ratio"].d_z == pytest.approx(single.mean() / single.std(ddof=1))


def test_rank_biserial_by_hand() -> None:
    # Ranks of |d| are 1, 2, 3.5, 3.5 (0 does not count): W+ = 1 + 3.5, W- = 2 + 3.5.
    assert rank_biserial(np.array([1.0, -2.0, 3.0, -3.0, 0.0])) == pytest.approx((4.5 - 5.5) / 10)
    assert rank_biserial(np.zeros(3)) == 0
    d = np.random.default_rng(0).normal(0.3, 1, 30)
    w_plus = stats.wilcoxon(d, alternative="greater").statistic
    assert rank_biserial(d) == pytest.approx(2 * w_plus / (30 * 31 / 2) - 1)


@pytest.mark.parametrize("n", [10, 50, 1000])
def test_power_at_the_smallest_detectable_difference(n: int) -> None:
    """By the noncentral t distribution, which the formula approximates."""
    effect = smallest_detectable(1 / math.sqrt(n), n) * math.sqrt(n)
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, effect) + stats.nct.cdf(-critical, n - 1, effect)
    assert power == pytest.approx(0.8, abs=0.01)


def test_smallest_detectable_has_the_quantitys_unit() -> None:
    a, b = pair(60, seed=2, shift=0.1)
    found = compare(frame(a), frame(b), aggregate="erank", bootstrap=FEW)
    d = np.exp(a[:, 0]) - np.exp(b[:, 0])
    factor = stats.t.ppf(0.975, 59) + stats.t.ppf(0.8, 59)
    assert found["erank1"].smallest_detectable == pytest.approx(factor * stats.sem(d))
    assert found["erank1"].difference == pytest.approx(d.mean())
    doubled = compare(frame(np.tile(a, (4, 1))), frame(np.tile(b, (4, 1))), bootstrap=FEW)
    ratio = (
        doubled["erank1"].smallest_detectable
        / compare(frame(a), frame(b), bootstrap=FEW)["erank1"].smallest_detectable
    )
    assert ratio == pytest.approx(0.5, rel=0.02)


def with_p(*values: float) -> Comparison:
    a, b = pair(5)
    found = compare(frame(a), frame(b), quantities=ALIGNMENT[: len(values)], bootstrap=FEW)
    changed = tuple(replace(d, p=p) for d, p in zip(found.differences, values, strict=True))
    return replace(found, differences=changed)


def test_false_discovery_by_hand() -> None:
    one, other = controlled([with_p(0.01, 0.04), with_p(0.03, 0.5, 0.02)])
    # Sorted 0.01 0.02 0.03 0.04 0.5, times 5 / rank: 0.05 0.05 0.05 0.05 0.5.
    assert [d.q for d in one.differences] == pytest.approx([0.05, 0.05])
    assert [d.q for d in other.differences] == pytest.approx([0.05, 0.5, 0.05])
    assert one.tests == other.tests == 5
    (by,) = controlled([with_p(0.01, 0.04)], "by")
    assert [d.q for d in by.differences] == pytest.approx([0.01 * 2 * 1.5, 0.04 * 1.5]) and by.false_discovery == "by"


def test_only_common_examples_count() -> None:
    a, b = pair(20, seed=9)
    found = compare(frame(a), frame(b[5:], first=5), bootstrap=FEW)
    assert found.n == 15 and found.unpaired == 5
    assert found.differences == compare(frame(a[5:], first=5), frame(b[5:], first=5), bootstrap=FEW).differences


def test_one_example_has_neither_interval_nor_effect() -> None:
    found = compare(frame(np.ones((1, 5))), frame(np.full((1, 5), 2.0)))
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    row = content["differences"][0]
    assert row["difference"] == pytest.approx(math.e - math.e**2) and row["p"] == 1
    assert row["low"] is row["d_z"] is row["smallest_detectable"] is None
    assert content["n"] == 1 and content["bootstrap"]["level"] == 0.95
    assert "no intervals" in str(found)


def test_texts_with_twins() -> None:
    a, b = texts(seed=1), texts(seed=2)
    found = compare(a, b, bootstrap=FEW)
    assert {"diff_erank", "reduced_loss", "erank_ratio"} <= set(found.to_pandas()["quantity"])
    assert found["reduced_loss"].a == pytest.approx(
        a[a["model"] != "m"]["loss"].mean() - a[a["model"] == "m"]["loss"].mean()
    )


def test_a_model_without_a_loss_is_compared_in_the_rest() -> None:
    encoder = texts(seed=2).assign(loss=math.nan, predicted=0)
    found = compare(texts(seed=1), encoder, bootstrap=FEW)
    assert [d.quantity for d in found.differences] == list(DIFF_ERANK)


@pytest.mark.parametrize(
    ("a", "b", "keywords", "message"),
    [
        (frame(np.ones((2, 5))), frame(np.ones((2, 5)), first=9), {}, "examples in common, got none: 2 .* and 2"),
        (
            frame(np.ones((2, 5))),
            frame(np.ones((2, 5))),
            {"quantities": ["erank9"]},
            "no quantity 'erank9'; known: er",
        ),
        (texts(), texts(twins=1), {}, "same measurements on both sides"),
        (texts(), frame(np.ones((9, 5))), {}, "same measurements on both sides"),
    ],
)
def test_what_cannot_be_compared(a: Any, b: Any, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(a, b, **keywords)
    with pytest.raises(KeyError, match="known: erank1, erank2"):
        _ = compare(frame(np.ones((2, 5))), frame(np.ones((2, 5))), bootstrap=FEW)["erank"]


def test_names() -> None:
    found = compare(frame(np.ones((3, 5)), transform="flip"), frame(np.ones((3, 5))), bootstrap=FEW)
    assert (found.a, found.b) == ("m, flip", "m")
    assert "m, flip - m, n = 3" in str(found)
    named = compare(frame(np.ones((3, 5))), frame(np.ones((3, 5))), bootstrap=FEW, names=("one", "other"))
    assert (named.a, named.b) == ("one", "other")


two = arrays.arrays(np.float64, st.tuples(st.just(2), st.integers(2, 8), st.just(5)), elements=st.floats(0.1, 6))


@settings(max_examples=12)
@given(two, st.sampled_from(["entropy", "erank"]))
def test_swapping_sides_changes_signs_alone(h: Floats, aggregate: Any) -> None:
    one, other = frame(h[0]), frame(h[1])
    there, back = (compare(*pair, aggregate=aggregate, bootstrap=FEW) for pair in ((one, other), (other, one)))
    for a, b in zip(there.differences, back.differences, strict=True):
        assert a.difference == pytest.approx(-b.difference, abs=1e-9)
        assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=1e-9)
        assert a.p == pytest.approx(b.p) and a.rank_biserial == pytest.approx(-b.rank_biserial, abs=1e-9)


@settings(max_examples=12)
@given(two, st.sampled_from(["entropy", "erank"]))
def test_no_difference_is_none_to_the_last_bit(h: Floats, aggregate: Any) -> None:
    found = compare(frame(h[0]), frame(h[0]), aggregate=aggregate, bootstrap=FEW)
    assert found.fixed == ALIGNMENT and found.tests == 0
    for d in found.differences:
        assert (d.difference, d.low, d.high, d.p, d.p_wilcoxon, d.rank_biserial) == (0, 0, 0, 1, 1, 0)
        assert math.isnan(d.q) and math.isnan(d.d_z) and math.isnan(d.smallest_detectable)


def test_what_is_equal_in_every_example_is_no_test() -> None:
    """q by hand over the others; numbers that differ in one example alone are tested."""
    a, b = pair(8, seed=2)
    b[:, 0], b[1:, 1] = a[:, 0], a[1:, 1]
    found = compare(frame(a), frame(b), bootstrap=FEW)
    assert found.fixed == ("erank1",) and found.tests == 6
    p = [d.p for d in found.differences if d.quantity != "erank1"]
    assert [d.q for d in found.differences][1:] == pytest.approx(stats.false_discovery_control(p))
    only = compare(frame(a), frame(b), quantities=["erank5"], bootstrap=FEW)
    assert only["erank5"].q == only["erank5"].p == found["erank5"].p
    both = controlled([found, only])
    assert both[0].tests == both[1].tests == 7 and math.isnan(both[0]["erank1"].q)
    assert "q -: equal in every example" in str(found) and "equal in every" not in str(only)


def test_a_ratio_of_means_may_differ_where_each_is_equal() -> None:
    """With Algorithm (b): e2 / e1 is one half and one quarter on both sides, with other weights."""
    a = np.log(np.array([[8.0, 4, 5, 5, 5], [8, 2, 5, 5, 5]]))
    b = np.log(np.array([[8.0, 4, 5, 5, 5], [80, 20, 5, 5, 5]]))
    found = compare(frame(a), frame(b), aggregate="erank", bootstrap=FEW)
    ratio = found["image_reduction_ratio"]
    assert ratio.difference == pytest.approx((1 - 6 / 16) - (1 - 24 / 88)) and not math.isnan(ratio.q)


def rejected(n: int, shift: Floats, seed: int, rounds: int = 30, sets: int = 100) -> tuple[Floats, float]:
    """Share of data sets in which a shift of B is found at 5 %, by quantity, and in which any q is below 5 %."""

    def of_means(means: Floats) -> Floats:
        values = alignment_values(means.reshape(*means.shape[:-1], sets, 5))
        return values.reshape(*values.shape[:-2], -1)

    p = []
    for i in range(rounds):  # data sets of one round share their swaps
        rng = np.random.default_rng((seed, i))
        shared = MEANS + deviations(rng, n, sets)
        a, b = (shared + change + 0.3 * deviations(rng, n, sets) for change in (np.zeros(5), shift))
        p.append(
            swap_test(a.reshape(n, -1), b.reshape(n, -1), of_means, permutations=999, seed=i)[0].reshape(sets, 7)
        )
    found = np.concatenate(p)
    any_q = np.mean([(stats.false_discovery_control(row) <= 0.05).any() for row in found])
    return (found <= 0.05).mean(axis=0), float(any_q)


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 50])
def test_false_positives(n: int) -> None:
    """Of 3,000 data sets without a difference, 4 to 6 % are found to have one (Monte-Carlo error 0.4 %)."""
    share, any_q = rejected(n, np.zeros(5), seed=n)
    print(n, share.round(4).tolist(), any_q)
    assert (share > 0.04).all() and (share < 0.06).all(), share
    assert any_q < 0.06


@pytest.mark.slow
def test_false_positives_where_eranks_differ_and_ratios_do_not() -> None:
    """Entropies all raised alike leave both ratios as they are, though A and B are not exchangeable (6,000 sets)."""
    share, _ = rejected(50, np.full(5, 0.1), seed=1, rounds=60)
    print(share.round(4).tolist())
    assert (share[5:] > 0.04).all() and (share[5:] < 0.06).all() and (share[:5] > 0.5).all(), share


def test_a_comparison_has_what_other_results_have() -> None:
    a, b = pair(9, shift=0.05)
    found = compare(frame(a), frame(b), names=("ours", "theirs"), bootstrap=FEW)
    table = found.estimates()
    assert list(table) == ["model", "transform", "point", "metric", "quantity", "value", "low", "high", "n"]
    assert (
        set(table["metric"]) == {"alignment"} and set(table["model"]) == {"ours - theirs"} and set(table["n"]) == {9}
    )
    by_name = table.set_index("quantity")
    expected = np.exp(a[:, 4].mean()) - np.exp(b[:, 4].mean())
    assert by_name.loc["erank5", "value"] == pytest.approx(expected)
    assert by_name.loc["erank5", "low"] == found["erank5"].low
    said = found.how_to_report()
    assert "ours minus theirs, on the same examples (n = 9)" in said and f"eRank5 {expected:+.2f} [" in said
    assert "all 512 swaps; q after Benjamini-Hochberg over 7 tests" in said


def test_two_names_of_one_data_set_are_told_what_to_do() -> None:
    one, other = (SimpleNamespace(data=name, convention=None, records=()) for name in ("csv:a.csv", "DataFrame"))
    with pytest.raises(ValueError, match=r"give them one name \(load_data\(\.\.\., name=\.\.\.\)\)"):
        compare(one, other)


def test_a_sign_that_is_not_the_differences_is_told() -> None:
    a, b = pair(9, shift=0.05)
    found = compare(frame(a), frame(b), names=("ours", "theirs"), bootstrap=FEW)
    of = found["erank5"]
    agreeing, opposed = (replace(of, d_z=sign * math.copysign(0.5, of.difference)) for sign in (1, -1))
    for one, told in ((agreeing, False), (opposed, True)):
        shown = replace(found, differences=(one,))
        assert shown.opposed == (("erank5",) if told else ())
        said = "d_z of eRank5 has the other sign"
        assert (said in shown.to_markdown()) is told
        assert any(said in line for line in comparison_notes([shown])) is told
