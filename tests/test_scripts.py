from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmerank import align
from tests.adapters.cases import LLAVA, MINIGPT_V2, Case, examples
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
