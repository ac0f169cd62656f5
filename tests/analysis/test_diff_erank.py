from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmerank.analysis.metrics.diff_erank import diff_erank, diff_sample
from mmerank.runs.record import Record, to_frame
from tests.test_records import record


def records(values: list[float], point: str = "final") -> list[Record]:
    return [record(f"{i}", value, point=point, input="text") for i, value in enumerate(values)]


@given(st.lists(st.tuples(st.floats(0, 7), st.floats(0, 7)), min_size=1, max_size=12))
def test_both_algorithms(pairs: list[tuple[float, float]]) -> None:
    before, after = ([pair[i] for pair in pairs] for i in (0, 1))
    (found,) = diff_erank(records(after), [records(before)])
    n = len(pairs)
    assert found.diff_erank == pytest.approx(math.exp(sum(before) / n) - math.exp(sum(after) / n), abs=1e-9)
    by_text = [math.exp(b) - math.exp(a) for b, a in pairs]
    assert found.diff_erank_mean_of_eranks == pytest.approx(sum(by_text) / n, abs=1e-9)
    assert found.erank_ratio == pytest.approx(found.erank_untrained / found.erank_trained)


def test_several_twins_have_a_mean_and_a_spread() -> None:
    (found,) = diff_erank(records([0.0]), [records([math.log(4)]), records([math.log(6)])])
    assert found.erank_untrained == pytest.approx(5) and found.diff_erank == pytest.approx(4)
    assert found.erank_untrained_by_seed == pytest.approx((4, 6))
    assert found.erank_untrained_stdev == pytest.approx(math.sqrt(2))
    (single,) = diff_erank(records([0.0]), [records([1.0])])
    assert math.isnan(single.erank_untrained_stdev)


def test_fraction_of_what_is_possible() -> None:
    (found,) = diff_erank(records([math.log(2)]), [records([math.log(4)])])  # n = 9, d = 4
    assert found.erank_fraction_trained == pytest.approx(0.5)
    assert found.erank_fraction_untrained == pytest.approx(1)


def test_one_result_per_hook_point_in_order() -> None:
    trained = records([1.0], "layer 1") + records([2.0])
    twin = records([1.5], "layer 1") + records([2.5])
    assert [found.point for found in diff_erank(trained, [twin])] == ["layer 1", "final"]


@pytest.mark.parametrize(
    "untrained", [[], [records([1.0])], [records([1.0, 2.0], "layer 1")], [records([1.0, 2.0]), records([1.0])]]
)
def test_models_must_have_seen_the_same(untrained: list[list[Record]]) -> None:
    with pytest.raises(ValueError, match="the same texts at the same points"):
        diff_erank(records([1.0, 2.0]), untrained)


def test_loss_per_text_and_per_token() -> None:
    two = [record("a", loss=2.0, predicted=1, point="final", input="text")]
    two.append(record("b", loss=5.0, predicted=9, point="final", input="text"))
    found = diff_sample(to_frame([*two, *(replace(r, model="untrained seed 0") for r in two)]))
    numbers = dict(zip(found.quantities, found.estimates, strict=True))
    assert numbers["loss_trained"] == numbers["loss_untrained"] == pytest.approx(3.5)
    assert numbers["loss_trained_per_token"] == pytest.approx(4.7) and numbers["reduced_loss"] == 0
