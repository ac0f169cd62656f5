from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmerank.analysis.alike import unlike_rows
from mmerank.analysis.intervals import intervals
from mmerank.analysis.metrics.alignment import alignment_sample
from mmerank.analysis.metrics.matched import matched_alignment, matched_rows
from mmerank.analysis.metrics.rows import row_eranks, single_rows
from mmerank.analysis.metrics.token_curve import token_curve
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.eranks import ERANKS
from mmerank.jobs.compare import compare
from mmerank.runs.record import Record, to_frame
from tests.test_records import record


def measured(example: str, entropies: list[float], **fields: Any) -> list[Record]:
    """The five records of an example; a field given as a list has a value for each."""
    found = []
    for i, (point, kind) in enumerate(ERANKS.values()):
        own = {name: value[i] if isinstance(value, list) else value for name, value in fields.items()}
        found.append(record(example, entropies[i], point=point, input=kind, **own))
    return found


def logs(*eranks: float) -> list[float]:
    return [math.log(erank) for erank in eranks]


def draws(*eranks: tuple[float, ...]) -> list[Any]:
    return [np.log(np.array(values)) for values in eranks]


def test_matched_numbers_are_those_of_the_mean_over_draws() -> None:
    records = [
        *measured("a", logs(8, 6, 5, 7, 9), matched=draws((4, 1), (2, 2), (3, 3), (5, 5), (4, 9))),
        *measured("b", logs(8, 6, 5, 7, 9), matched=draws((1, 4), (2, 2), (3, 3), (5, 5), (4, 9))),
    ]
    found = matched_alignment(records, tokens=10, repeats=2)
    assert (found["tokens"], found["repeats"], found["n"], found["left_out"]) == (10, 2, 2, 0)
    assert [found[label] for label in ERANKS] == pytest.approx([2, 2, 3, 5, 6])
    assert found["image_reduction_ratio"] == pytest.approx(0)
    assert found["image_text_alignment"] == pytest.approx((3 + 5 + 6) / 3 / 6)
    # eRank5 is 4 in the first draw and 9 in the second; eRank1 is 2 in both.
    assert found["stdev_of_a_draw"]["erank5"] == pytest.approx(5 / math.sqrt(2))
    assert found["stdev_of_a_draw"]["erank1"] == pytest.approx(0, abs=1e-12)
    assert found["stdev_of_a_draw"]["image_text_alignment"] == pytest.approx(
        abs((3 + 5 + 4) / 3 / 5 - (3 + 5 + 9) / 3 / 9) / math.sqrt(2)
    )
    assert [found["all_rows"][label] for label in ERANKS] == pytest.approx([8, 6, 5, 7, 9])


def test_matched_numbers_follow_algorithm_b_too() -> None:
    records = [
        *measured("a", [0] * 5, matched=draws((2, 8), (2, 2), (2, 2), (2, 2), (2, 2))),
        *measured("b", [0] * 5, matched=draws((16, 16), (2, 2), (2, 2), (2, 2), (2, 2))),
    ]
    found = matched_alignment(records, tokens=3, repeats=2, aggregate="erank")
    assert found["erank1"] == pytest.approx((4 + 16) / 2)  # mean entropy over draws, then mean eRank over examples
    assert found["stdev_of_a_draw"]["erank1"] == pytest.approx(((8 + 16) / 2 - (2 + 16) / 2) / math.sqrt(2))


def test_an_example_with_too_few_rows_anywhere_is_left_out_everywhere() -> None:
    full = draws((4,), (2,), (3,), (5,), (6,))
    short = [*full[:3], np.empty(0), full[4]]
    records = [
        *measured("a", logs(9, 9, 9, 9, 9), matched=full, n=[50, 50, 51, 40, 90]),
        *measured("b", logs(7, 7, 7, 7, 7), matched=short, n=[50, 50, 51, 8, 58]),
    ]
    found = matched_alignment(records, tokens=10, repeats=1)
    assert (found["n"], found["left_out"], found["fewest_rows"]) == (1, 1, 8)
    assert found["erank1"] == pytest.approx(4) and found["all_rows"]["erank1"] == pytest.approx(9)
    assert found["stdev_of_a_draw"]["erank1"] is None  # of one draw there is none
    nothing = matched_alignment(records[5:], tokens=10, repeats=1)
    assert nothing["n"] == 0 and nothing["erank1"] is None and nothing["all_rows"]["image_text_alignment"] is None


