from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmerank import align, diff, load_data, load_text
from tests.adapters.cases import LLAVA, MINIGPT_V2, Case, examples
from tests.adapters.text_cases import OPT
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


def test_text_tables_on_other_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMERANK_CACHE", str(tmp_path / "cache"))
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{i} {example.response}\n" for i in range(2) for example in examples()))
    models = tmp_path / "models.yaml"
    models.write_text(f"125M: {OPT.folder}\n1.3B: {OPT.folder}\n")
    for table, data in ((1, 2), (4, 1), (6, 4), (9, 1), (11, 1)):
        arguments = [str(table), "--models-from", str(models), "--limit", "4", "--data", *[f"text:{texts}"] * data]
        script("text_tables.py", *arguments, monkeypatch=monkeypatch)
        printed = capsys.readouterr().out
        rows = [line for line in printed.splitlines() if "OPT" in line]
        assert {"off", "on"} == {line.split("│")[4].strip() for line in rows} and f"Table {table}" in printed
        models_measured = {line.split("│")[1].strip() for line in rows}
        assert models_measured == ({"OPT 1.3B"} if table == 11 else {"OPT 125M", "OPT 1.3B"})


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
