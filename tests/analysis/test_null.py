from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from mmerank.analysis.statistics.null import Alternative, null_test


@pytest.mark.parametrize("alternative", get_args(Alternative))
@pytest.mark.parametrize("value", [-2.5, 0.1, 1.7])
def test_p_is_scipys_monte_carlo_p(alternative: Alternative, value: float) -> None:
    null = np.random.default_rng(0).normal(size=199)
    expected = stats.monte_carlo_test(
        [value], lambda size: null[:, None], lambda x, axis: x[..., 0], n_resamples=199, alternative=alternative
    )
    found = null_test(value, null.tolist(), alternative=alternative)
    assert found.p == pytest.approx(expected.pvalue) and found.draws == 199
    assert found.z == pytest.approx((value - null.mean()) / null.std(ddof=1))


def test_p_is_never_zero() -> None:
    assert null_test(99, [0.0] * 9 + [1.0], alternative="greater").p == pytest.approx(1 / 11)
    assert null_test(99, [0.0] * 9 + [1.0]).p == pytest.approx(2 / 11)
    assert null_test(0, [0.0, 0.0]).p == 1


def test_equal_up_to_rounding_is_equal() -> None:
    assert null_test(0.3, [0.1 + 0.2, 0.0, 0.0], alternative="greater").p == pytest.approx(2 / 4)


def test_no_spread_no_z() -> None:
    one, equal = null_test(2, [1.0]), null_test(2, [1.0, 1.0])
    assert math.isnan(one.null_sd) and math.isnan(one.z) and math.isnan(equal.z)
    assert one.to_dict()["z"] is None and one.to_dict()["null_mean"] == 1


@pytest.mark.parametrize(
    ("value", "null", "message"),
    [(1, [], "expected null values"), (1, [math.nan], "1 bad null"), (math.inf, [1], "value inf")],
)
def test_what_is_no_null(value: float, null: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        null_test(value, null)
    with pytest.raises(ValueError, match="alternative"):
        null_test(1, [1], alternative="both")  # type: ignore[arg-type]