def test_a_draw_without_a_spectrum_does_not_count() -> None:
    matched = draws((4, np.nan), (2, 2), (3, 3), (5, 5), (6, 6))
    found = matched_alignment(measured("a", [0] * 5, matched=matched), tokens=3, repeats=2)
    assert found["erank1"] == pytest.approx(4) and found["n"] == 1
    only_nan = draws((np.nan, np.nan), (2, 2), (3, 3), (5, 5), (6, 6))
    assert matched_alignment(measured("a", [0] * 5, matched=only_nan), tokens=3, repeats=2)["left_out"] == 1


def test_curve_says_on_how_many_examples_each_point_stands() -> None:
    records = [
        *measured("a", [0] * 5, curve=[np.log([2.0, 8.0])] * 5),
        *measured("b", [0] * 5, curve=[np.log([8.0, np.nan])] * 5),
        *measured("c", [0] * 5, curve=[np.array([np.nan, np.nan])] * 5),
    ]
    found = token_curve(records, tokens=(16, 32), repeats=4)
    assert found["tokens"] == [16, 32] and found["erank4"] == pytest.approx([4, 8]) and found["n"]["erank4"] == [2, 1]
    nothing = token_curve(records[10:], tokens=(16, 32), repeats=4)
    assert nothing["erank1"] == [None, None] and nothing["n"]["erank1"] == [0, 0]


def rows(example: str, **fields: Any) -> list[Record]:
    given = {
        "entropy_image": [*logs(2, 2, 2), math.nan, math.log(3)],
        "entropy_text": [math.nan, math.nan, math.nan, *logs(4, 5)],
        "entropy_modality": logs(2, 2, 2, 4, 6),
        "strongest_token": "bos '<s>'",
        "decisive_token": "text ' cat'",
        "entropy_without_strongest": logs(5, 5, 5, 5, 12),
        "entropy_without_decisive": logs(5, 5, 5, 5, 5),
    }
    return measured(example, logs(5, 5, 5, 5, 5), **{**given, **fields})


def test_eranks_by_rows() -> None:
    found = row_eranks([*rows("a"), *rows("b"), *rows("c", strongest_token="image row 7")])
    pair, vision = found["erank5"], found["erank1"]
    names = ("all", "image", "text", "modality", "without_strongest", "without_decisive")
    assert [pair[name] for name in names] == pytest.approx([5, 3, 5, 6, 12, 5])
    assert pair["change_without_strongest"] == pytest.approx(12 / 5 - 1)
    assert (pair["strongest_token"], pair["strongest_in"]) == ("bos '<s>'", 2)
    assert vision["text"] is None and vision["image"] == pytest.approx(2)
    assert [(label, token, count) for label, _, token, count in single_rows(found)] == [("erank5", "bos '<s>'", 2)]


def test_a_row_counts_by_what_the_same_examples_have_with_it() -> None:
    """Where nothing is left without the row, the example is not compared."""
    lonely = rows("b", entropy_without_strongest=math.nan)
    for r in lonely:
        object.__setattr__(r, "entropy", math.log(100))
    found = row_eranks([*rows("a"), *lonely])
    assert found["erank5"]["change_without_strongest"] == pytest.approx(12 / 5 - 1)
    nothing = row_eranks(lonely)["erank5"]
    assert nothing["without_strongest"] is None and nothing["change_without_strongest"] is None


