"""Intervals against scipy's, against a plain loop, and against how often they should hold."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from mmerank.analysis.intervals import difference_of_groups, intervals, intervals_by_point
from mmerank.analysis.statistics import bootstrap as module
from mmerank.analysis.statistics.bootstrap import Bootstrap, Method, bootstrap_limits, influence, resampled_means
from tests.analysis.simulated import MEANS, Floats, alignment_values, deviations, frame
from tests.analysis.test_samples import texts

every_method = pytest.mark.parametrize("method", get_args(Method))


def draws(n: int, how: Bootstrap) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The examples of each resample, where they fit into one chunk."""
    return np.random.default_rng(how.seed).integers(n, size=(how.resamples, n), dtype=np.int64)


@pytest.mark.parametrize("method", ["percentile", "basic", "BCa"])
@pytest.mark.parametrize("n", [2, 11, 40])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_limits_are_scipys_for_the_same_resamples(method: Method, n: int) -> None:
    how = Bootstrap(level=0.9, resamples=500, seed=3, method=method)
    h = MEANS + deviations(np.random.default_rng(n), n, skew=2.0)
    examples = draws(n, how)
    low, high = bootstrap_limits(h, alignment_values, how)
    for i in range(7):

        def statistic(*columns: Floats, axis: int = -1, i: int = i) -> Any:
            return alignment_values(np.stack([column.mean(axis=axis) for column in columns], axis=-1))[..., i]

        drawn = statistic(*(column[examples] for column in h.T))
        earlier: Any = stats.bootstrap(tuple(h.T), statistic, paired=True, vectorized=True, n_resamples=3)
        earlier.bootstrap_distribution = drawn
        expected = stats.bootstrap(
            tuple(h.T),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=0,
            bootstrap_result=earlier,
            confidence_level=how.level,
            method=method,  # type: ignore[arg-type]
        ).confidence_interval
        assert (low[i], high[i]) == pytest.approx((expected.low, expected.high), rel=1e-9, nan_ok=True)


@every_method
def test_limits_of_a_plain_loop(method: Method) -> None:
    how = Bootstrap(resamples=300, seed=1, method=method)
    h = MEANS + deviations(np.random.default_rng(0), 30)
    values = np.array([alignment_values(h[rows].mean(axis=0)) for rows in draws(30, how)])
    estimate = alignment_values(h.mean(axis=0))
    tails = np.full((2, 7), 0.025)
    if method == "expanded":
        tails[:] = stats.norm.cdf(np.sqrt(30 / 29) * stats.t.ppf(0.025, 29))
    elif method == "BCa":
        without = np.array([alignment_values(np.delete(h, i, axis=0).mean(axis=0)) for i in range(30)])
        u = without.mean(axis=0) - without
        acceleration = (u**3).sum(axis=0) / 6 / (u**2).sum(axis=0) ** 1.5
        bias = stats.norm.ppf(((values < estimate).mean(axis=0) + (values <= estimate).mean(axis=0)) / 2)
        for i, z in enumerate((bias + stats.norm.ppf(0.025), -bias + stats.norm.ppf(0.025))):
            sign = 1 - 2 * i
            tails[i] = stats.norm.cdf(sign * (bias + sign * z / (1 - acceleration * sign * z)))
    expected_low = np.array([np.quantile(values[:, i], tails[0, i]) for i in range(7)])
    expected_high = np.array([np.quantile(values[:, i], 1 - tails[1, i]) for i in range(7)])
    if method == "basic":
        expected_low, expected_high = 2 * estimate - expected_high, 2 * estimate - expected_low
    low, high = bootstrap_limits(h, alignment_values, how)
    assert low == pytest.approx(expected_low, rel=1e-9) and high == pytest.approx(expected_high, rel=1e-9)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    h = deviations(np.random.default_rng(0), 37)
    whole = resampled_means(h, 101, np.random.default_rng(5))
    monkeypatch.setattr(module, "_CHUNK", 300)
    assert resampled_means(h, 101, np.random.default_rng(5)) == pytest.approx(whole, abs=1e-13)


def test_influence_gives_the_standard_error_of_a_mean() -> None:
    x = np.random.default_rng(0).normal(size=(12, 3))
    error = np.sqrt((influence(x, lambda means: means) ** 2).sum(axis=0) * 12 / 11)
    assert error == pytest.approx(stats.sem(x, axis=0))


@settings(max_examples=15)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(2, 12), st.just(5)), elements=st.floats(0, 7)),
    st.sampled_from(get_args(Method)),
    st.randoms(use_true_random=False),
)
def test_order_of_rows_does_not_matter(h: Floats, method: Method, random: Any) -> None:
    rows = frame(h)
    how = Bootstrap(resamples=50, method=method)
    assert intervals(rows.sample(frac=1, random_state=random.randrange(99)), bootstrap=how) == intervals(
        rows, bootstrap=how
    )


@settings(max_examples=50)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(20, 60), st.just(1)), elements=st.floats(0, 7)),
    st.sampled_from(["expanded", "percentile"]),
)
def test_percentile_intervals_hold_the_estimate_and_keep_the_range(h: Floats, method: Method) -> None:
    low, high = bootstrap_limits(h, np.exp, Bootstrap(method=method))
    estimate = np.exp(h.mean(axis=0))
    assert low <= estimate * (1 + 1e-12) and estimate <= high * (1 + 1e-12)
    assert low >= np.exp(h.min()) * (1 - 1e-12) and high <= np.exp(h.max()) * (1 + 1e-12)


