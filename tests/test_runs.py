from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmerank.errors import RunFolderError
from mmerank.runs.folder import RunFolder
from tests.test_parts import CONVENTION, measured

SETTINGS: dict[str, Any] = {"job": "align", "data": {"name": "d"}, "convention": CONVENTION}
FLOAT32 = {"dtype": "float32"}


def test_records_and_settings_are_there_when_opened_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.add_model("m", FLOAT32)
    folder.write(measured("a", source=FLOAT32))
    folder.write([])
    folder.write(measured("b", source=FLOAT32))
    again = RunFolder(tmp_path / "run", SETTINGS)
    again.add_model("m", FLOAT32)
    again.add_model("other", FLOAT32)
    again.write(measured("c", "other", FLOAT32))
    assert [r.example for r in again.records()] == [*"aaaaabbbbbccccc"]
    stated = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stated["job"] == "align" and "torch" in stated["versions"] and list(stated["models"]) == ["m", "other"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"data": {"name": "e"}}, "data.name"),
        ({"convention": {**CONVENTION, "tokens": "modality"}}, "convention.tokens"),
        ({"x": 1}, "x"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.add_model("m", {})
    folder.write(measured("a", source={}))
    with pytest.raises(RunFolderError, match=named):
        RunFolder(tmp_path / "run", {**SETTINGS, **changed})


def test_a_run_that_measured_nothing_makes_room(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", SETTINGS)
    first.add_model("m", {"weights": "1"})
    changed = {**SETTINGS, "convention": {**CONVENTION, "tokens": "modality"}}
    with first.writing(), pytest.raises(RunFolderError, match="another process is writing"):
        RunFolder(tmp_path / "run", changed).add_model("m", {})
    with first.writing(), pytest.raises(RunFolderError, match="another process is writing"):
        RunFolder(tmp_path / "run", SETTINGS).add_model("m", {"weights": "2"})
    RunFolder(tmp_path / "run", changed).add_model("m", {"weights": "2"})
    stated = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stated["convention"]["tokens"] == "modality" and stated["models"] == {"m": {"weights": "2"}}
    # One that was about to measure under the old settings is told, and leaves nothing that counts.
    first.write(measured("a", source={"weights": "1"}))
    with pytest.raises(RunFolderError, match="convention.tokens"):
        first.done("m")
    assert not RunFolder(tmp_path / "run", changed).done("m")


def test_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.add_model("m", {"weights": "1"})
    folder.write(measured("a", source={"weights": "1"}))
    with pytest.raises(RunFolderError, match='weights: "1" there, "2" here'):
        folder.add_model("m", {"weights": "2"})


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not empty, and not a run folder"):
        RunFolder(tmp_path, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["{", ""])
def test_damaged_settings(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match="run.json: not valid JSON"):
        RunFolder(tmp_path, SETTINGS)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", SETTINGS).add_model("m", {})
    with pytest.raises(RunFolderError, match=r"not a run folder"):
        RunFolder(tmp_path / "file", SETTINGS)


def test_only_what_differs_is_said(tmp_path: Path) -> None:
    long = {"job": "align", "data": {"name": "x" * 500, "limit": 1}}
    folder = RunFolder(tmp_path / "run", long)
    folder.add_model("m", {})
    folder.write_summary({})
    with pytest.raises(RunFolderError, match=r"another run \(data.limit: 1 there, 2 here\)"):
        RunFolder(tmp_path / "run", {"job": "align", "data": {"name": "x" * 500, "limit": 2}})


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    folder, other = RunFolder(tmp_path / "run", SETTINGS), RunFolder(tmp_path / "run", SETTINGS)
    folder.add_model("m", {})
    with folder.writing():
        with pytest.raises(RunFolderError, match="another process is writing"), other.writing():
            pytest.fail("two writers")
    with other.writing():
        pass


def test_nothing_is_made_before_a_model_is_there(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_settings_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunFolderError, match="not the settings of a run"):
        RunFolder(tmp_path, SETTINGS)


def test_damaged_part_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", SETTINGS)
    folder.add_model("m", {})
    folder.write(measured("a"))
    (part,) = (tmp_path / "run" / "records").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(RunFolderError, match=f"{part.name}: a damaged part "):
        folder.records()
