"""Cells of a study as tasks of a Ray cluster of several nodes, on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mmerank.errors import UsageError
from tests.conftest import LONGEST_S
from tests.places.studies import TINY, grid, kill, pair_of_cells, until

ray = pytest.importorskip("ray", reason="needs Ray, of the extra mmerank[ray]")
from ray.cluster_utils import Cluster  # noqa: E402

from mmerank.jobs.where.ray import Ray  # noqa: E402


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head, which runs nothing, and a node with room for one cell."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        running.add_node(num_cpus=1)
        yield running
    finally:
        running.shutdown()


def on(cluster: Cluster, **more: Any) -> dict[str, Any]:
    return {"ray": {"address": cluster.address, **more}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_gpu": 1}, "no option 'num_gpu'; did you mean num_gpus?"),
        ({"num_cpus": "all"}, "num_cpus: expected a number from 0, got 'all'"),
        ({"memory": -1}, "memory: expected a number from 0, got -1"),
        ({"num_gpus": True}, "num_gpus: expected a number from 0, got True"),
    ],
)
def test_what_tasks_may_take(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match="s.yaml: ray: ") as raised:
        Ray(options, said="s.yaml: ray")
    assert said in str(raised.value)


@pytest.mark.slow
def test_no_cluster(tmp_path: Path) -> None:
    begun = pair_of_cells(tmp_path, ray={"address": "127.0.0.1:9"}).starts("ray")
    said = begun.communicate(timeout=LONGEST_S)[1]
    assert begun.returncode == 1 and "error: no Ray cluster answers (" in said and "Traceback" not in said, said


@pytest.mark.slow
def test_numbers_are_those_of_one_process(tmp_path: Path, cluster: Cluster, golden_pairs: Path, golden: Path) -> None:
    cluster.add_node(num_cpus=1)
    pairs = f"llava:{golden_pairs}?images={golden}/images"
    here, there = grid(tmp_path / "a", pairs), grid(tmp_path / "b", pairs, **on(cluster))
    here.runs("local")
    assert [of["state"] for of in there.runs("ray")] == ["done"] * 16
    assert len(here.results()) == 16 and there.results() == here.results()


@pytest.mark.slow
def test_a_node_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    here = pair_of_cells(tmp_path / "here", models=TINY[:1])
    here.runs("local")
    study = pair_of_cells(tmp_path / "there", models=TINY[:1], **on(cluster))
    study.hold("hf_model")
    begun = study.starts("ray")
    process, parent, name = study.held(begun)
    parts = study.parts(name)
    assert len(parts) >= 2
    (node,) = cluster.worker_nodes
    cluster.add_node(num_cpus=1)
    cluster.remove_node(node, allow_graceful=False)
    for each in (process, parent):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    study.let_go()
    assert [of["state"] for of in study.ends(begun)] == ["done"]
    assert parts < study.parts(name), "what was measured stays"
    assert study.results() == here.results()


@pytest.mark.slow
def test_a_driver_and_a_cell_are_killed(tmp_path: Path, cluster: Cluster) -> None:
    here = pair_of_cells(tmp_path / "here", models=TINY[:1])
    here.runs("local")
    study = pair_of_cells(tmp_path / "there", models=TINY[:1], **on(cluster))
    study.hold("hf_model")
    begun = study.starts("ray")
    process, *_ = study.held(begun)
    os.kill(process, signal.SIGKILL)
    (cell,) = study.ends(begun, status=1)
    assert cell["state"] == "failed" and "ended by signal 9" in cell["reason"]
    study.hold("hf_model")
    begun = study.starts("ray")
    process, _, name = study.held(begun)
    kill(begun.pid)
    until(lambda: not Path(f"/proc/{process}").exists())  # it ends with the driver
    parts = study.parts(name)
    study.let_go()
    study.runs("ray")
    assert parts < study.parts(name) and study.results() == here.results()
