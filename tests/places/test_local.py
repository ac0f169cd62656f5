"""Cells of a study on this machine: processes of their own, with the environment and the end that they are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mmerank.__main__ import main
from mmerank.errors import RunFolderError, UsageError
from mmerank.jobs import cells as of_cells
from mmerank.jobs.cells import Cell, beside, ended, run_cell, standing, write_cells
from mmerank.jobs.study import taken_by_each
from mmerank.jobs.where.local import one_a_gpu, one_by_one, visible_gpus
from mmerank.processes import TAKEN
from tests.places.studies import alive, grid, kill, study_of, until

CELLS = [Cell("align", f"model-{i}", "demo", {}) for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cells(CELLS, tmp_path, {"align": "models"})
    return tmp_path


def test_each_gpu_has_one_cell_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    at: dict[str, list[str]] = {}
    both = threading.Barrier(2)

    def run(command: list[str], log: Any, environment: dict[str, str]) -> int:
        both.wait()  # for ever, if there were but one at a time
        at.setdefault(environment["CUDA_VISIBLE_DEVICES"], []).append(command[command.index("--out") + 1])
        return 0

    monkeypatch.setattr(of_cells, "_status", run)
    assert {cell for cell, why in one_a_gpu(CELLS, folder) if not why} == set(CELLS)
    assert at.keys() == {"3", "GPU-abc"} and sum(map(len, at.values())) == 6
    assert len({out for outs in at.values() for out in outs}) == 6


@pytest.mark.parametrize("stated", ["", "-1"])
def test_no_gpu(stated: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", stated)
    with pytest.raises(UsageError, match="--on gpus: this machine shows no GPU"):
        list(one_a_gpu(CELLS, folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]


def test_a_full_disk_is_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(of_cells, "_status", full)
    monkeypatch.setattr(of_cells, "whole", full)
    (_, why), *rest = one_by_one(CELLS, folder)
    assert why == f"{folder}: No space left on device" and len(rest) == 5
    assert ended(CELLS[0], folder, why).reason == why
    with pytest.raises(RunFolderError, match="cannot be written \\(No space left on device\\)"):
        write_cells(CELLS, folder, {"align": "models"})


def test_what_a_full_disk_leaves_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell that can write neither its log nor its reason, as where this process may write no byte more."""
    resource = pytest.importorskip("resource")
    file = tmp_path / "s.yaml"
    file.write_text("models: [m]\ndata: demo\njobs: [align]\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def silent(*_: Any) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        return 1

    monkeypatch.setattr(of_cells, "_status", silent)
    try:
        with pytest.raises(SystemExit) as ended_with:
            main(["study", str(file), "--json", "-"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert ended_with.value.code == 1
    assert (cell["state"], cell["reason"]) == ("failed", f"{tmp_path}/s: File too large")


def test_the_place_of_a_study_says_why_a_cell_has_no_result(folder: Path) -> None:
    assert ended(CELLS[0], folder, "job 3 ended as TIMEOUT").state == "failed"
    assert standing(CELLS[0], folder).reason == "job 3 ended as TIMEOUT"
    beside(folder, CELLS[1], "failed").write_text("no such model\n")
    assert ended(CELLS[1], folder, "job 4 ended as FAILED").reason == "no such model", "its own word comes first"
    with FileLock(folder / "cells" / f".{CELLS[2].name}.lock"):
        assert ended(CELLS[2], folder, "job 5 ended as FAILED").state == "running"


def test_a_process_that_finds_its_cell_taken_leaves_it(folder: Path) -> None:
    lock = folder / "cells" / f".{CELLS[0].name}.lock"
    log = beside(folder, CELLS[0], "log")
    log.write_text("said by the other\n")
    with FileLock(lock), log.open("ab") as out:
        command = ["mmerank.jobs.where.process", str(os.getpid()), "0", str(lock), "--help"]
        assert subprocess.run([sys.executable, "-m", *command], stdout=out, stderr=out).returncode == TAKEN
    assert log.read_text() == "said by the other\n"
    with log.open("ab") as out:
        assert subprocess.run([sys.executable, "-m", *command], stdout=out, stderr=out).returncode == 0
    assert "said by" not in log.read_text() and "Usage: mmerank" in log.read_text()


def test_a_cell_that_was_told_to_stop_has_not_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_cells, "_status", lambda *_: 130)
    assert run_cell(CELLS[0], folder) == "" and standing(CELLS[0], folder).state == "left"


def test_what_a_scheduler_is_told(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("slurm: {time: 12:00:00, nodes: 2}\nray: 3\n")
    assert taken_by_each(file, "slurm") == {"time": "12:00:00", "nodes": 2}, "and not 43200"
    with pytest.raises(UsageError, match="s.yaml: ray: expected OPTION: VALUE, got 3"):
        taken_by_each(file, "ray")


@pytest.mark.slow
def test_a_study_and_a_cell_are_killed(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    study.hold("hf_model")
    begun = study.starts("local")
    process, *_, name = study.held(begun)
    kill(begun.pid)
    until(lambda: not alive(process))  # it ends with who started it
    parts = study.parts(name)
    assert len(parts) >= 2
    study.hold("hf_model")
    begun = study.starts("local")
    process, *_ = study.held(begun)
    kill(process)
    (cell,) = study.ends(begun, status=1)
    assert cell["state"] == "failed" and "ended by signal 9" in cell["reason"]
    study.let_go()
    study.runs("local")
    assert parts < study.parts(name) and study.is_as_alone()


@pytest.mark.cluster
def test_a_grid(tmp_path: Path) -> None:
    study = grid(tmp_path)
    study.hold("perturb-hf_model")
    begun = study.starts("local")
    process, *_, name = study.held(begun)
    parts = study.parts(name)
    kill(begun.pid)
    until(lambda: not alive(process))
    study.let_go()
    assert [of["state"] for of in study.runs("local")] == ["done"] * 16
    assert parts <= study.parts(name) and study.is_as_alone()
