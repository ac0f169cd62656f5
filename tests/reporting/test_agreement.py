"""Numbers of runs beside scores: rank correlations over models, in every form a report has."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy import stats

import mmerank
from mmerank.analysis.finished import read_runs
from mmerank.analysis.scores.read import read_scores
from mmerank.analysis.statistics.rank_correlation import partial
from mmerank.errors import DataError
from mmerank.report.agreement import Agreement, agreement
from mmerank.report.agreement_words import paragraph
from mmerank.report.figures.scores import score_figures
from mmerank.report.folders import run_folders
from mmerank.report.numbers import all_numbers
from mmerank.report.score_tables import beside_table, score_tables
from mmerank.report.write import report
from tests.test_cli import failure, run

EVIL = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>|$_{}%"
MODELS = ("tiny-1b", "tiny-2b", "tiny-7b", "tiny-13b", "unscored-3b")
SCORES = {"tiny-1b": 31.0, "tiny-2b": 45.5, "tiny-7b": 40.0, "tiny-13b": 70.2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five versions of a small model with more and more noise on its weights, a folder each."""
    folder = tmp_path_factory.mktemp("runs")
    for i, name in enumerate(MODELS):
        model = mmerank.load("demo-llava")
        model.name = name
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for parameter in model.model.parameters():
                if parameter.ndim > 1:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.3 * i * float(parameter.std()) * noise)
        mmerank.align(model, mmerank.load_data("demo"), limit=4, out=folder / name, metrics=["stable_rank"])
    return folder


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    rows = [f"{model},VQA,{value},percent" for model, value in SCORES.items()]
    path.write_text("\n".join(["model,benchmark,value,unit", *rows, "stranger,VQA,1,percent"]) + "\n")
    return path


def agreed(runs: Path, *scores: Path) -> Agreement:
    read = read_runs(run_folders([runs]))
    return agreement(read, all_numbers(read), read_scores(scores))


def test_correlations_are_those_of_the_numbers(runs: Path, scores: Path) -> None:
    found = agreed(runs, scores)
    read = read_runs(run_folders([runs]))
    for row in found.correlations.to_dict("records"):
        values = {
            run.name: of["value"].iloc[0]
            for run in read
            if len(of := run.estimates[run.estimates["quantity"] == row["quantity"]])
        }
        x = [values[name] for name in SCORES]
        known = stats.spearmanr(x, list(SCORES.values())).statistic
        assert row["rho"] == pytest.approx(known) and row["n"] == 4 and row["exact"]
        left, p = partial(x, list(SCORES.values()), [[1e9, 2e9, 7e9, 13e9]])
        assert row["beside"] == "parameters" or math.isnan(left), "names state sizes, and rows are the same"
        assert row["partial"] == pytest.approx(left, nan_ok=True)
        assert row["partial_p"] == pytest.approx(p, nan_ok=True)
    quantities = set(found.correlations["quantity"])
    assert {"image_text_alignment", "erank5", "stable_rank/llm/pair", "participation_ratio1"} <= quantities
    q = stats.false_discovery_control(found.correlations["p"])
    assert found.correlations["q"].to_numpy() == pytest.approx(q)
    assert set(found.correlations["quantity"][found.correlations["main"]]) == {
        "image_text_alignment",
        "image_reduction_ratio",
    }


def test_what_to_be_careful_about(runs: Path, scores: Path) -> None:
    found = " ".join(agreed(runs, scores).cautions)
    assert "over 4 models (with 4 no p is below 0.083): with fewer than 10" in found
    assert "not among the runs are left out: stranger." in found and "No score is known of unscored-3b." in found


def test_the_paragraph_for_a_paper(runs: Path, scores: Path) -> None:
    said = paragraph(agreed(runs, scores).correlations)
    assert "scores (VQA)" in said and "over 4 models" in said and "take off parameters of the models" in said