def test_a_fall_is_as_worth_a_warning_as_a_rise() -> None:
    found = row_eranks(rows("a", entropy_without_strongest=logs(5, 4.6, 4.4, 5, 5.4)))
    assert [label for label, *_ in single_rows(found)] == ["erank3"]


def many(n: int, seed: int, model: str = "m") -> tuple[list[Record], Any]:
    """Records with four draws each, and their mean matched entropies, (n, 5)."""
    drawn = np.random.default_rng(seed).uniform(0.5, 3, (n, 5, 4))
    found = [
        row for i in range(n) for row in measured(f"{i:03}", [5.0] * 5, matched=list(drawn[i]), n=50, model=model)
    ]
    return found, drawn.mean(axis=2)


def test_matched_rows_give_the_matched_numbers() -> None:
    """Values by the definition of the paper, intervals by a plain loop over the same resamples."""
    records, entropies = many(30, seed=1)
    chosen = alignment_sample(matched_rows(to_frame(records)))
    e = np.exp(entropies.mean(axis=0))
    expected = [*e, (e[0] - e[1]) / e[0], e[2:].mean() / e[2:].max()]
    assert chosen.n == 30 and list(chosen.estimates) == pytest.approx(expected)
    found = matched_alignment(records, tokens=4, repeats=4)
    assert [found[name] for name in chosen.quantities] == pytest.approx(expected)
    how = Bootstrap(resamples=200, method="percentile")
    drawn = np.random.default_rng(0).integers(30, size=(200, 30), dtype=np.int64)
    ratios = [1 - math.exp(m[1] - m[0]) for m in (entropies[rows].mean(axis=0) for rows in drawn)]
    limits = intervals(matched_rows(to_frame(records)), bootstrap=how)["image_reduction_ratio"]
    assert limits == pytest.approx(np.quantile(ratios, [0.025, 0.975]))


def test_matched_rows_leave_out_whole_examples() -> None:
    records, _ = many(3, seed=2)
    short = [record("x", 1.0, point=r.point, input=r.input, matched=r.matched) for r in records[:5]]
    short[2] = record("x", 1.0, point="llm", input="image", matched=np.empty(0))
    layer = record("000", 1.0, point="layer 1", input="pair")
    frame = matched_rows(to_frame([*records, *short, layer]))
    assert set(frame["example"]) == {"000", "001", "002"} and len(frame) == 15
    assert matched_rows(to_frame(short)).empty and matched_rows(to_frame([record()])).empty


def test_models_are_compared_on_matched_rows() -> None:
    (a, of_a), (b, of_b) = many(12, seed=3, model="a"), many(12, seed=4, model="b")
    found = compare(to_frame(a), to_frame(b), matched=True)
    assert found.matched and found.n == 12 and "on equally many rows" in str(found)
    expected = np.exp(of_a.mean(axis=0)) - np.exp(of_b.mean(axis=0))
    assert [found[label].difference for label in ERANKS] == pytest.approx(list(expected))
    everything = compare(to_frame(a), to_frame(b))
    assert not everything.matched and everything.tests == 0  # those of all rows are equal
    with pytest.raises(ValueError, match="no numbers of a on equally many rows; .*--match-tokens"):
        compare(to_frame(measured("a", [1.0] * 5, model="a")), to_frame(b), matched=True)


def test_unlike_rows() -> None:
    a = [*measured("1", [1.0] * 5, n=[36, 36, 37, 20, 56]), *measured("2", [1.0] * 5, n=[36, 36, 37, 30, 66])]
    b = [*measured("1", [1.0] * 5, n=[144, 36, 37, 20, 56]), *measured("3", [1.0] * 5, n=[144, 36, 37, 90, 99])]
    assert unlike_rows([a, b]) == {"erank1": [36, 144]} and unlike_rows([a]) == {} == unlike_rows([a, a])
    # Two of three share an example, and none is shared by all.
    c = measured("2", [1.0] * 5, n=[36, 36, 37, 31, 67])
    assert list(unlike_rows([a, b, c])) == ["erank1", "erank4", "erank5"]
