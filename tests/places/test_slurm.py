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

from mmerank.errors import UsageError
from tests.conftest import LONGEST_S
from tests.places.slurm import Cluster, started
from tests.places.studies import TINY, Study, alive, grid, kill, pair_of_cells, until

pytest.importorskip("submitit", reason="needs submitit, of the extra mmerank[slurm]")
from mmerank.jobs.where.slurm import Slurm, _minutes

EACH: dict[str, Any] = {"time": 30, "cpus_per_task": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path has a limit
    try:
        running = started(folder)
        yield running
        running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The two cells of the other tests, without a scheduler."""
    study = pair_of_cells(tmp_path_factory.mktemp("alone"))
    study.runs("local")
    results = study.results()
    assert len(results) == 2
    return results


def same(study: Study, alone: dict[str, Any]) -> bool:
    """Whether what came out is what came out without a scheduler."""
    found = study.results()
    return len(found) > 0 and all(alone[name] == of for name, of in found.items())


@pytest.fixture
def study(tmp_path: Path, cluster: Cluster) -> Study:
    return pair_of_cells(tmp_path, cluster.environment, models=TINY[:1], slurm=EACH)


@pytest.fixture
def pair(tmp_path: Path, cluster: Cluster) -> Study:
    return pair_of_cells(tmp_path, cluster.environment, slurm=EACH)


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
def test_numbers_are_those_of_one_process(tmp_path: Path, cluster: Cluster, golden_pairs: Path, golden: Path) -> None:
    pairs = f"llava:{golden_pairs}?images={golden}/images"
    here, there = grid(tmp_path / "a", pairs), grid(tmp_path / "b", pairs, cluster.environment, slurm=EACH)
    here.runs("local")
    assert [of["state"] for of in there.runs("slurm")] == ["done"] * 16
    assert len(here.results()) == 16 and there.results() == here.results()
    before = cluster.jobs()
    there.runs("slurm")
    assert cluster.jobs().keys() <= before.keys(), "what is done needs no job"


@pytest.mark.slow
def test_who_starts_the_study_again_waits_for_its_jobs(pair: Study, cluster: Cluster, alone: dict[str, Any]) -> None:
    pair.hold("hf_model")
    first = pair.starts("slurm")
    pair.held(first)
    kill(first.pid)
    jobs = cluster.jobs()
    second = pair.starts("slurm")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(8)
    assert cluster.jobs().keys() == jobs.keys(), "nothing is submitted twice"
    pair.let_go()
    assert [of["state"] for of in pair.ends(second)] == ["done", "done"]
    assert pair.results() == alone


@pytest.mark.slow
def test_a_requeued_cell_goes_on_where_it_was(study: Study, cluster: Cluster, alone: dict[str, Any]) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    process, _, name = study.held(begun)
    parts = study.parts(name)
    assert len(parts) >= 2
    job = (study.folder / "s/cells" / f"{name}.job").read_text().strip()
    assert cluster.says("scontrol", "requeue", job) == "" and cluster.jobs()[job] != ""
    until(lambda: not alive(process))
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"]
    assert parts < study.parts(name), "what was measured stays"
    assert same(study, alone)


@pytest.mark.slow
def test_the_time_of_a_job_ends(study: Study, cluster: Cluster, alone: dict[str, Any]) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    process, _, name = study.held(begun)
    job = (study.folder / "s/cells" / f"{name}.job").read_text().strip()
    cluster.says("scancel", "--signal=USR2", job)  # as Slurm sends it ahead of the end
    until(lambda: not alive(process))
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"]
    assert same(study, alone)


@pytest.mark.slow
def test_a_cell_that_is_killed_is_failed_and_tried_again(pair: Study, alone: dict[str, Any]) -> None:
    pair.hold("hf_model")
    begun = pair.starts("slurm")
    process, *_ = pair.held(begun)
    os.kill(process, signal.SIGKILL)
    first, second = pair.ends(begun, status=1)
    assert first["state"] == "failed" and "ended by signal 9" in first["reason"] and second["state"] == "done"
    pair.let_go()
    pair.runs("slurm")
    assert pair.results() == alone


@pytest.mark.slow
def test_a_job_that_ends_without_a_result(study: Study, cluster: Cluster, alone: dict[str, Any]) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    *_, name = study.held(begun)
    job = (study.folder / "s/cells" / f"{name}.job").read_text().strip()
    cluster.says("scancel", job)
    (cell,) = study.ends(begun, status=1)
    assert cell["state"] == "failed" and f"job {job} ended as CANCELLED" in cell["reason"]
    assert "its last lines: " in cell["reason"]
    study.let_go()
    study.runs("slurm")
    assert same(study, alone)


@pytest.mark.slow
def test_a_node_is_lost(study: Study, cluster: Cluster, alone: dict[str, Any]) -> None:
    study.hold("hf_model")
    begun = study.starts("slurm")
    process, parent, name = study.held(begun)
    job = (study.folder / "s/cells" / f"{name}.job").read_text().strip()
    node = cluster.says("squeue", "--noheader", "--format=%N", f"--jobs={job}")
    parts = study.parts(name)
    cluster.kill(node)
    for each in [process, *cluster_processes(parent)]:
        kill(each)
    try:
        study.let_go()
        assert [of["state"] for of in study.ends(begun)] == ["done"]
        assert parts < study.parts(name) and same(study, alone)
    finally:
        cluster.start()


def cluster_processes(process: int) -> list[int]:
    """A task and all that keeps it, up to Slurm's own."""
    found = []
    while process > 1:
        found.append(process)
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return found


@pytest.mark.slow
def test_a_cell_on_several_processes(tmp_path: Path, cluster: Cluster, alone: dict[str, Any]) -> None:
    each = {**EACH, "nodes": 2, "ntasks_per_node": 1}
    study = pair_of_cells(tmp_path, cluster.environment, models=TINY[:1], slurm=each)
    assert [of["state"] for of in study.runs("slurm")] == ["done"]
    assert same(study, alone)
    (name,) = study.results()
    assert {part.split("-")[1] for part in study.parts(name)} <= {"0", "1"}, "parts of two processes, or of one"
    assert (study.folder / "s/cells" / f"{name}.1.log").exists()


@pytest.mark.slow
def test_tasks_of_a_plain_step_share_the_work(tmp_path: Path, cluster: Cluster, alone: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "mmerank", "align", TINY[0], "--data", "demo", "--limit", "8", "--device", "cpu"]
    command += ["--out", str(tmp_path / "run"), "--json", "-"]
    done = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", *command],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        env={**os.environ, **cluster.environment},
    )
    assert done.returncode == 0, done.stderr
    (expected,) = (summary["results"] for name, (summary, _) in alone.items() if "hf_model" in name)
    assert json.loads(done.stdout)["results"] == expected, "the first says it, once"


@pytest.mark.slow
def test_no_scheduler(tmp_path: Path, cluster: Cluster) -> None:
    study = pair_of_cells(tmp_path / "a", cluster.environment, slurm={**EACH, "partition": "none"})
    said = study.starts("slurm").communicate(timeout=LONGEST_S)[1]
    assert "error: Slurm takes no jobs: " in said and "partition" in said and "Traceback" not in said
    dead = tmp_path / "slurm.conf"
    conf = (cluster.folder / "slurm.conf").read_text()
    port = next(line for line in conf.splitlines() if line.startswith("SlurmctldPort"))
    dead.write_text(conf.replace(port, "SlurmctldPort=9"))
    for environment, reason in (
        ({"SLURM_CONF": str(dead)}, "error: Slurm does not answer ("),
        ({"PATH": ""}, "error: --on slurm: there is no squeue here"),
    ):
        study = pair_of_cells(tmp_path / "b", environment, slurm=EACH)
        begun = study.starts("slurm")
        said = begun.communicate(timeout=LONGEST_S)[1]
        assert begun.returncode == 1 and reason in said and "Traceback" not in said, said
