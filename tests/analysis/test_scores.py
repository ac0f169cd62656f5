"""Score files in every form they come in, rank correlations and shares against their definitions."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmerank.analysis.scores.read import read_scores
from mmerank.analysis.statistics.proportion import share_interval
from mmerank.analysis.statistics.rank_correlation import partial, spearman
from mmerank.errors import DataError


def written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def known(*paths: Path) -> dict[tuple[str, str], float]:
    return {(of.model, of.name): of.value for of in read_scores(paths)}


WANTED = {("a/b", "POPE"): 86.5, ("c", "POPE"): 80.0, ("c", "MMBench"): 61.0}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", "model,benchmark,value,n\na/b,POPE,86.5,9000\nc,POPE,80,9000\nc,MMBench,61,\n"),
        ("wide.csv", "Model,POPE,MMBench\na/b,86.5,\nc,80,61\n"),
        ("own.tsv", "model\tbenchmark\tvalue\na/b\tPOPE\t86.5%\nc\tPOPE\t80 %\nc\tMMBench\t61\n"),
        ("own.json", [{"model": m, "benchmark": b, "value": v} for (m, b), v in WANTED.items()]),
        ("own.yaml", "unit: percent\nscores:\n  a/b: {POPE: 86.5}\n  c: {POPE: 80, MMBench: 61}\n"),
        ("own.yml", "- {model: a/b, benchmark: POPE, value: 86.5}\n- {model: c, benchmark: POPE, value: 80}\n"
         "- {model: c, benchmark: MMBench, value: 61, unit: percent, parameters: 7B}\n"),
    ],
)  # fmt: skip
def test_own_files(tmp_path: Path, name: str, content: Any) -> None:
    assert known(written(tmp_path / name, content)) == WANTED


def test_what_own_files_state(tmp_path: Path) -> None:
    (found,) = read_scores(
        [
            written(
                tmp_path / "a.csv", "model,benchmark,value,n,unit,low,high,parameters\nm,b,0.5,90,fraction,.4,.6,7B\n"
            )
        ]
    )
    assert (found.n, found.unit, found.low, found.high, found.parameters) == (90, "fraction", 0.4, 0.6, 7e9)


def test_lm_eval_and_lmms_eval(tmp_path: Path) -> None:
    """In the forms that both write: counts beside, standard errors left out, N/A and aliases no numbers."""
    lm_eval = {
        "results": {
            "mmmu_val": {"alias": "mmmu", "acc,none": 0.35, "acc_stderr,none": 0.02, "sample_len": 900},
            "gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": "N/A"},
        },
        "n-samples": {"mmmu_val": {"original": 900, "effective": 450}},
        "config": {"model": "hf-multimodal", "model_args": {"pretrained": "other"}},
        "model_name": "org/model",
    }
    lmms_eval = {
        "results": {"pope": {"alias": "pope", "pope_accuracy,none": 0.87, "pope_accuracy_stderr,none": "N/A"}},
        "config": {"model": "llava", "model_args": "pretrained=org/other,conv_template=v1"},
    }
    folder = tmp_path / "org__model"
    written(folder / "results_2026-01-01T00-00-00.json", lm_eval)
    written(folder / "20260101_000000_results.json", lmms_eval)
    found = {(of.model, of.name): of for of in read_scores([tmp_path])}
    assert {key: of.value for key, of in found.items()} == {
        ("org/model", "mmmu_val, acc"): 0.35,
        ("org/model", "gsm8k, exact_match,strict-match"): 0.5,
        ("org/other", "pope, pope_accuracy"): 0.87,
    }
    of = found["org/model", "mmmu_val, acc"]
    assert of.n == 450 and of.high - of.value == pytest.approx(1.96 * 0.02, rel=1e-4)
    assert math.isnan(found["org/other", "pope, pope_accuracy"].low)


def test_results_of_earlier_versions(tmp_path: Path) -> None:
    """lm-eval 0.3 has no filters, and lmms-eval 0.1 calls the file results.json."""
    lm_eval = {
        "results": {"piqa": {"acc": 0.61, "acc_stderr": 0.01, "acc_norm": 0.62, "acc_norm_stderr": 0.01}},
        "versions": {"piqa": 0},
        "config": {"model": "hf-causal", "model_args": "pretrained=org/small,revision=step1"},
    }
    lmms_eval = {
        "results": {"mme": {"mme_perception_score,none": 1500.5, "alias": "mme"}},
        "config": {"model": "llava", "model_args": "pretrained=org/llava"},
    }
    written(tmp_path / "a" / "results_1.json", lm_eval)
    written(tmp_path / "b" / "results.json", lmms_eval)
    found = read_scores([tmp_path])
    assert {(of.model, of.name): of.value for of in found} == {
        ("org/small", "piqa, acc"): 0.61,
        ("org/small", "piqa, acc_norm"): 0.62,
        ("org/llava", "mme, mme_perception_score"): 1500.5,
    }
    assert found[0].high - found[0].value == pytest.approx(1.96 * 0.01, rel=1e-4)


def test_tables_of_spreadsheets(tmp_path: Path) -> None:
    """With a byte order mark and semicolons, row numbers of pandas under no name, and rows that end early."""
    file = tmp_path / "own.csv"
    for content in (
        "\ufeffmodel;benchmark;value;n\na;POPE;85.9;900\n",
        ",model,benchmark,value,n\n0,a,POPE,85.9,900\n",
        "model,POPE,n\na,85.9,900\n\n",
        "model,benchmark,value,n,unit\na,POPE,85.9,900\n",
    ):
        (of,) = read_scores([written(file, content)])
        assert (of.model, of.name, of.value, of.n) == ("a", "POPE", 85.9, 900)


def test_groups_stand_for_their_tasks(tmp_path: Path) -> None:
    """As lm-eval has mmmu_val, whose number is made of those of its tasks; a group without one leaves them."""
    content = {
        "results": {
            "mmmu_val": {"alias": "mmmu", "acc,none": 0.35, "acc_stderr,none": 0.01},
            "mmmu_val_art": {"alias": " - art", "acc,none": 0.4, "acc_stderr,none": 0.1},
            "mmmu_val_law": {"acc,none": 0.3, "acc_stderr,none": 0.1},
            "pair": {"alias": "pair"},
            "one": {"acc,none": 1.0, "acc_stderr,none": 0.0},
        },
        "group_subtasks": {"mmmu_val": ["mmmu_val_art", "mmmu_val_law"], "pair": ["one"]},
        "n-samples": {"mmmu_val_art": {"effective": 30}, "mmmu_val_law": {"effective": 31}},
        "model_name": "m",
    }
    found = {of.name: of for of in read_scores([written(tmp_path / "results_1.json", content)])}
    assert {name: of.value for name, of in found.items()} == {"mmmu_val, acc": 0.35, "one, acc": 1.0}
    assert found["mmmu_val, acc"].n == 61 and math.isnan(found["one, acc"].low)


def test_vlmevalkit(tmp_path: Path) -> None:
    folder = tmp_path / "llava_v1.5_7b"
    written(folder / "llava_v1.5_7b_MMBench_DEV_EN_acc.csv", '"split","Overall","AR"\n"dev","0.66","0.7"\n')
    written(folder / "T1" / "llava_v1.5_7b_MMMU_acc.csv", '"split","Overall"\n"dev","0.4"\n"validation","0.36"\n')
    written(
        folder / "llava_v1.5_7b_POPE_score.csv",
        '"split","Overall","acc","precision","recall"\n"Overall","86.1","87.0","92.1","80.8"\n"random","88","1","1","1"\n',
    )
    written(folder / "llava_v1.5_7b_MME_score.csv", '"perception","reasoning","OCR"\n"1510.7","348.2","132.5"\n')
    written(folder / "llava_v1.5_7b_OCRBench_score.json", {"Final Score": 318, "Final Score Norm": 31.8, "x": [1]})
    found = known(tmp_path)
    model = "llava_v1.5_7b"
    assert {key[1]: value for key, value in found.items()} == {
        "MMBench_DEV_EN": 0.66,
        "MMMU, Overall (dev)": 0.4,
        "MMMU, Overall (validation)": 0.36,
        "POPE, Overall": 86.1,
        "POPE, acc": 87.0,
        "POPE, precision": 92.1,
        "POPE, recall": 80.8,
        "MME, perception": 1510.7,
        "MME, reasoning": 348.2,
        "MME, OCR": 132.5,
        "OCRBench, Final Score": 318,
        "OCRBench, Final Score Norm": 31.8,
    } and {key[0] for key in found} == {model}
    assert known(written(tmp_path / "mine" / "my_score.csv", "model,benchmark,value\na,b,1\n")) == {("a", "b"): 1}
    assert known(written(tmp_path / "mine" / "my_score.json", {"a": {"b": 1}})) == {("a", "b"): 1}
    moved = written(tmp_path / "elsewhere" / "some_MMMU_acc.csv", '"split","Overall"\n"dev","0.4"\n')
    with pytest.raises(DataError, match="by the folder alone"):
        read_scores([moved])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty file"),
        ("model,benchmark,value\n", "no scores in it"),
        ("model,benchmark,value\na,POPE,nan\n", r"row 2: value is nan, expected a number"),
        ("model,benchmark,value\na,POPE,\n", r"row 2: value is missing"),
        ("model,benchmark,value\na,POPE,high\n", r"row 2: value 'high' is no number"),
        ("model,benchmark,value\na,POPE,inf\n", r"row 2: value is inf"),
        ("model,benchmark,value\na,POPE,1\na,POPE,1\n", r"row 3: a on POPE stands already in .*row 2 .*leave one"),
        ("model,benchmark,value\na,POPE,86\nb,POPE,0.85\n", r"row 3: 0.85 on POPE beside 86 .*State unit"),
        ("model,benchmark,value,unit\na,POPE,86,percent\nb,POPE,0.85,\n", r"row 3.*several units \(none, percent\)"),
        ("model,benchmark,value,unit\na,POPE,86,fraction\n", r"86 is no fraction, which is 0 to 1"),
        ("model,benchmark,value,unit\na,POPE,86,percents\n", r"unit 'percents'; did you mean percent"),
        ("model,benchmark,value\n,POPE,86\n", r"row 2: no model"),
        ("benchmark,value\nPOPE,86\n", r"no column model"),
        ("model,value\na,86\n", r"no column benchmark"),
        ("model,POPE,MMBench\na,86,n/a\n", r"row 2, MMBench: value 'n/a' is no number"),
        ("model,benchmark,value,parameters\na,POPE,86,big\n", r"parameters 'big', expected a number, as 7B"),
        ("model\na\n", r"models without a benchmark"),
        ("model,POPE,pope\na,86,87\n", r"two columns are called POPE"),
        ("model,POPE\na,86,900\n", r"no table"),
        ("model,POPE,MMBench,n\na,86,60,900\n", r"n stands beside several benchmarks"),
        ("model;POPE\na;85,9\n", r"value '85,9' is no number; write a point"),
        ("model,benchmark,value,n\na,POPE,86,-5\n", r"n is -5, expected a number of questions"),
        ("model,benchmark,value,low,high\na,POPE,86,87,90\n", r"86 is not within its interval, 87 to 90"),
    ],
)  # fmt: skip
def test_bad_tables(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_scores([written(tmp_path / "own.csv", content)])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", "a: 3", "a: expected BENCHMARK: VALUE"),
        ("a.yaml", "a: {POPE: .nan}", "value is nan"),
        ("a.yaml", "a: {POPE: true}", "value"),
        ("a.yaml", "3", "expected a list"),
        ("a.yaml", "a: [", "not valid YAML"),
        ("a.yaml", "a: {POPE: 1}\na: {POPE: 2}\n", r"not valid YAML \(line 2: 'a' stands there twice"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", [{"model": "a", "benchmark": "b", "score": 1}], "'score' is not understood; known: model"),
        ("a.json", {"results": {"t": {"alias": "t"}}, "model_name": "m"}, "no number in its results"),
        ("a.json", {"results": {"t": {"acc,none": 0.5}}}, "does not say of which model"),
        ("a.txt", "a", "not understood; expected a .csv"),
    ],
)
def test_bad_objects(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_scores([written(tmp_path / name, content)])


def test_spreadsheets(tmp_path: Path) -> None:
    file = tmp_path / "summ.xlsx"
    table = pd.DataFrame({"Model": ["a/b", "c"], "POPE": [86.5, 80.0], "MMBench": [None, 61]})
    if importlib.util.find_spec("openpyxl") is None:
        file.write_bytes(b"PK")
        with pytest.raises(DataError, match="needs openpyxl, which is not installed; save it as CSV"):
            read_scores([file])
        return
    table.to_excel(file, index=False)
    assert known(file) == WANTED


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_scores([tmp_path / "none.csv"])
    with pytest.raises(DataError, match="no file of scores in this folder"):
        read_scores([tmp_path])


def test_stated_units_become_one(tmp_path: Path) -> None:
    table = "model,benchmark,value,unit\na,POPE,86,percent\nb,POPE,0.85,fraction\nc,POPE,84%,\n"
    found = read_scores([written(tmp_path / "own.csv", table)])
    assert [of.value for of in found] == pytest.approx([0.86, 0.85, 0.84])
    assert {of.unit for of in found} == {"fraction"}


@pytest.mark.parametrize("n", [3, 4, 6, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_spearman_by_counting_orders(n: int, ties: bool) -> None:
    rng = np.random.default_rng(n + 10 * ties)
    x, y = rng.normal(size=(2, n))
    if ties:
        x, y = np.round(x), np.round(2 * y)
        x[0], x[1], y[0], y[1] = 0, 9, 7, -9  # not all alike
    found = spearman(x, y)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    ranks = stats.rankdata(x)
    every = [abs(np.corrcoef(ranks, order)[0, 1]) for order in itertools.permutations(stats.rankdata(y))]
    assert found.p == pytest.approx(np.mean(np.array(every) >= abs(found.rho) - 1e-12)) and found.exact


def test_spearman_of_many() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = x + 2 * rng.normal(size=30)
    found, known = spearman(x, y), stats.spearmanr(x, y)
    assert found.rho == pytest.approx(known.statistic) and found.p == pytest.approx(known.pvalue, rel=0.2)
    assert not found.exact
    twelve = spearman(x[:12], y[:12])
    drawn = [abs(stats.spearmanr(x[:12], rng.permutation(y[:12])).statistic) for _ in range(2000)]
    expected = np.mean(np.array(drawn) >= abs(twelve.rho) - 1e-12)
    assert twelve.exact and twelve.p == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4])])
def test_no_rank_correlation(x: list[float], y: list[float]) -> None:
    found = spearman(x, y)
    assert math.isnan(found.rho) and math.isnan(found.p)


def test_partial_by_its_formula() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=14)
    x, y = z + rng.normal(size=14), z + rng.normal(size=14)
    xy, xz, yz = (float(stats.spearmanr(*pair).statistic) for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    r, p = partial(x, y, [z])
    assert r == pytest.approx(expected)
    assert p == pytest.approx(2 * stats.t.sf(abs(expected) * math.sqrt(11 / (1 - expected**2)), 11))
    assert partial(x, y, [z, np.ones(14)]) == pytest.approx((r, p)), "what is the same for all says nothing"
    assert math.isnan(partial(z, y, [z])[0])
    assert math.isnan(partial(x[:3], y[:3], [z[:3]])[0])


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (70, 100)])
def test_interval_of_independent_questions(right: int, n: int) -> None:
    marks = np.array([1.0] * right + [0.0] * (n - right))
    known = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert share_interval(marks, range(n)) == pytest.approx((known.low, known.high), abs=1e-12)


def test_interval_over_pictures() -> None:
    """Questions of one picture that are all right or all wrong tell no more than one; no fewer are ever counted."""
    each = np.array([1.0, 0.0] * 20)
    copied, pictures = np.repeat(each, 6), np.repeat(np.arange(40), 6)
    low, high = share_interval(copied, pictures.tolist())
    alone = share_interval(each, range(40))
    assert low == pytest.approx(alone[0], abs=0.01) and high == pytest.approx(alone[1], abs=0.01)
    balanced = share_interval(np.tile(each[:6], 40), np.repeat(np.arange(40), 6).tolist())
    plain = stats.binomtest(120, 240).proportion_ci(method="wilson")
    assert balanced[0] <= plain.low and balanced[1] >= plain.high
    assert math.isnan(share_interval(np.ones(4), ["a"] * 4)[0])


def test_coverage_over_pictures() -> None:
    """Data sets of 60 pictures with 6 questions each, whose difficulty is the picture's."""
    rng = np.random.default_rng(0)
    held, plain = 0, 0
    for _ in range(400):
        chances = rng.beta(1.6, 0.4, size=60)  # mean 0.8
        marks = (rng.random((60, 6)) < chances[:, None]).astype(float).ravel()
        low, high = share_interval(marks, np.repeat(np.arange(60), 6).tolist())
        held += int(low <= 0.8 <= high)
        known = stats.binomtest(int(marks.sum()), 360).proportion_ci(method="wilson")
        plain += int(known.low <= 0.8 <= known.high)
    assert 0.92 <= held / 400 <= 0.98 and plain / 400 < 0.85
