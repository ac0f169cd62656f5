"""The trajectory of a training: checkpoints are found by their names, and drawn where their numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerank import TextConvention, diff, estimates
from mmerank.analysis.finished import Finished, read_runs
from mmerank.jobs.diff import open_diff_run
from mmerank.report.figures.training import training, trajectories
from mmerank.report.numbers import all_numbers
from mmerank.report.write import report
from tests.adapters.text_cases import OPT
from tests.test_diff_erank import texts


def named(*models: str) -> Finished:
    frames = {model: pd.DataFrame() for model in models}
    return Finished("run", Path(), "diff", {}, {}, (), frames, pd.DataFrame())


@pytest.mark.parametrize(
    ("models", "name", "steps"),
    [
        (
            ["EleutherAI/pythia-160m@step1000", "EleutherAI/pythia-160m@step512"],
            "EleutherAI/pythia-160m",
            [512, 1000],
        ),
        (["runs/opt/checkpoint-500", "runs/opt/checkpoint-1000/"], "runs/opt", [500, 1000]),
        (["OLMo@step1000-tokens4B", "OLMo@step20000-tokens84B", "OLMo@main"], "OLMo", [1000, 20000]),
        (["global_step10", "global_step20"], "run", [10, 20]),
    ],
)
def test_checkpoints_by_name(models: list[str], name: str, steps: list[int]) -> None:
    (found,) = trajectories([named(*models)])
    assert found.name == name and list(found.steps) == steps
    assert set(found.steps.values()) <= set(models) and not found.between


@pytest.mark.parametrize(
    "models", [["opt-125m", "opt-350m"], ["seed-0", "seed-1"], ["a@step1", "b@step2"], ["x@step9"]]
)
def test_no_checkpoints_of_one_training(models: list[str]) -> None:
    assert not trajectories([named(*models)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints by name; it is the same model."""
    folder = tmp_path_factory.mktemp("training") / "run"
    opened = open_diff_run(folder, texts(5), TextConvention(), layers="")
    results = []
    known = OPT.adapter.name
    for step in (0, 100, 20, 300, 40):
        OPT.adapter.name = f"toy@step{step}"
        try:
            results.append(diff(OPT.adapter, texts(5), out=opened))
        finally:
            OPT.adapter.name = known
    opened.write_summary({"results": [result.to_dict() for result in results]})
    return folder


def test_drawn_where_the_numbers_are(run: Path) -> None:
    read = read_runs([run])
    numbers = all_numbers(read)
    (found,) = trajectories(read)
    assert found.between == {("run", f"toy@step{step}") for step in (20, 40, 100)}
    figure = training(found, numbers).figure()
    assert [axes.get_ylabel() for axes in figure.axes] == ["eRank", "Diff-eRank", "loss (nats)"]
    line = figure.axes[1].lines[0]
    expected = numbers[(numbers["quantity"] == "diff_erank") & (numbers["model"] == "toy@step40")]["value"]
    assert list(np.asarray(line.get_xdata())) == [0, 20, 40, 100, 300]
    assert np.asarray(line.get_ydata())[2] == pytest.approx(expected.item())


def test_tables_are_in_the_order_of_steps(run: Path, tmp_path: Path) -> None:
    """Measured as 0, 100, 20, 300, 40; and folders of one checkpoint each, given in the order of a shell."""
    expected = [f"toy@step{step}" for step in (0, 20, 40, 100, 300)]
    assert list(all_numbers(read_runs([run]))["model"].unique()) == expected
    assert list(estimates(run)["model"].unique()) == expected
    known = OPT.adapter.name
    for step in (100, 20):
        OPT.adapter.name = f"out/checkpoint-{step}"
        try:
            diff(OPT.adapter, texts(3), out=tmp_path / f"run-{step}")
        finally:
            OPT.adapter.name = known
    read = read_runs([tmp_path / "run-100", tmp_path / "run-20"])
    assert [one.name for one in read] == ["run-20", "run-100"]


def test_checkpoints_between_have_no_panels(run: Path, tmp_path: Path) -> None:
    report([run], tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        "training-1",
        "spectra-texts",
        "spectra-texts-together",
    }
    page = (tmp_path / "report.html").read_text()
    assert "Training of toy" in page and "step100" in page