def test_intervals_of_records_are_those_of_their_entropies() -> None:
    h = MEANS + deviations(np.random.default_rng(4), 25)
    found = intervals(frame(h))
    low, high = bootstrap_limits(h, alignment_values, Bootstrap())
    assert list(found)[:2] == ["erank1", "erank2"] and list(found)[5:] == [
        "image_reduction_ratio",
        "image_text_alignment",
    ]
    assert list(found.values()) == [pytest.approx(pair) for pair in zip(low, high, strict=True)]


def test_mean_of_eranks_has_intervals_of_its_own() -> None:
    h = MEANS + deviations(np.random.default_rng(4), 25)
    low, high = bootstrap_limits(np.exp(h), lambda eranks: eranks, Bootstrap())
    found = intervals(frame(h), aggregate="erank")
    assert found["erank3"] == pytest.approx((low[2], high[2])) != pytest.approx(intervals(frame(h))["erank3"])


def test_a_resample_takes_the_same_texts_of_all_models() -> None:
    """Where twin and trained model differ by a constant, their difference does not vary, though both do."""
    given = texts(30, twins=1)
    trained = given["model"] == "m"
    given.loc[~trained, "loss"] = given.loc[trained, "loss"].to_numpy() + 2
    found = intervals(given)
    assert found["reduced_loss"] == pytest.approx((2, 2))
    assert found["loss_trained"][1] - found["loss_trained"][0] > 0.1


def test_points_at_once_are_points_one_by_one() -> None:
    given = texts(12)
    layer = given.assign(point="layer 1", entropy=given["entropy"] / 2, loss=np.nan, predicted=0)
    together = pd.concat([layer, given])
    found = intervals_by_point(together)
    assert list(found) == ["layer 1", "final"]
    for point in found:
        alone = intervals(together, point=point)
        assert {k: pytest.approx(v) for k, v in found[point].items()} == alone


def test_one_example_has_no_interval() -> None:
    assert intervals(frame(np.ones((1, 5)))) == {}
    assert intervals_by_point(texts(1)) == {"final": {}}


@every_method
def test_equal_examples_have_intervals_of_no_width(method: Method) -> None:
    found = intervals(frame(np.full((5, 5), 1.1)), bootstrap=Bootstrap(method=method))
    assert found["erank1"] == pytest.approx((np.exp(1.1),) * 2) and found["image_text_alignment"] == pytest.approx(
        (1, 1)
    )


@pytest.mark.parametrize("values", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}, {"method": "bca"}])
def test_settings_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Bootstrap(**values)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_independent_groups_against_scipy(method: Method) -> None:
    rng = np.random.default_rng(2)
    a, b = MEANS + deviations(rng, 30), MEANS + 0.1 + deviations(rng, 45)
    found = difference_of_groups(
        frame(a), frame(b, first=100), bootstrap=Bootstrap(resamples=50_000, method=method)
    ).set_index("quantity")
    data: Any = (a[:, 3], b[:, 3])
    expected = stats.bootstrap(
        data,
        lambda x, y, axis=-1: np.exp(x.mean(axis=axis)) - np.exp(y.mean(axis=axis)),
        vectorized=True,
        method=method,  # type: ignore[arg-type]
        n_resamples=50_000,
        rng=np.random.default_rng(0),
    )
    row = found.loc["erank4"]
    assert row["difference"] == pytest.approx(np.exp(a[:, 3].mean()) - np.exp(b[:, 3].mean()))
    # Other resamples: a 2.5 % quantile of 50,000 has a Monte-Carlo error of 0.012 standard errors.
    slack = 0.08 * expected.standard_error
    assert row["low"] == pytest.approx(expected.confidence_interval.low, abs=slack)
    assert row["high"] == pytest.approx(expected.confidence_interval.high, abs=slack)


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
def test_coverage(n: int) -> None:
    """Of 2,000 data sets, 93 to 97 % of the 95 % intervals hold the true value (Monte-Carlo error 0.5 %)."""
    rng = np.random.default_rng(n)
    sets, shift = 100, np.array([0.05, 0.1, 0.0, 0.02, -0.03])
    truth_a, truth_b = alignment_values(MEANS), alignment_values(MEANS + shift)
    truth = np.concatenate([truth_a, truth_b - truth_a])

    def of_means(means: Floats) -> Floats:
        a, b = np.moveaxis(means.reshape(*means.shape[:-1], sets, 2, 5), -2, 0)
        values = alignment_values(a)
        return np.concatenate([values, alignment_values(b) - values], axis=-1).reshape(*means.shape[:-1], -1)

    held = []
    for seed in range(20):  # data sets of one round share their resamples
        a = deviations(rng, n, sets)
        b = shift + a + 0.3 * deviations(rng, n, sets)
        h = MEANS + np.stack([a, b], axis=-2)
        limits = bootstrap_limits(h.reshape(n, -1), of_means, Bootstrap(seed=seed))
        low, high = (side.reshape(sets, -1) for side in limits)
        held.append((low <= truth) & (truth <= high))
    coverage = np.concatenate(held).mean(axis=0)
    print(n, coverage.round(4).tolist())
    assert (coverage > 0.93).all() and (coverage < 0.97).all(), coverage
