"""Dose and response: each point and interval is that of the paired tests; what cannot move is left out."""

from __future__ import annotations

from typing import Any

import pytest

from mmerank import perturb
from mmerank.analysis.perturbation import differences_frame
from mmerank.report.figures.doses import dose_response, sweeps
from tests.adapters.cases import LLAVA, examples


def test_sweeps() -> None:
    names = ["noise:40", "noise:10", "grey+blur:1", "grey+blur:2", "blank", "rotate:90", "flip:horizontal"]
    assert sweeps(names) == {
        "noise": {10: "noise:10", 40: "noise:40"},
        "grey+blur": {1: "grey+blur:1", 2: "grey+blur:2"},
    }
    assert list(sweeps(names)["noise"]) == [10, 40]


def test_angles_to_either_side() -> None:
    assert list(sweeps([f"rotate:{x}" for x in (5, 350, 10, 355)])["rotate"]) == [-10, -5, 5, 10]
    assert list(sweeps([f"grey+rotate:{x}" for x in (90, 180, 270)])["grey+rotate"]) == [90, 180, 270]
    assert list(sweeps([f"noise:{x}" for x in (5, 350)])["noise"]) == [5, 350]


def test_points_stand_at_their_strengths() -> None:
    """Of every series alike, on straight and logarithmic axes."""
    result = perturb(LLAVA.adapter, examples(), ["rotate:5,10,15,20,25,30,35", "blur:1,2,4,8"])
    figure = dose_response(differences_frame(result.tests), sweeps(result.tests), "title")
    for axes in figure.axes:
        rotated = axes.get_subplotspec().colspan.start == 0  # type: ignore[union-attr]
        expected = [5, 10, 15, 20, 25, 30, 35] if rotated else [1, 2, 4, 8]
        assert axes.get_xscale() == ("linear" if rotated else "log") and axes.containers
        for container in axes.containers:
            line, _, (bars,) = container.lines  # type: ignore[attr-defined]
            assert list(line.get_xdata()) == expected
            assert [segment[0][0] for segment in bars.get_segments()] == expected


def test_points_are_those_of_the_tests() -> None:
    result = perturb(LLAVA.adapter, examples(), ["noise:40,10", "grey+blur:1,2", "blank", "jpeg:5,9", "zoom:2,3"])
    found = sweeps(result.tests)
    figure = dose_response(differences_frame(result.tests), found, "title")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown if axes.get_title()] == list(found)
    assert len(figure.axes) == 12 and len(shown) == 8  # the fourth sweep stands below the others
    eranks, ratios = figure.axes[0], figure.axes[3]
    lines: dict[str, Any] = {str(container.get_label()): container for container in eranks.containers}
    assert len(lines) == 4 and not any("eRank4" in name for name in lines)  # which a picture cannot move
    assert [str(container.get_label()) for container in ratios.containers] == [
        "Image Reduction Ratio",
        "Image-Text Alignment",
    ]
    assert eranks.get_xlim() == ratios.get_xlim()
    line, _, (bars,) = lines["eRank5 llm/pair"].lines
    for i, name in enumerate(("noise:10", "noise:40")):
        test = result.tests[name]["erank5"]
        assert line.get_ydata()[i] == pytest.approx(test.difference)
        assert bars.get_segments()[i][:, 1] == pytest.approx([test.low, test.high])
