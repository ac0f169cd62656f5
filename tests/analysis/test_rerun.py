"""A run folder once more: the same numbers, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mmerank import Bootstrap, TextConvention, align, compare, diff, estimates, perturb
from mmerank.analysis.estimates import controls, differences, run_records
from mmerank.errors import RunFolderError
from mmerank.jobs.diff import open_diff_run
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import LLAMA, OPT
from tests.test_diff_erank import texts


def test_alignment(tmp_path: Path) -> None:
    result = align(LLAVA.adapter, examples(), out=tmp_path / "run")
    found = estimates(tmp_path / "run").set_index("quantity")
    assert dict(found["metric"].value_counts()) == {"alignment": 7, "participation_ratio": 5}
    assert set(found["n"]) == {3} and set(found["model"]) == {result.model}
    ratios = [r.participation_ratio for r in result.records if (r.point, r.input) == ("llm", "pair")]
    assert found.loc["participation_ratio5", "value"] == pytest.approx(sum(ratios) / 3)
    for name, limits in result.intervals.items():
        assert found.loc[name, "value"] == pytest.approx(getattr(result, name), rel=1e-13)
        assert (found.loc[name, "low"], found.loc[name, "high"]) == limits
    other = estimates(tmp_path / "run", bootstrap=Bootstrap(seed=1), aggregate="erank").set_index("quantity")
    expected = replace(
        result, bootstrap=Bootstrap(seed=1), convention=replace(result.convention, aggregate="erank")
    ).intervals
    seven = other[other["metric"] == "alignment"]
    assert {name: (row["low"], row["high"]) for name, row in seven.iterrows()} == expected


def test_texts_of_several_models(tmp_path: Path) -> None:
    folder = open_diff_run(tmp_path / "run", texts(4), TextConvention(), layers="first,middle")
    results = [diff(case.adapter, texts(4), seeds=(0, 1), layers="first,middle", out=folder) for case in (OPT, LLAMA)]
    rows = estimates(tmp_path / "run")
    found = {(row["model"], row["point"], row["quantity"]): row for _, row in rows.iterrows()}
    for result in results:
        for point in result.points:
            value = found[result.model, point.point, "diff_erank"]["value"]
            assert value == pytest.approx(point.diff_erank, rel=1e-12)
            for name, limits in result.layer_intervals[point.point].items():
                row = found[result.model, point.point, name]
                assert (row["low"], row["high"]) == pytest.approx(limits), (point.point, name)
        row = found[result.model, "final", "reduced_loss"]
        assert row["value"] == pytest.approx(result.reduced_loss)
        limits = json.loads(json.dumps(result.to_dict()))["intervals"]["reduced_loss"]
        assert limits[0] < result.reduced_loss < limits[1]
        assert result.to_dict()["layers"][0]["intervals"].keys() == {
            name for name in result.intervals if "loss" not in name
        }
    frames = run_records(tmp_path / "run")
    assert compare(*frames.values()).differences == compare(*results).differences


def test_transforms_without_the_null_draws(tmp_path: Path) -> None:
    result = perturb(
        LLAVA.adapter, examples(), ["rotate:90"], controls=["mismatch", "independent"], out=tmp_path / "run"
    )
    found = estimates(tmp_path / "run")
    assert list(found["transform"].unique()) == ["none", "rotate:90"]
    (after,) = result.transforms
    turned = found[found["transform"] == "rotate:90"].set_index("quantity")
    assert turned.loc["erank5", "value"] == pytest.approx(after.result.erank5, rel=1e-13)
    assert (turned.loc["erank5", "low"], turned.loc["erank5", "high"]) == after.result.intervals["erank5"]


def test_tests_of_transforms(tmp_path: Path) -> None:
    transforms = ["blur:2,4", "other-text", "identity"]
    result = perturb(
        LLAVA.adapter, examples(), transforms, controls=["mismatch"], control_draws=3, out=tmp_path / "run"
    )
    found = differences(tmp_path / "run")
    assert set(found.pop("model")) == {result.base.model}
    expected = result.tests_to_pandas()
    keys = ["transform", "quantity"]
    found, expected = (of.sort_values(keys, ignore_index=True) for of in (found, expected))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)
    assert controls(tmp_path / "run") == {result.base.model: result.controls}
    other = differences(tmp_path / "run", aggregate="erank", bootstrap=Bootstrap(level=0.5), false_discovery="by")
    assert (other["q"].dropna() >= found["q"].dropna().min()).all() and not other["low"].equals(found["low"])
    align(LLAVA.adapter, examples(), out=tmp_path / "plain")
    for read in (differences, controls):
        with pytest.raises(RunFolderError, match="expected a run of perturb, got one of align"):
            read(tmp_path / "plain")


def test_torch_is_not_needed_for_transforms(tmp_path: Path) -> None:
    perturb(LLAVA.adapter, examples(), ["blur:2"], controls=["mismatch"], control_draws=2, out=tmp_path / "run")
    code = f"""
import sys, mmerank
from mmerank.analysis.estimates import controls, differences
from mmerank.report.terminal.perturbation import null_table
from mmerank.report.terminal.intervals import plain
run = {str(tmp_path / "run")!r}
print(len(mmerank.estimates(run)), len(differences(run)))
print(plain(*map(null_table, controls(run).values())))
print(sorted({{"torch", "transformers", "datasets"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]" and lines[0] == "24 7" and "mismatch" in done.stdout


def test_torch_is_not_needed(tmp_path: Path) -> None:
    align(LLAVA.adapter, examples(), out=tmp_path / "run")
    code = f"""
import sys, mmerank
from mmerank.analysis.intervals import difference_of_groups, intervals
from mmerank.analysis.statistics.null import null_test
from mmerank.analysis.estimates import run_records
(records,) = run_records({str(tmp_path / "run")!r}).values()
mmerank.estimates({str(tmp_path / "run")!r})
intervals(records)
print(mmerank.compare(records, records))
print(sorted({{"torch", "transformers", "datasets"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "Image-Text Alignment" in done.stdout


@pytest.mark.parametrize("content", [None, "{", '{"models": {}}'])
def test_what_is_no_run_folder(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match="not a run folder|not valid JSON|not the settings of a run"):
        run_records(tmp_path)
