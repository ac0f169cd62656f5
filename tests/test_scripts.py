from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmerank import align, diff, load, load_data, load_text
from mmerank.inputs.demo import MODELS
from mmerank.inputs.demo.scenes import scene
from mmerank.report.paper.printed import printed_alignment
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
    result = align(case.adapter, examples())
    result = replace(result, model=model, data=data, source={**result.source, **source})
    assert printed_alignment(result.model, result.source, result.data).get("erank1") == erank1


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
    arguments = ("train_family.py", str(tmp_path / "family"), "--steps", "8", "--sizes", "1")
    script(*arguments, monkeypatch=monkeypatch)
    held_out = load_data(f"text:{tmp_path}/family/held_out.txt")
    half, full = (
        diff(load_text(tmp_path / "family" / name, device="cpu"), held_out, limit=10)
        for name in ("half-opt-016", "opt-016")
    )
    assert full.loss_trained < half.loss_trained < full.loss_untrained
    assert full.final.erank_untrained == half.final.erank_untrained


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "last"), [("llava", "joint"), pytest.param("minigpt-v2", "lora", marks=pytest.mark.long)]
)
def test_a_few_steps_of_training_the_embedded_models(
    model: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--scale", "0.008", "--batch", "16", "--held-out", "2", "--seed", "7"]
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
    pairs = [scene("held-out", i).example() for i in range(2)]
    assert align(adapter, pairs).erank5 == pytest.approx(trajectory[-1]["erank5"], rel=1e-6)
    # As in training, the vision encoder and the language model are those of the first stages where they were frozen.
    by_stage = {(row["stage"], row["step"]): row for row in trajectory}
    vision = next(row for (stage, _), row in by_stage.items() if stage == "vision")
    assert trajectory[-1]["erank1"] == pytest.approx(vision["erank1"], rel=1e-6)
