"""Curves by layer: each line has the numbers of the analysis, for pairs and for texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmerank import align
from mmerank.analysis.finished import read_runs
from mmerank.report.figures.layers import has_layers, layer_curves
from tests.adapters.cases import LLAVA, MINIGPT_V2, examples


def test_image_and_text_rows_through_the_llm(tmp_path: Path) -> None:
    results = [
        align(case.adapter, examples(), layers="all", out=tmp_path / case.name) for case in (LLAVA, MINIGPT_V2)
    ]
    align(LLAVA.adapter, examples(), out=tmp_path / "without")
    (first, second, without) = read_runs([tmp_path / LLAVA.name, tmp_path / MINIGPT_V2.name, tmp_path / "without"])
    found = [(run, model) for run in (first, second, without) for model in run.frames if has_layers(run, model)]
    assert [run.name for run, _ in found] == [LLAVA.name, MINIGPT_V2.name]
    figure = layer_curves(found, {(run.name, model): run.name for run, model in found}, "layers", "").figure()
    for axes, result in zip(figure.axes, results, strict=True):
        lines: dict[str, Any] = {str(line.get_label()): line for line in axes.lines}
        assert set(lines) == {"all rows", "image rows", "text rows"} and result.layers is not None
        for rows in ("all", "image", "text"):
            expected = [at[rows] for at in result.layers]
            assert np.asarray(lines[f"{rows} rows"].get_ydata()) == pytest.approx(expected)
        assert axes.get_xticklabels()[-1].get_text() == "llm"
