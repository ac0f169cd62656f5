"""Cells of a study as jobs of a real Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmerank import align, load, load_data
from mmerank.errors import SchedulerError, UsageError
from mmerank.jobs.cells import Cell
from tests.places.slurm import Cluster, started
from tests.places.studies import JOBS, LIMIT_S, TINY, Study, alive, grid, kill, results, study_of, until

pytest.importorskip("submitit", reason="needs submitit, of the extra mmerank[slurm]")
from mmerank.jobs.where.slurm import Slurm, _minutes

EACH: dict[str, Any] = {"time": 30, "cpus_per_task": 1}


@pytest.fixture(scope="module")
def _running(nothing_left: None) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path has a limit
    try:
        yield started(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(_running: Cluster) -> Iterator[Cluster]:
    yield _running
    _running.empty()


@pytest.fixture
def study(tmp_path: Path, cluster: Cluster) -> Study:
    return study_of(tmp_path, cluster.environment, slurm=EACH)


def job_of(study: Study, name: str) -> str:
    return (study.folder / "s/cells" / f"{name}.job").read_text().strip()


def test_what_jobs_may_take() -> None:
    for options, said in (
        ({}, "says no time"),
        ({"time": 10, "partitoin": "x"}, "no option 'partitoin'; did you mean partition?"),
        ({"time": 10, "nodes": "two"}, "nodes: expected a number from 1, got 'two'"),
        ({"time": "soon"}, "time: expected minutes, or 'H:M:S'"),
        ({"time": 0}, "time: expected minutes"),
        ({"time": True}, "time: expected minutes"),
    ):
        with pytest.raises(UsageError, match="s.yaml: slurm: ") as raised:
            Slurm(options, said="s.yaml: slurm")
        assert said in str(raised.value)


@pytest.mark.parametrize(
    ("stated", "minutes"),
    [(90, 90), ("90", 90), ("30:00", 30), ("8:00:00", 480), ("0:00:01", 1), ("1-0", 1440), ("2-3:04", 3064)],
)
def test_times_of_slurm(stated: Any, minutes: int) -> None:
    assert _minutes(stated, "") == minutes


@pytest.mark.slow
def test_numbers_are_those_of_one_process_though_the_command_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    study = study_of(tmp_path, cluster.environment, slurm=EACH, models=TINY, jobs=JOBS)
    study.hold("align-hf_model")
    first = study.starts("slurm")
    study.held(first)
    kill(first.pid)
    jobs = cluster.jobs()
    second = study.starts("slurm")
    until(lambda: len(list((tmp_path / "s").glob("*/summary.json"))) == 2)
    study.let_go()
    assert [of["state"] for of in study.ends(second)] == ["done"] * 3
    assert cluster.jobs().keys() <= jobs.keys() and len(jobs) == 3, "nothing is submitted twice"
    assert study.is_as_alone()


def test_no_scheduler(tmp_path: Path, _running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(**more: Any) -> str:
        (tmp_path / "cells").mkdir(exist_ok=True)
        with pytest.raises(SchedulerError) as raised:
            list(Slurm({**EACH, **more}, said="")([Cell("align", "m", "d", {})], tmp_path))
        return str(raised.value)

    monkeypatch.setenv("SLURM_CONF", _running.environment["SLURM_CONF"])
    refused = said(partition="none")
    assert refused.startswith("Slurm takes no jobs: ") and "partition" in refused
    conf = (_running.folder / "slurm.conf").read_text()
    port = next(line for line in conf.splitlines() if line.startswith("SlurmctldPort"))
    (tmp_path / "slurm.conf").write_text(conf.replace(port, "SlurmctldPort=9"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert said().startswith("Slurm does not answer (")
    monkeypatch.setenv("PATH", "")
    assert said().startswith("--on slurm: there is no squeue here")


@pytest.mark.cluster
def test_a_grid_though_the_driver_and_a_node_are_killed(tmp_path: Path, cluster: Cluster) -> None:
    study = grid(tmp_path, cluster.environment, slurm=EACH)
    study.hold("perturb-hf_model")
    begun = study.starts("slurm")
    *_, name = study.held(begun)
    parts = study.parts(name)
    kill(begun.pid)
    begun = study.starts("slurm")
    cluster.lose_the_node_of(job_of(study, name))
    study.let_go()
    cluster.start()
    assert [of["state"] for of in study.ends(begun)] == ["done"] * 16
    assert parts <= study.parts(name) and study.is_as_alone()


@pytest.mark.cluster
def test_a_requeued_cell_goes_on_where_it_was(study: Study, cluster: Cluster) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    process, _, name = study.held(begun)
    parts = study.parts(name)
    assert len(parts) >= 2
    job = job_of(study, name)
    assert cluster.says("scontrol", "requeue", job) == "" and cluster.jobs()[job] != ""
    until(lambda: not alive(process))
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"]
    assert parts < study.parts(name), "what was measured stays"
    assert study.is_as_alone()


@pytest.mark.cluster
def test_the_time_of_a_job_ends(study: Study, cluster: Cluster) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    process, _, name = study.held(begun)
    job = job_of(study, name)
    cluster.says("scancel", "--signal=USR2", job)  # as Slurm sends it ahead of the end
    until(lambda: not alive(process))
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"]
    assert study.is_as_alone()


@pytest.mark.cluster
def test_a_cell_that_is_killed_is_failed_and_tried_again(study: Study) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    process, *_ = study.held(begun)
    os.kill(process, signal.SIGKILL)
    (cell,) = study.ends(begun, status=1)
    assert cell["state"] == "failed" and "ended by signal 9" in cell["reason"]
    study.let_go()
    study.runs("slurm")
    assert study.is_as_alone()


@pytest.mark.cluster
def test_a_job_that_ends_without_a_result(study: Study, cluster: Cluster) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    *_, name = study.held(begun)
    job = job_of(study, name)
    cluster.says("scancel", job)
    (cell,) = study.ends(begun, status=1)
    assert cell["state"] == "failed" and f"job {job} ended as CANCELLED" in cell["reason"]
    assert "its last lines: " in cell["reason"]
    study.let_go()
    study.runs("slurm")
    assert study.is_as_alone()


@pytest.mark.cluster
def test_a_node_is_lost(study: Study, cluster: Cluster) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    *_, name = study.held(begun)
    parts = study.parts(name)
    cluster.lose_the_node_of(job_of(study, name))
    try:
        study.let_go()
        assert [of["state"] for of in study.ends(begun)] == ["done"]
        assert parts < study.parts(name) and study.is_as_alone()
    finally:
        cluster.start()


@pytest.mark.cluster
def test_a_cell_on_several_processes(tmp_path: Path, cluster: Cluster) -> None:
    each = {**EACH, "nodes": 2, "ntasks_per_node": 1}
    study = study_of(tmp_path, cluster.environment, slurm=each)
    assert [of["state"] for of in study.runs("slurm")] == ["done"]
    assert study.is_as_alone()
    (name,) = results(tmp_path / "s")
    assert {part.split("-")[1] for part in study.parts(name)} <= {"0", "1"}, "parts of two processes, or of one"
    assert (study.folder / "s/cells" / f"{name}.1.log").exists()


@pytest.mark.cluster
def test_tasks_of_a_plain_step_share_the_work(tmp_path: Path, cluster: Cluster) -> None:
    command = [sys.executable, "-m", "mmerank", "align", TINY[0], "--data", "demo", "--limit", "8", "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), "--json", "-"]
    done = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", *command],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **cluster.environment},
    )
    assert done.returncode == 0, done.stderr
    alone = align(load(TINY[0], device="cpu"), load_data("demo"), limit=8)
    assert json.loads(done.stdout)["results"] == [json.loads(json.dumps(alone.to_dict()))], "the first says it, once"
