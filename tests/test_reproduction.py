from __future__ import annotations

import io
import json
import math
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from rich.console import Console

import mmerank.jobs.diff
import mmerank.models.adapter
import mmerank.models.loading
from mmerank import Convention, TextConvention, align, diff, load_data
from mmerank.__main__ import main
from mmerank.engine.probe import Probe
from mmerank.inputs.text_sets import SETS
from mmerank.jobs.accuracy import accuracies
from mmerank.jobs.paper.comparison import Compared, comparison_table
from mmerank.jobs.paper.figures import draw_figure
from mmerank.jobs.paper.multimodal import conventions_tried, distance
from mmerank.jobs.paper.studies import STUDIES
from mmerank.report.paper import tables as paper
from tests.adapters.cases import LLAVA, MINIGPT_V2, examples
from tests.adapters.text_cases import OPENELM_CASE, OPT, TEXT_CASES, TextCase
from tests.conftest import GOLDEN

SCRIPTS = Path(__file__).parents[1] / "scripts"
CEREBRAS = TEXT_CASES[2]
MODELS = {"LLaVA-1.5": LLAVA, "MiniGPT-v2": MINIGPT_V2}
Row = dict[str, Any]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text file, two tasks of lm-eval, and a cache of its own, all in one folder."""
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    texts = "".join(f"{i} {example.response}\n" for i in range(2) for example in examples())
    (tmp_path / "texts.txt").write_text(texts)
    rows = [
        {"question": text, "choices": ["yes", "no"], "label": i % 2} for i, text in enumerate(texts.split("\n")[:3])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(tmp_path / "rows.jsonl"), "cache_dir": str(tmp_path / "data")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    for name, target in (("one", "{{label}}"), ("two", "{{1 - label}}")):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**task, "task": name, "doc_to_target": target}))
    return tmp_path


def finished(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0


def reproduce(local: Path, name: str, models: dict[str, Any], *more: str) -> dict[str, Any]:
    """What `mmerank reproduce` writes as JSON, on local checkpoints."""
    (local / "models.yaml").write_text(yaml.safe_dump(models, sort_keys=False))
    options = ["--models-from", str(local / "models.yaml"), "--out", str(local / name), "--device", "cpu"]
    finished(["reproduce", name, *options, "--json", str(local / f"{name}.json"), *more])
    content: dict[str, Any] = json.loads((local / f"{name}.json").read_text())
    return content


def text_study(local: Path, name: str, models: dict[str, Any], *more: str) -> list[Row]:
    sets = {set_ for part in STUDIES[name] for set_ in part.data}
    data = [word for _ in sets for word in ("--data", f"text:{local}/texts.txt")]
    results: list[Row] = reproduce(local, name, models, *data, "--limit", "4", *more)["results"]
    return results


@pytest.mark.slow
def test_text_tables_on_other_checkpoints(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"125M": str(OPT.folder), "1.3B": str(OPT.folder)}
    for table in (1, 4, 6, 9, 11):
        chosen = {"1.3B": models["1.3B"]} if table == 11 else models
        rows = text_study(local, f"table{table}", chosen, "--accuracy", "none" if table == 1 else "")
        printed = capsys.readouterr().out
        lines = [line for line in printed.splitlines() if re.match(r"OPT .* (off|on) +-?[0-9]", line)]
        assert {"off", "on"} == {re.findall(r" (off|on) ", line)[0] for line in lines} and f"Table {table}" in printed
        assert {row["size"] for row in rows} == set(chosen)
        assert len(lines) == len(rows) and "untrained-mode eval and train" in printed and "n = 4" in printed
    texts = load_data(f"text:{local}/texts.txt")
    found = diff(OPT.adapter, texts, limit=4, convention=TextConvention(untrained_mode="train"))
    rows = json.loads((local / "table9.json").read_text())["results"]
    (row,) = (r for r in rows if (r["size"], r["dropout"], r["label"]) == ("1.3B", "on", "algorithm (b)"))
    assert row["ours"] == pytest.approx(found.final.diff_erank_mean_of_eranks) and row["paper"] == 103.78
    assert row["difference"] == pytest.approx((row["ours"] - 103.78) / 103.78)


@pytest.mark.slow
def test_spread_over_numbers_of_texts(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.SAMPLE_SIZE_STDEV == pytest.approx(np.std([*paper.SAMPLE_SIZE_DIFF_ERANK.values()]), abs=5e-4)
    monkeypatch.setattr(paper, "SAMPLE_SIZE_DIFF_ERANK", {4: 1.0, 3: 2.0, 2: 3.0})
    for limit, printed in (("4", paper.SAMPLE_SIZE_STDEV), ("3", None)):
        rows = text_study(local, "table11", {"1.3B": str(OPT.folder)}, "--limit", limit)
        for dropout in ("off", "on"):
            *samples, spread = (row for row in rows if row["dropout"] == dropout)
            assert spread["label"] == "standard deviation" and spread["paper"] == printed
            assert spread["ours"] == pytest.approx(np.std([row["ours"] for row in samples])) and spread["ours"] > 0


def test_a_run_is_continued_and_the_trained_model_is_measured_once(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    original = Probe

    class Counting(original):  # type: ignore[misc, valid-type]
        def measure(self, texts: Any) -> Any:
            for result in super().measure(texts):
                measured.append(result.id)
                yield result

    monkeypatch.setattr(mmerank.jobs.diff, "Probe", Counting)
    models = {"125M": str(OPT.folder)}
    first = text_study(local, "table9", models)
    assert len(measured) == 3 * 4  # trained, untrained with dropout off and on
    again = text_study(local, "table9", models)
    assert len(measured) == 12 and again == first
    for mode in ("off", "on"):
        summary = json.loads((local / "table9" / f"dolly-15k--dropout-{mode}--first-4" / "summary.json").read_text())
        assert [result["n"] for result in summary["results"]] == [4]


@pytest.mark.slow
def test_accuracies_of_table_1_and_figure_3(local: Path) -> None:
    pytest.importorskip("lm_eval")
    tasks = [str(local / "one.yaml"), str(local / "two.yaml")]
    right = [found.value for found in accuracies(OPT.adapter, tasks).values()]
    for name, models, expected in (
        ("table1", {"125M": str(OPT.folder)}, right),
        ("figure3", {"OPT": {"125M": str(OPT.folder)}}, [sum(right) / 2]),
    ):
        rows = text_study(local, name, models, "--accuracy", ",".join(tasks))
        assert [row["ours"] for row in rows if row["label"].startswith("accuracy")] == pytest.approx(expected), rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "case", "size", "printed"),
    [("table7", "OpenELM", OPENELM_CASE, "450M", 0.6516), ("table8", "Cerebras-GPT", CEREBRAS, "256M", 0.5620)],
)
def test_accuracy_is_the_mean_of_two_tasks(
    local: Path, name: str, family: str, case: TextCase, size: str, printed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    tasks = [str(local / "one.yaml"), str(local / "two.yaml")]
    rows = text_study(local, name, {size: str(case.folder)}, "--accuracy", ",".join(tasks))
    (row,) = (row for row in rows if row["label"] == "accuracy")
    found = accuracies(case.adapter, tasks)
    assert row["ours"] == pytest.approx((found["one"].value + found["two"].value) / 2)
    assert (row["family"], row["size"], row["dropout"], row["paper"]) == (family, size, "", printed)
    monkeypatch.setattr("lm_eval.evaluate", None)  # not asked again
    assert text_study(local, name, {size: str(case.folder)}, "--accuracy", ",".join(tasks)) == rows


@pytest.mark.slow
def test_table_of_continued_training(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    arguments = ("--data", f"text:{local}/texts.txt", "--out", str(local / "further"), "--learning-rate", "0.01")
    monkeypatch.setattr(sys, "argv", ["continue_training.py", str(OPT.folder), *arguments, "--epochs", "2"])
    runpy.run_path(str(SCRIPTS / "continue_training.py"), run_name="__main__")
    stages = yaml.safe_load((local / "further" / "models.yaml").read_text())
    assert stages["initial"] == str(OPT.folder) and (local / "further" / "epoch-2" / "model.safetensors").is_file()
    stages["overfitting"] = str(local / "further" / "epoch-1")  # two epochs need not overfit
    rows = text_study(local, "table10", stages, "--accuracy", str(local / "one.yaml"))
    values = {(row["size"], row["label"]): row["ours"] for row in rows if row["dropout"] != "on"}
    assert {size for size, _ in values} == {"random init", "initial", "fully trained", "overfitting"}
    result = diff(OPT.adapter, load_data(f"text:{local}/texts.txt"), limit=4)
    assert values["random init", "Diff-eRank"] == pytest.approx(0, abs=1e-9)
    assert values["random init", "loss"] == pytest.approx(result.loss_untrained)
    assert values["initial", "Diff-eRank"] == pytest.approx(result.diff_erank)
    assert values["initial", "loss"] == pytest.approx(result.loss_trained)
    assert values["overfitting", "loss"] < values["initial", "loss"]
    assert values["initial", "accuracy"] == accuracies(OPT.adapter, [str(local / "one.yaml")])["one"].value
    printed = {row["size"]: row["paper"] for row in rows if row["label"] == "loss"}
    assert printed == {"random init": 10.830, "initial": 4.692, "fully trained": 4.654, "overfitting": 4.663}


@pytest.fixture
def pairs(golden_pairs: Path, local: Path) -> str:
    """A file for --data-from: the golden pairs in the places of both data sets."""
    data = f"llava:{golden_pairs}?images={GOLDEN}/images"
    (local / "data.yaml").write_text(yaml.safe_dump({"detail_23k": data, "cc_sbu_align": data}))
    return str(local / "data.yaml")


CHECKPOINTS = {name: str(GOLDEN / case.name / case.checkpoint) for name, case in MODELS.items()}


@pytest.mark.slow
def test_table_2(local: Path, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second time from the run folders
        found = reproduce(local, "table2", CHECKPOINTS, "--data-from", pairs)
        printed = capsys.readouterr().out
        assert len(found["results"]) == 2 * 2 * 7 and found["sweep"] == []
        for name, case in MODELS.items():
            expected = case.eranks["families"]["bare_full"]
            for data in ("detail_23k", "cc_sbu_align"):
                rows = {r["label"]: r for r in found["results"] if (r["family"], r["data"]) == (name, data)}
                assert rows["eRank5"]["ours"] == pytest.approx(expected["eRank5"], rel=1e-5)
                assert rows["eRank1"]["paper"] == paper.TABLE_2[name, data]["erank1"]
                e = {i: rows[f"eRank{i}"]["ours"] for i in (3, 4, 5)}
                ratio = np.mean([*e.values()]) / max(e.values())
                assert rows["Image-Text Alignment"]["ours"] == pytest.approx(ratio)
            assert f"{expected['eRank5']:.3f}" in printed
        assert "sequence bare" in printed and "tokens all" in printed and "n = 3" in printed
        assert found["conventions"]["multimodal"] == Convention().to_dict()
    only = reproduce(local, "table2", CHECKPOINTS, "--data-from", pairs, "--models", "LLaVA-1.5")
    assert {row["family"] for row in only["results"]} == {"LLaVA-1.5"}


@pytest.mark.slow
def test_sweep_of_conventions(local: Path, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = yaml.safe_load(Path(pairs).read_text())
    Path(pairs).write_text(yaml.safe_dump({"detail_23k": data["detail_23k"]}))
    found = reproduce(local, "table2", CHECKPOINTS, "--data-from", pairs, "--sweep-conventions")
    printed = capsys.readouterr().out
    for name, case in MODELS.items():
        tried = [one for one in found["sweep"] if one["model"] == name]
        conventions = conventions_tried(case.adapter)
        assert len(tried) == 2 * len(conventions) == 2 * len(set(conventions))
        assert [one["distance"] for one in tried] == sorted(one["distance"] for one in tried)
        theirs = np.array([*paper.TABLE_2[name, "detail_23k"].values()])
        for one in tried:
            ours = np.array([one["numbers"][label] for label in paper.TABLE_2[name, "detail_23k"]])
            assert one["distance"] == pytest.approx(np.mean(np.abs(ours / theirs - 1)))
        several: list[dict[str, Any]] = [{"sequence": "template", "aggregate": "erank"}, {"tokens": "modality"}]
        for changed in several:
            (one,) = (one for one in tried if one["changed"] == changed)
            result = align(case.adapter, examples(), convention=Convention(**changed))
            assert one["numbers"]["erank4"] == pytest.approx(result.erank4, rel=1e-9)
            assert one["numbers"]["erank5"] == pytest.approx(result.erank5, rel=1e-9)
    assert "default" in printed and "vision-point merged" in printed and "LLaVA-1.5 on detail_23k" in printed
    assert distance({"a": 1.0, "b": 3.0}, {"a": 1.0}) == 0


@pytest.mark.slow
def test_table_3(local: Path, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = yaml.safe_load(Path(pairs).read_text())["detail_23k"]
    models = {"LLaVA-1.5": CHECKPOINTS["LLaVA-1.5"]}
    found = reproduce(local, "table3", models, "--data", data)
    rows = {row["label"]: row for row in found["results"]}
    assert len(rows) == 4 * 7
    assert rows["base: eRank1"]["paper"] == 18.34 and rows["rotate:90: eRank1"]["paper"] == 19.20
    turned = [
        mmerank.Example(e.id, e.image.rotate(-90, expand=True), e.instruction, e.response)  # type: ignore[union-attr]
        for e in examples()
    ]
    result = align(LLAVA.adapter, turned)
    assert rows["rotate:90: eRank1"]["ours"] == pytest.approx(result.erank1, rel=1e-6)
    assert rows["rotate:90: eRank5"]["ours"] == pytest.approx(result.erank5, rel=1e-6)
    assert rows["rotate:270: eRank1"]["ours"] != pytest.approx(result.erank1, rel=1e-6)
    assert rows["rotate:90: eRank4"]["ours"] == pytest.approx(rows["base: eRank4"]["ours"], rel=1e-6)
    assert "0.3588" in capsys.readouterr().out.replace("0.359", "0.3588")


@pytest.mark.slow
def test_figures_from_beginning_to_end(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opt = {"125M": str(OPT.folder), "1.3B": str(OPT.folder)}
    families = {
        "OPT": opt,
        "OpenELM": {"270M": str(OPENELM_CASE.folder)},
        "Cerebras-GPT": {"111M": str(CEREBRAS.folder)},
    }
    for name, models in (("figure1", opt), ("figure3", families), ("figure4", opt)):
        rows = text_study(local, name, models, "--accuracy", "none" if name == "figure3" else "")
        assert (local / name / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (local / name / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
        printed = capsys.readouterr().out
        assert f"Figure {name[-1]}" in printed and f"{name}.png" in printed.replace("\n", "")
        assert {row["family"] for row in rows} == (set(families) if name == "figure3" else {"OPT"})


@pytest.mark.slow
def test_what_figures_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Compared(6, "OPT", size, data, label, dropout, 10 * i + j, paper.DIFF_ERANK["OPT", data][size])
        for i, size in enumerate(("125M", "13B"), start=1)
        for data in ("dolly-15k", "wikipedia")
        for j, (label, dropout) in enumerate([("Diff-eRank", "off"), ("Diff-eRank", "on"), ("reduced loss", "off")])
    ]
    other = Compared(8, "Cerebras-GPT", "111M", "dolly-15k", "accuracy", "", 0.5, math.nan)
    two = [Compared(9, "OPT", "125M", "dolly-15k", f"algorithm ({k})", "off", 3.0, 4.0) for k in "ab"]
    drawn: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **more: Any) -> None:
        drawn.append(self)
        original(self, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    for name, given, panels in (
        ("figure1", rows, ["dolly-15k", "wikipedia", "", ""]),
        ("figure3", [*rows[:3], other], ["OPT", "Cerebras-GPT", "", "", "", ""]),
        ("figure4", two, ["algorithm (a)", "algorithm (b)"]),
    ):
        drawn.clear()
        files = draw_figure(name, given, tmp_path)
        assert [file.name for file in files] == [f"{name}.png", f"{name}.pdf"]
        assert [axes.get_title() for axes in drawn[0].axes] == panels
        if name == "figure1":
            lines = {str(line.get_label()): line for line in drawn[0].axes[1].lines}
            assert list(np.asarray(lines["ours, dropout on"].get_ydata())) == [11, 21]
            assert list(np.asarray(lines["paper"].get_ydata())) == [83.55, 162.88]
            assert list(np.asarray(lines["paper"].get_xdata())) == [125e6, 13e9]
            looks = [(line.get_marker(), line.get_linestyle()) for line in lines.values()]
            assert len(set(looks)) == len(looks) == 3
    assert draw_figure("figure4", [], tmp_path) == []


@pytest.mark.parametrize("name", STUDIES)
def test_dry_run_loads_nothing(
    name: str, local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, function in (
        (mmerank.models.adapter, "load"),
        (mmerank.models.loading, "load_text"),
        (mmerank, "load_data"),
    ):
        monkeypatch.setattr(module, function, None)
    finished(["reproduce", name, "--dry-run", "--json", str(local / "needs.json")])
    needs = json.loads((local / "needs.json").read_text())
    printed = capsys.readouterr().out
    parts = STUDIES[name]
    assert len(needs["models"]) == sum(len(part.published()) for part in parts)
    assert {entry["name"] for entry in needs["data"]} == {set_ for part in parts for set_ in part.data}
    assert all(need["hours"] > 0 and need["gpu_gb"] > 2 for need in needs["models"])
    by_hand = {entry["name"] for entry in needs["by_hand"]}
    if name == "table2":
        assert by_hand == {"MiniGPT-v2", "detail_23k", "cc_sbu_align"}
        assert needs["models"][0]["gpu_gb"] == pytest.approx(2 * 7.06 + 2)  # half precision
    if name == "table10":
        assert by_hand == {"OPT-1.3B"} and needs["models"][0]["gpu_gb"] == pytest.approx(2 * 4 * 1.3 + 2)
    assert all(word in printed for word in ("parameters", "GPU memory", *by_hand))
    assert not (Path.cwd() / "runs" / "reproduce" / name).exists()


def test_dry_run_counts_local_checkpoints(local: Path, pairs: str) -> None:
    found = reproduce(local, "table6", {"125M": str(OPT.folder)}, "--dry-run", "--limit", "7")
    tied = OPT.adapter.model.state_dict()
    stored = {tensor.data_ptr(): tensor.numel() for tensor in tied.values()}
    assert found["models"][0]["parameters"] == sum(stored.values())
    assert {entry["examples"] for entry in found["data"]} == {7} and found["by_hand"] == []
    found = reproduce(local, "table2", CHECKPOINTS, "--data-from", pairs, "--dry-run")
    assert [need["hours"] for need in found["models"]] == [None, None]  # files of any length
    found = reproduce(local, "table2", {"LLaVA-1.5": "some/other-model"}, "--dry-run", "--limit", "7")
    assert found["models"][0]["parameters"] is None


def test_what_is_refused(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--data", f"text:{local}/texts.txt"]
    for name, models, more, message in (
        ("table6", {"1B": "x"}, [], "table6 has no model '1B' of --models-from; known: 125M, 1.3B"),
        ("table9", {"125M": "x"}, ["--accuracy", "piqa"], "table9 has no accuracy"),
        ("table1", {"125M": "x"}, one, "table1 has the data sets openbookqa, piqa; --data gives 1"),
        ("table1", {"125M": "x"}, ["--accuracy", "piqa"], "an accuracy for each of openbookqa, piqa"),
        ("table9", {"125M": "x"}, ["--models", "9B"], "table9 has no model '9B'"),
        ("figure2", {"125M": "x"}, [], "figure2 has no numbers of its own: mmerank reproduce table2"),
        ("table5", {"125M": "x"}, [], "nothing to reproduce by the name 'table5'; known: table1"),
        ("figure3", {"125M": "x"}, [], "figure3 has no family '125M' of --models-from; known: OPT"),
        ("figure3", {"OPT": "x"}, [], "expected size or name -> MODEL for OPT"),
        ("table9", {"125M": str(OPT.folder)}, ["--sweep-conventions"], "is for table2, not for table9"),
        ("table2", {"MiniGPT-v2": ""}, [], "MiniGPT-v2 must be fetched by hand"),
        ("table2", {"LLaVA-1.5": "x"}, ["--data-from", f"{local}/nowhere.yaml"], "cannot be read (No such file"),
    ):
        (local / "models.yaml").write_text(yaml.safe_dump(models))
        with pytest.raises(SystemExit) as stopped:
            main(["reproduce", name, "--models-from", str(local / "models.yaml"), *more])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error, error


def test_the_longest_names_fit_into_a_terminal() -> None:
    out = io.StringIO()
    rows = [Compared(6, "Cerebras-GPT", "111M", name, "reduced loss", "off", 100.5, 104.25) for name in SETS]
    Console(width=80, file=out).print(comparison_table("Table 6", rows))
    printed = out.getvalue()
    assert "…" not in printed and len(printed.splitlines()) == len(rows) + 3
    assert all(f"{name} " in printed for name in SETS)
