from __future__ import annotations

import json
import math
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from mmerank import TextConvention, align, diff, load, load_data, load_text, paper, perturb
from mmerank.accuracy import accuracies
from mmerank.comparison import Compared, read_rows, write_rows
from mmerank.demo import MODELS
from mmerank.demo.scenes import scene
from tests.adapters.cases import LLAVA, MINIGPT_V2, Case, examples
from tests.adapters.text_cases import OPENELM_CASE, OPT, TEXT_CASES, TextCase
from tests.conftest import GOLDEN

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setenv("COLUMNS", "160")
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def test_compare_mllms(
    golden_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(GOLDEN / case.name / case.checkpoint) for case in (LLAVA, MINIGPT_V2)]
    data = f"llava:{golden_pairs}?images={GOLDEN}/images"
    options = ["--data", data, "--out", str(tmp_path / "runs"), "--json", str(tmp_path / "table.json")]
    for _ in range(2):  # the second time from the run folders
        script("compare_mllms.py", *models, *options, monkeypatch=monkeypatch)
        printed = capsys.readouterr().out
        rows = json.loads((tmp_path / "table.json").read_text())["results"]
        for row, case in zip(rows, (LLAVA, MINIGPT_V2), strict=True):
            expected = case.eranks["families"]["bare_full"]
            assert row["erank5"] == pytest.approx(expected["eRank5"], rel=1e-5)
            assert f"{expected['eRank5']:.2f}" in printed and row["paper"] == {}


@pytest.mark.parametrize(
    ("case", "model", "source", "data", "erank1"),
    [
        (LLAVA, "llava-hf/llava-1.5-7b-hf", {}, "llava:/d/detail_23k.json?images=x", 18.34),
        (LLAVA, "llava-hf/llava-1.5-7b-hf", {}, "minigpt:/d/cc_sbu_align/", 9.00),
        (LLAVA, "llava-hf/llava-1.5-7b-hf", {}, "llava:/d/detail.json", None),
        (LLAVA, "some/other-model", {}, "llava:detail_23k.json", None),
        (MINIGPT_V2, "m.yaml", {"image_size": 448, "vit_depth": 39}, "llava:detail_23k.json", 90.59),
        (MINIGPT_V2, "m.yaml", {}, "llava:detail_23k.json", None),
    ],
)
def test_paper_values_stand_beside_the_model_and_data_they_belong_to(
    case: Case, model: str, source: dict[str, Any], data: str, erank1: float | None
) -> None:
    printed = runpy.run_path(str(SCRIPTS / "compare_mllms.py"))["printed"]
    result = align(case.adapter, examples())
    result = replace(result, model=model, data=data, source={**result.source, **source})
    assert printed(result).get("erank1") == erank1