def test_two_models_have_no_order(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("model,VQA\ntiny-1b,31\ntiny-2b,45\n")
    found = agreed(runs, tmp_path / "two.csv")
    assert found.cautions[0] == "2 of the models have scores: a rank correlation needs three."
    assert score_tables(found) == [] and paragraph(found.correlations) == "" and len(beside_table(found).rows) == 2
    two = [runs / "tiny-1b", runs / "tiny-2b"]
    page = report(two, tmp_path / "out", scores=[tmp_path / "two.csv"], formats=["html"])[0].read_text()
    assert "Numbers beside scores" in page and "Numbers against" not in page


def test_sizes_that_scores_state_come_first(runs: Path, tmp_path: Path) -> None:
    table = "model,benchmark,value,parameters\n"
    table += "".join(f"{model},VQA,{value},{i}B\n" for i, (model, value) in enumerate(SCORES.items(), 1))
    (tmp_path / "sized.csv").write_text(table)
    points = agreed(runs, tmp_path / "sized.csv").points
    assert dict(zip(points["model"], points["parameters"], strict=True)) == {
        model: i * 1e9 for i, model in enumerate(SCORES, 1)
    }


def test_scores_that_guessing_has_too(runs: Path, tmp_path: Path) -> None:
    table = "model,benchmark,metric,value,n,unit,low,high,chance\n"
    table += "tiny-1b,POPE,acc,0.5,20,fraction,0.3,0.7,0.5\ntiny-7b,POPE,acc,0.9,20,fraction,0.7,0.97,0.5\n"
    (tmp_path / "guessed.csv").write_text(table)
    said = agreed(runs, tmp_path / "guessed.csv").cautions
    assert [line for line in said if "chance in" in line] == ["Not told from chance in POPE, acc (0.5): tiny-1b."]


def test_no_model_of_the_runs(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("model,benchmark,value\nllava,VQA,78\nqwen,VQA,80\n")
    with pytest.raises(DataError, match=r"scores are of llava, qwen, the runs of tiny-13b, .*--name NAME=MODEL"):
        agreed(runs, tmp_path / "other.csv")
    command = ["report", str(runs), "--scores", str(tmp_path / "other.csv"), "--out", str(tmp_path / "out"), "--csv"]
    assert "none is of a model of the runs" in failure(*command)[1]
    named = run(*command, "--name", "llava=tiny-1b", "--name", "qwen=tiny-7b")
    assert named.returncode == 0
    points = pd.read_csv(tmp_path / "out" / "agreement_points.csv")
    assert dict(zip(points["model"], points["score_value"], strict=True)) == {"tiny-1b": 78, "tiny-7b": 80}


def test_every_form_of_a_report(runs: Path, tmp_path: Path, scores: Path) -> None:
    evil = tmp_path / "evil.json"
    evil.write_text(json.dumps({model: {EVIL: value} for model, value in SCORES.items()}))
    paths = {
        path.name: path
        for path in report([runs / name for name in list(SCORES)[:3]], tmp_path / "out", scores=[scores, evil])
    }
    assert {"agreement.csv", "agreement_points.csv", "scores-1.pdf", "scores-2.png"} <= set(paths)
    page = paths["report.html"].read_text()
    assert page.count("<script") == 2 and 'id="scores"' in page and "<img src=x" not in page
    text, latex = paths["tables.md"].read_text(), paths["tables.tex"].read_text()
    assert "### Numbers beside scores" in text and "### Numbers against scores" in text and "VQA (%)" in text
    assert "<script" not in text.replace("\\<script", "") and EVIL not in text and EVIL not in latex
    assert r"$\rho$" in latex and r"VQA (\%)" in latex
    table = pd.read_csv(paths["agreement.csv"])
    assert set(table["score"]) == {"VQA", EVIL} and len(table) == 2 * table["quantity"].nunique()


def test_many_scores(runs: Path, tmp_path: Path) -> None:
    table = {model: {f"B{i}": value + i for i in range(9)} for model, value in SCORES.items()}
    (tmp_path / "many.json").write_text(json.dumps(table))
    found = agreed(runs, tmp_path / "many.json")
    assert found.correlations["score"].nunique() == 9 and len(list(score_figures(found))) == 6
    assert beside_table(found).heads[-1] == "B5" and "first 6 of 9 scores" in " ".join(found.cautions)


def test_without_scores_nothing_is_said(runs: Path, tmp_path: Path) -> None:
    paths = {path.name: path for path in report([runs / "tiny-1b"], tmp_path / "out", formats=["html", "csv"])}
    assert "agreement.csv" not in paths and 'id="scores"' not in paths["report.html"].read_text()


def test_tables_and_figures(runs: Path, scores: Path) -> None:
    found = agreed(runs, scores)
    beside = beside_table(found)
    assert [names[-1] for names, _, _ in beside.rows] == sorted(SCORES)
    assert beside.heads == ("Image Reduction Ratio", "Image-Text Alignment", "VQA (%)")
    main, further = score_tables(found)
    assert main.title == "Numbers against VQA" and main.names == ("number",) and len(main.rows) == 2
    assert main.heads[-1].startswith("partial") and "parameters of the models taken off" in main.legend
    assert len(main.rows) + len(further.rows) == len(found.correlations)
    (drawing,) = score_figures(found)
    name, caption, figure = drawing.name, drawing.caption, drawing.figure()
    assert name == "scores-1" and "VQA" in caption
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in drawn] == ["Image Reduction Ratio", "Image-Text Alignment"]
    rho = main.rows[0][1][1]
    assert drawn[0].get_title() == f"\N{GREEK SMALL LETTER RHO} = {rho}, n = 4"
    assert len(drawn[0].containers) == 4
