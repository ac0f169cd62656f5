"""Cells of a study as tasks of a Ray cluster of several nodes, on this machine."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mmerank.errors import SchedulerError, UsageError
from mmerank.jobs.cells import Cell
from tests.places.studies import grid, kill, study_of, until

ray = pytest.importorskip("ray", reason="needs Ray, of the extra mmerank[ray]")
from ray.cluster_utils import Cluster  # noqa: E402

from mmerank.jobs.where.ray import Ray  # noqa: E402


@pytest.fixture
def cluster(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head, which runs nothing, and a node with room for one cell."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    ours = signal.getsignal(signal.SIGTERM)  # which Ray replaces in this process, for good
    running = Cluster()
    try:
        joined(running, num_cpus=0, include_dashboard=False)
        joined(running)
        yield running
    finally:
        running.shutdown()
        signal.signal(signal.SIGTERM, ours)


def joined(cluster: Cluster, **more: Any) -> None:
    """Have one more node, or skip the test: Ray gives its own daemons half a minute, however slow the machine."""
    try:
        cluster.add_node(**{"num_cpus": 1, **more})
    except Exception as error:
        pytest.skip(f"Ray does not start here: {error}")


def on(cluster: Cluster, **more: Any) -> dict[str, Any]:
    return {"ray": {"address": cluster.address, **more}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_gpu": 1}, "no option 'num_gpu'; did you mean num_gpus?"),
        ({"num_cpus": "all"}, "num_cpus: expected a number from 0, got 'all'"),
        ({"memory": -1}, "memory: expected a number from 0, got -1"),
        ({"num_gpus": True}, "num_gpus: expected a number from 0, got True"),
        ({"address": 6379}, "address: expected HOST:PORT, got 6379"),
    ],
)
def test_what_tasks_may_take(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match="s.yaml: ray: ") as raised:
        Ray(options, said="s.yaml: ray")
    assert said in str(raised.value)


def test_no_cluster(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(SchedulerError, match=f"no Ray cluster answers at '{address}' .*refused"):
            list(Ray({"address": address}, said="")([Cell("align", "m", "d", {})], tmp_path))


@pytest.mark.slow
def test_numbers_are_those_of_one_process_though_a_node_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    study = study_of(tmp_path, **on(cluster))
    study.hold("hf_model")
    begun = study.starts("ray")
    process, parent, name = study.held(begun)
    parts = study.parts(name)
    assert len(parts) >= 2
    lose_the_node_of(cluster, process, parent)
    joined(cluster)
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"]
    assert parts < study.parts(name), "what was measured stays"
    assert study.is_as_alone()


@pytest.mark.cluster
def test_a_grid_though_the_driver_and_a_node_are_killed(tmp_path: Path, cluster: Cluster) -> None:
    joined(cluster)
    study = grid(tmp_path, **on(cluster))
    study.hold("perturb-hf_model")
    begun = study.starts("ray")
    process, *_, name = study.held(begun)
    parts = study.parts(name)
    kill(begun.pid)
    until(lambda: not Path(f"/proc/{process}").exists())
    study.hold("perturb-demo-minigpt")  # the last ones
    begun = study.starts("ray")
    lose_the_node_of(cluster, *study.held(begun)[:2])
    joined(cluster)
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"] * 16
    assert parts <= study.parts(name) and study.is_as_alone()


def lose_the_node_of(cluster: Cluster, process: int, parent: int) -> None:
    """Kill a node, with the process of a cell there and the task that started it."""
    of_ray = int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1])
    (node,) = [each for each in cluster.worker_nodes if of_ray in processes_of(each)]
    cluster.remove_node(node, allow_graceful=False)
    for each in (process, parent):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def processes_of(node: Any) -> set[int]:
    return {each.process.pid for kind in node.all_processes.values() for each in kind}


@pytest.mark.cluster
def test_a_driver_and_a_cell_are_killed(tmp_path: Path, cluster: Cluster) -> None:
    study = study_of(tmp_path, **on(cluster))
    study.hold("hf_model")
    begun = study.starts("ray")
    process, _, name = study.held(begun)
    parts = study.parts(name)
    assert len(parts) >= 2
    os.kill(process, signal.SIGKILL)
    (cell,) = study.ends(begun, status=1)
    assert cell["state"] == "failed" and "ended by signal 9" in cell["reason"]
    study.hold("hf_model")
    begun = study.starts("ray")
    process, *_ = study.held(begun)
    kill(begun.pid)
    until(lambda: not Path(f"/proc/{process}").exists())  # it ends with the driver
    study.let_go()
    study.runs("ray")
    assert parts < study.parts(name) and study.is_as_alone()
