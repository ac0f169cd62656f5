from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmerank.analysis.metrics.alignment import alignment
from mmerank.analysis.statistics.bootstrap import Bootstrap
from mmerank.convention import Convention
from mmerank.jobs.align import Alignment
from mmerank.jobs.compare import compare
from mmerank.report.terminal.alignment import alignment_table, alignment_text
from mmerank.report.terminal.intervals import comparison_table, comparison_text, interval_text
from tests.analysis.simulated import MEANS, deviations, frame
from tests.analysis.test_samples import records


def result(
    n: int = 60, model: str = "llava-hf/llava-1.5-7b-hf", shift: float | NDArray[np.float64] = 0.0
) -> Alignment:
    given = records(frame(MEANS + shift + deviations(np.random.default_rng(0), n), model=model))
    return Alignment(
        model=model,
        data="llava:/data/detail_23k.json",
        n=n,
        skipped=(),
        convention=Convention(),
        source={},
        records=tuple(given),
        limit=None,
        seed=None,
        bootstrap=Bootstrap(),
        clip=None,
        layer_records=(),
        undefined={},
        **cast(dict[str, Any], alignment(given)),
    )


def lines(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_numbers_and_limits_are_whole_in_80_columns(count: int) -> None:
    shifts = [i * np.array([0.1, 0.05, 0.0, 0.02, -0.01]) for i in range(count)]
    results = [result(shift=shift) for shift in shifts]
    printed = "\n".join(lines(alignment_table(results)))
    for label in ("erank1", "erank5", "image_reduction_ratio", "image_text_alignment"):
        decimals = 2 if label.startswith("erank") else 4
        for each in results:
            assert f"{getattr(each, label):.{decimals}f}" in printed
            assert interval_text(each.intervals[label], decimals) in printed
    assert "…" not in printed and "eRank3" in printed and "Reduction" in printed


def test_comparison_fits_80_columns() -> None:
    shift = np.array([0.1, 0.05, 0.0, 0.02, -0.01])
    a, b = result(), result(shift=shift, model="openbmb/MiniGPT-v2-a-long-name")
    found = compare(a, b)
    printed = "\n".join(lines(comparison_table(found)))
    for difference in found.differences:
        decimals = 2 if difference.quantity.startswith("erank") else 4
        interval = interval_text((difference.low, difference.high), decimals)
        assert f"{difference.difference:+.{decimals}f} {interval}" in printed
    assert "…" not in printed and "<0.001" in printed
    assert "+0.00 [0.00, 0.00]" in printed  # eRank3, where nothing was shifted
    notes = comparison_text([found])
    assert "9999 random swaps; Benjamini-Hochberg over 6 tests" in notes and "95 % bootstrap" in notes


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        (None, ""),
        ((1.0, 1.0), "[1.00, 1.00]"),
        ((-0.0512, 0.0493), "[-0.05, 0.05]"),
        ((1.0, 1.00001), "[1.00, 1.00]"),
        ((87.2, 123.9), "[87, 124]"),
    ],
)
def test_digits(interval: tuple[float, float] | None, shown: str) -> None:
    assert interval_text(interval, 2) == shown


def test_few_examples_are_said_to_be_rough() -> None:
    assert "rough, since n < 20" in alignment_text([result(19)]) and "rough" not in alignment_text([result(20)])
    one = result(1)
    assert "no intervals" in str(one) and one.intervals == {} and "[" not in str(one)


def test_intervals_are_made_anew_under_other_settings() -> None:
    given = result()
    wide, again = replace(given, bootstrap=Bootstrap(level=0.99)), replace(given)
    assert wide.intervals["erank1"][0] < given.intervals["erank1"][0] < given.erank1 < given.intervals["erank1"][1]
    assert again.intervals == given.intervals != replace(given, bootstrap=Bootstrap(seed=1)).intervals
    content = wide.to_dict()
    assert content["bootstrap"] == {"level": 0.99, "resamples": 2000, "seed": 0, "method": "expanded"}
    assert content["intervals"]["erank1"] == list(wide.intervals["erank1"])


def test_results_compare_as_their_records_do() -> None:
    a, b = result(), result(shift=0.1, model="other")
    found = compare(a, b)
    assert found.differences == compare(a.to_pandas(), b.to_pandas()).differences and found.b == "other"
    assert found["erank1"].difference == pytest.approx(a.erank1 - b.erank1)
    with pytest.raises(ValueError, match="on the same data, got .*detail_23k.json and demo"):
        compare(a, replace(b, data="demo"))
    with pytest.raises(ValueError, match="the same aggregate on both sides, got entropy and erank"):
        compare(a, replace(b, convention=Convention(aggregate="erank")))