def test_perturb_images(
    golden_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(GOLDEN / case.name / case.checkpoint) for case in (LLAVA, MINIGPT_V2)]
    data = f"llava:{golden_pairs}?images={GOLDEN}/images"
    options = ["--data", data, "--control", "mismatch", "--control-draws", "1", "--out", str(tmp_path / "runs")]
    script("perturb_images.py", *models, *options, "--json", str(tmp_path / "t.json"), monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "t.json").read_text())["results"]
    for row, case in zip(rows, (LLAVA, MINIGPT_V2), strict=True):
        expected = case.eranks["families"]["bare_full"]
        assert row["base"]["erank5"] == pytest.approx(expected["eRank5"], rel=1e-5)
        assert [t["transform"] for t in row["transforms"]] == ["rotate:90", "rotate:180", "rotate:270", "identity"]
        assert f"{expected['eRank5']:.2f}" in printed and "0.3588" in printed
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_perturbation_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = perturb(
        LLAVA.adapter, examples(), ["noise:40,10", "grey+blur:1,2", "blank", "rotate:90"], out=tmp_path / "run"
    )
    (tmp_path / "run.json").write_text(json.dumps(result.to_dict()))
    drawn = {}
    saved = Figure.savefig

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        drawn[path.name] = figure
        saved(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    for source in ("run", "run.json"):
        out = tmp_path / f"{source}-figure.png"
        script("perturbation_figure.py", str(tmp_path / source), "--out", str(out), monkeypatch=monkeypatch)
        assert out.stat().st_size > 10_000 and out.with_suffix(".pdf").stat().st_size > 5_000
        eranks, blurred, ratios, _ = drawn[out.name].axes
        assert [eranks.get_title(), blurred.get_title()] == ["noise", "grey+blur"]
        containers: dict[str, Any] = {str(container.get_label()): container for container in eranks.containers}
        assert len(containers) == 4 and len(ratios.containers) == 2  # eRank4 cannot move
        line, _, (bars,) = containers["eRank5 (LLM, pair)"].lines
        for i, name in enumerate(("noise:10", "noise:40")):
            test = result.tests[name]["erank5"]
            assert line.get_ydata()[i] == pytest.approx(test.difference)
            assert bars.get_segments()[i][:, 1] == pytest.approx([test.low, test.high])
    (tmp_path / "bad.json").write_text("{}")
    for source, words in (("bad.json", "not what mmerank perturb --json writes"), ("gone.json", "not what mmerank")):
        with pytest.raises(SystemExit):
            script("perturbation_figure.py", str(tmp_path / source), "--out", "x.png", monkeypatch=monkeypatch)
        assert words in capsys.readouterr().err


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text file, two tasks of lm-eval, and a cache of its own, all in one folder."""
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "cache"))
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


def tables(local: Path, table: int, models: dict[str, str], data: int, *more: str) -> list[Compared]:
    """The rows of one table on local checkpoints and texts."""
    (local / "models.yaml").write_text(yaml.safe_dump(models))
    arguments = [str(table), "--models-from", str(local / "models.yaml"), "--limit", "4", *more]
    with pytest.MonkeyPatch.context() as patch:
        data_options = ["--data", *[f"text:{local}/texts.txt"] * data]
        script("text_tables.py", *arguments, *data_options, "--json", str(local / f"{table}.json"), monkeypatch=patch)
    return read_rows(local / f"{table}.json")


def test_text_tables_on_other_checkpoints(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"125M": str(OPT.folder), "1.3B": str(OPT.folder)}
    for table, data in ((1, 2), (4, 1), (6, 4), (9, 1), (11, 1)):
        rows = tables(local, table, models, data)
        printed = capsys.readouterr().out
        lines = [line for line in printed.splitlines() if "OPT" in line]
        assert {"off", "on"} == {line.split("│")[4].strip() for line in lines} and f"Table {table}" in printed
        assert {row.size for row in rows} == ({"1.3B"} if table == 11 else {"125M", "1.3B"})
        assert len(lines) == len(rows)
    texts = load_data(f"text:{local}/texts.txt")
    found = diff(OPT.adapter, texts, limit=4, convention=TextConvention(untrained_mode="train"))
    rows = [row for row in read_rows(local / "9.json") if (row.size, row.dropout) == ("1.3B", "on")]
    (row,) = (row for row in rows if row.label == "algorithm (b)")
    assert row.ours == pytest.approx(found.final.diff_erank_mean_of_eranks) and row.paper == 103.78
    assert row.difference == pytest.approx((row.ours - 103.78) / 103.78)


def test_spread_over_numbers_of_texts(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.SAMPLE_SIZE_STDEV == pytest.approx(np.std([*paper.SAMPLE_SIZE_DIFF_ERANK.values()]), abs=5e-4)
    monkeypatch.setattr(paper, "SAMPLE_SIZE_DIFF_ERANK", {4: 1.0, 3: 2.0, 2: 3.0})
    for more, printed in (((), paper.SAMPLE_SIZE_STDEV), (("--limit", "3"), math.nan)):
        rows = tables(local, 11, {"1.3B": str(OPT.folder)}, 1, *more)
        for dropout in ("off", "on"):
            *samples, spread = (row for row in rows if row.dropout == dropout)
            assert spread.label == "standard deviation" and spread.paper == pytest.approx(printed, nan_ok=True)
            assert spread.ours == pytest.approx(np.std([row.ours for row in samples])) and spread.ours > 0


@pytest.mark.parametrize(
    ("table", "family", "case", "size", "printed"),
    [(7, "OpenELM", OPENELM_CASE, "450M", 0.6516), (8, "Cerebras-GPT", TEXT_CASES[2], "256M", 0.5620)],
)
def test_accuracy_is_the_mean_of_two_tasks(
    local: Path, table: int, family: str, case: TextCase, size: str, printed: float
) -> None:
    pytest.importorskip("lm_eval")
    tasks = [str(local / "one.yaml"), str(local / "two.yaml")]
    rows = tables(local, table, {size: str(case.folder)}, 1, "--accuracy", *tasks)
    (row,) = (row for row in rows if row.label == "accuracy")
    found = accuracies(case.adapter, tasks)
    assert row.ours == pytest.approx((found["one"].value + found["two"].value) / 2)
    assert (row.family, row.size, row.dropout, row.paper) == (family, size, "", printed)


def test_table_of_continued_training(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    arguments = ("--data", f"text:{local}/texts.txt", "--out", str(local / "further"), "--learning-rate", "0.01")
    script("continue_training.py", str(OPT.folder), *arguments, "--epochs", "2", monkeypatch=monkeypatch)
    stages = yaml.safe_load((local / "further" / "models.yaml").read_text())
    assert stages["initial"] == str(OPT.folder) and (local / "further" / "epoch-2" / "model.safetensors").is_file()
    stages["overfitting"] = str(local / "further" / "epoch-1")  # two epochs need not overfit
    rows = tables(local, 10, stages, 1, "--accuracy", str(local / "one.yaml"))
    values = {(row.size, row.label): row.ours for row in rows if row.dropout != "on"}
    assert {size for size, _ in values} == {"random init", "initial", "fully trained", "overfitting"}
    result = diff(OPT.adapter, load_data(f"text:{local}/texts.txt"), limit=4)
    assert values["random init", "Diff-eRank"] == pytest.approx(0, abs=1e-9)
    assert values["random init", "loss"] == pytest.approx(result.loss_untrained)
    assert values["initial", "Diff-eRank"] == pytest.approx(result.diff_erank)
    assert values["initial", "loss"] == pytest.approx(result.loss_trained)
    assert values["overfitting", "loss"] < values["initial", "loss"]
    assert values["initial", "accuracy"] == accuracies(OPT.adapter, [str(local / "one.yaml")])["one"].value
    printed = {row.size: row.paper for row in rows if row.label == "loss"}
    assert printed == {"random init": 10.830, "initial": 4.692, "fully trained": 4.654, "overfitting": 4.663}


def test_what_the_tables_refuse(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for table, models, more, message in (
        (6, {"1B": "x"}, (), "table 6 has no model '1B' of --models-from; known: 125M, 1.3B"),
        (9, {"125M": "x"}, ("--accuracy",), "table 9 has no accuracy"),
        (1, {"125M": "x"}, (), "table 1 has the data sets openbookqa, piqa; --data gives 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            tables(local, table, models, 1, *more)
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Compared(6, "OPT", size, data, label, dropout, 10 * i + j, paper.DIFF_ERANK["OPT", data][size])
        for i, size in enumerate(("125M", "13B"), start=1)
        for data in ("dolly-15k", "wikipedia")
        for j, (label, dropout) in enumerate([("Diff-eRank", "off"), ("Diff-eRank", "on"), ("reduced loss", "off")])
    ]
    rows += [Compared(8, "Cerebras-GPT", "111M", "dolly-15k", "accuracy", "", 0.5, math.nan)]
    rows += [Compared(9, "OPT", "125M", "dolly-15k", f"algorithm ({k})", "off", 3.0, 4.0) for k in "ab"]
    write_rows(tmp_path / "rows.json", rows)
    drawn: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **more: Any) -> None:
        drawn.append(self)
        original(self, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    for figure, panels in (
        (1, ["dolly-15k", "wikipedia", "", ""]),
        (3, ["OPT", "Cerebras-GPT", "", "", "", ""]),
        (4, ["algorithm (a)", "algorithm (b)"]),
    ):
        drawn.clear()
        options = (str(figure), str(tmp_path / "rows.json"), "--out", str(tmp_path))
        script("text_figures.py", *options, monkeypatch=monkeypatch)
        assert (tmp_path / f"figure{figure}.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / f"figure{figure}.pdf").read_bytes()[:4] == b"%PDF"
        assert [axes.get_title() for axes in drawn[0].axes] == panels
        if figure == 1:
            lines = {str(line.get_label()): line for line in drawn[0].axes[1].lines}
            assert list(np.asarray(lines["ours, dropout on"].get_ydata())) == [11, 21]
            assert list(np.asarray(lines["paper"].get_ydata())) == [83.55, 162.88]
            assert list(np.asarray(lines["paper"].get_xdata())) == [125e6, 13e9]
            looks = [(line.get_marker(), line.get_linestyle()) for line in lines.values()]
            assert len(set(looks)) == len(looks) == 3
    assert "Figure 4" in (printed := capsys.readouterr().out) and "-25.0%" in printed and "nan" not in printed
    (tmp_path / "other.json").write_text("[{}]")
    with pytest.raises(SystemExit):
        script("text_figures.py", "1", str(tmp_path / "other.json"), monkeypatch=monkeypatch)
    assert "not what text_tables.py --json writes" in capsys.readouterr().err


def test_figure_of_the_page_on_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (SCRIPTS.parent / "docs" / "does-it-follow-size.md").read_text()
    module = runpy.run_path(str(SCRIPTS / "size_figure.py"))
    final, half = module["tables"](page)
    assert [len(final), len(half)] == [8, 6] and final[0] == half[0] == [16, 32, 64, 96, 128]
    assert (final[2][0], final[7][4], half[1][2]) == (12.89, 2.588, 11.13)
    script("size_figure.py", "--out", str(tmp_path / "figure.png"), monkeypatch=monkeypatch)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert (SCRIPTS.parent / "docs" / "figures" / "does-it-follow-size.png").is_file()


def test_a_few_steps_of_the_training_script_lower_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train_family.py", str(tmp_path / "family"), "--steps", "20", "--sizes", "1")
    script(*arguments, monkeypatch=monkeypatch)
    held_out = load_data(f"text:{tmp_path}/family/held_out.txt")
    half, full = (
        diff(load_text(tmp_path / "family" / name, device="cpu"), held_out, limit=10)
        for name in ("half-opt-016", "opt-016")
    )
    assert full.loss_trained < half.loss_trained < full.loss_untrained
    assert full.final.erank_untrained == half.final.erank_untrained


@pytest.mark.slow
@pytest.mark.parametrize(("model", "last"), [("llava", "joint"), ("minigpt-v2", "lora")])
def test_a_few_steps_of_training_the_embedded_models(
    model: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--scale", "0.008", "--held-out", "3", "--seed", "7"]
    script("train_tiny.py", model, str(tmp_path), *options, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    for stage in ("vision", "joint"):
        losses = [float(loss) for loss in re.findall(rf"^{stage} \d+/\d+ loss (\S+)", printed, re.MULTILINE)]
        assert len(losses) > 3 and losses[-1] < 0.9 * losses[0], (stage, losses)
    trajectory = json.loads((tmp_path / "trajectory.json").read_text())
    assert [row["stage"] for row in trajectory][:4] == ["initial", "vision", "text", "connector"]
    assert trajectory[-1]["stage"] == last
    # What is written is what the package has: the same files, in half precision, and loaded as it was measured.
    shipped = MODELS[f"demo-{model}"]
    folder = shipped if shipped.is_dir() else shipped.parent
    files = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (tmp_path / "final", folder)]
    assert files[0] == files[1]
    final = tmp_path / "final" / ("" if model == "llava" else shipped.name)
    adapter = load(final, dtype="float32", device="cpu")
    assert sum(f.stat().st_size for f in (tmp_path / "final").rglob("*")) < 7e6
    pairs = [scene("held-out", i).example() for i in range(3)]
    assert align(adapter, pairs).erank5 == pytest.approx(trajectory[-1]["erank5"], rel=1e-6)
    # As in training, the vision encoder and the language model are those of the first stages where they were frozen.
    by_stage = {(row["stage"], row["step"]): row for row in trajectory}
    vision = next(row for (stage, _), row in by_stage.items() if stage == "vision")
    assert trajectory[-1]["erank1"] == pytest.approx(vision["erank1"], rel=1e-6)
