"""The report of encoders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mmerank import encode, estimates, load_data, load_encoder
from mmerank.inputs.example import DataSet
from mmerank.jobs.encode import Encoding
from mmerank.report.write import report
from tests.encoder_models import save_open_clip, save_timm


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Encoding]:
    """A dual encoder, and a vision model."""
    folder = tmp_path_factory.mktemp("runs")
    names = {"dual": save_open_clip(folder / "model"), "vision": save_timm(folder / "m.pth", "test_resnet")}
    data = load_data("demo")
    assert isinstance(data, DataSet)
    return {
        folder / name: encode(load_encoder(model, device="cpu"), data, limit=5, out=folder / name)
        for name, model in names.items()
    }


def test_numbers_of_a_run_folder_are_those_of_the_result(runs: dict[Path, Encoding]) -> None:
    for folder, result in runs.items():
        rows = estimates(folder).to_dict("records")
        found = {(row["point"], row["quantity"]): row for row in rows}
        for name, number in result.numbers.items():
            row = found["", name]
            assert row["value"] == number.value and row["n"] == 5
            assert number.interval is None or (row["low"], row["high"]) == number.interval
        for of in result.layers:
            point = f"layer {of.layer}"
            assert found[point, f"erank_{of.side}"]["value"] == of.trained.value
            assert found[point, f"erank_{of.side}_untrained"]["value"] == of.untrained.value


def test_report_of_encoders(runs: dict[Path, Encoding], tmp_path: Path) -> None:
    written = report(list(runs), tmp_path)
    numbers = pd.read_csv(tmp_path / "numbers.csv")
    assert set(numbers["job"]) == {"encode"} and numbers["paper"].isna().all()
    assert {"erank_images", "modality_gap_untrained", "image_to_text_at_1"} <= set(numbers["quantity"])
    examples = pd.read_csv(tmp_path / "examples.csv")
    assert len(examples) == 10 and examples["matched_cosine"].notna().sum() == 5
    tables = (tmp_path / "tables.md").read_text()
    assert "Encoders" in tables and "image to text, at 1" in tables and "eRank by layer of the encoders" in tables
    page = (tmp_path / "report.html").read_text()
    assert "an encoder of random weights has a modality gap" in page
    assert any(path.name == "layers-encoders.pdf" for path in written)
