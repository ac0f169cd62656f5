from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmerank.errors import RunFolderError
from mmerank.report.folders import run_folders


def run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def test_a_folder_of_run_folders_stands_for_them(tmp_path: Path) -> None:
    single, b, a = (run(tmp_path / name) for name in ("single", "demo/b", "demo/a"))
    (tmp_path / "demo" / "report").mkdir()
    assert run_folders([single, str(tmp_path / "demo")]) == [single, a, b]
    (single / "run.json").unlink()
    with pytest.raises(RunFolderError, match=f"there are some in {tmp_path}/demo;"):
        run_folders([tmp_path])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (["gone"], RunFolderError, "gone: no such folder; did you mean done"),
        (["file"], RunFolderError, "file: a file, not a run folder"),
        (["empty"], RunFolderError, "empty: not a run folder .no run.json., and none is in it"),
        ("done", TypeError, "expected a list of run folders, got str"),
        (3, TypeError, "expected a list of run folders, got int"),
        ([object()], TypeError, "got object among them; a result is kept in one by out=FOLDER"),
    ],
)
def test_what_is_no_run_folder(
    given: Any, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "done")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(error, match=words):
        run_folders(given)
