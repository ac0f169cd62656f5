"""One run on two nodes that torchrun starts: two network namespaces, on a disk without locks."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmerank import align, load, load_data
from mmerank.jobs.align import Alignment
from tests.conftest import NO_LOCKS
from tests.places.studies import LIMIT_S, ROOT, TINY, alive, kill, until

COUNT = 24
ADDRESSES = ("10.77.0.2", "10.77.0.1")  # where nodes join later, ranks go by address
# Run by every Python here: no lock can be had, parts are written at once, and the first process of the node that a
# file names stops in the middle of a share, for ever, and leaves it as it is when it is told to end.
_HELD = f"""{NO_LOCKS}
import os, sys, time
from pathlib import Path
there = Path(os.environ["MMERANK_TEST_HOLD"])
if "mmerank" in sys.orig_argv and "RANK" in os.environ and "torch.distributed.run" not in sys.orig_argv:
    import signal
    from mmerank.engine import collect
    from mmerank.runs import launch
    launch.LOST_S = float(os.environ["MMERANK_TEST_LOST_S"])
    collect.PART_SECONDS = -1.0
    (there / ("begun-" + str(os.getpid()))).write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])
    add, added = collect._Parts.add, []
    def held(self, records):
        if len(added) == 3 and (there / ("hold-" + os.environ["GROUP_RANK"])).exists():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            (there / "held").write_text(str(os.getpid()))
            while True:
                time.sleep(1)
        added.append(None)
        add(self, records)
    collect._Parts.add = held
"""


@pytest.fixture(scope="module")
def nodes(nothing_left: None) -> Iterator[tuple[str, str]]:
    """Names of two namespaces that reach each other, and nothing else."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip (Debian: iproute2), to make two networks")
    names = tuple(f"mmerank-{os.getpid()}-{i}" for i in range(2))
    ends = [f"v{i}-{os.getpid()}" for i in range(2)]
    commands = [f"netns add {name}" for name in names]
    commands += [f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}"]
    for name, end, address in zip(names, ends, ADDRESSES, strict=True):
        commands += [f"-n {name} addr add {address}/24 dev {end}"]
        commands += [f"-n {name} link set {device} up" for device in (end, "lo")]
    try:
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"needs root, to make two networks: {done.stderr.strip()}")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(scope="module")
def alone() -> Alignment:
    return align(load(TINY[0], device="cpu"), load_data("demo"), limit=COUNT)


class Run:
    """A run of both nodes in a folder."""

    def __init__(self, folder: Path, nodes: Sequence[str], *, lost_s: float):
        self.folder, self.nodes = folder, nodes
        paths = [folder / "site", ROOT, ROOT / "adapters"]
        self.environment = {
            "MMERANK_TEST_HOLD": str(folder),
            "MMERANK_TEST_LOST_S": str(lost_s),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
        }
        paths[0].mkdir()
        (paths[0] / "sitecustomize.py").write_text(_HELD)

    def starts(self, node: int, *how: str) -> subprocess.Popen[str]:
        """torchrun on one node."""
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--monitor-interval", "0.1", *how]
        command += ["-m", "mmerank", "align", TINY[0], "--data", "demo", "--limit", str(COUNT), "--device", "cpu"]
        command += ["--out", str(self.folder / "run"), "--json", "-"]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.nodes[node], sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )

    def hold(self, node: int) -> None:
        """Have the first process of a node stop in the middle of a share."""
        (self.folder / f"hold-{node}").touch()

    def held(self, begun: subprocess.Popen[str]) -> int:
        """Wait until it does; it. Those that are started in its place go on."""
        until(lambda: (self.folder / "held").exists() or begun.poll() is not None)
        assert begun.poll() is None, begun.communicate()
        for hold in self.folder.glob("hold-*"):
            hold.unlink()
        return int((self.folder / "held").read_text())

    def parts(self) -> dict[str, int]:
        """Names of parts, and how many records each has."""
        found = (self.folder / "run/records").glob("*.parquet")
        return {path.name: pq.read_metadata(path).num_rows for path in found}

    def restarts(self) -> list[str]:
        """How many of them torchrun told each process of."""
        return sorted(path.read_text() for path in self.folder.glob("begun-*"))

    def is_as_alone(self, alone: Alignment) -> bool:
        """Whether the result is that of one process to the last bit, and no lock of the disk was asked for."""
        assert not (self.folder / "run/.locks").exists()
        stated = json.loads((self.folder / "run/summary.json").read_text())["results"]
        return bool(stated == [json.loads(json.dumps(alone.to_dict()))])


def ends(*begun: subprocess.Popen[str]) -> list[str]:
    said = [each.communicate(timeout=LIMIT_S) for each in begun]
    assert [each.returncode for each in begun] == [0] * len(begun), "\n".join(errors for _, errors in said)
    return [out for out, _ in said]


def static(node: int, *more: str) -> list[str]:
    return [*f"--nnodes 2 --node-rank {node} --master-addr {ADDRESSES[0]} --master-port 29512".split(), *more]


def elastic(node: int) -> list[str]:
    where = f"--rdzv-backend c10d --rdzv-endpoint {ADDRESSES[0]}:29512 --rdzv-id run --local-addr {ADDRESSES[node]}"
    return f"--nnodes 1:2 {where} --rdzv-conf last_call_timeout=1,is_host={1 - node}".split()


@pytest.mark.long
def test_nodes_share_the_work_on_a_disk_without_locks(
    tmp_path: Path, nodes: tuple[str, str], alone: Alignment
) -> None:
    run = Run(tmp_path, nodes, lost_s=math.inf)
    first, second = ends(*[run.starts(node, *static(node)) for node in (0, 1)])
    assert json.loads(first)["results"] == [json.loads(json.dumps(alone.to_dict()))] and not second
    assert run.is_as_alone(alone)
    assert sum(run.parts().values()) == len(alone.records), "nothing is measured twice"


@pytest.mark.cluster
def test_a_process_is_killed_and_started_again(tmp_path: Path, nodes: tuple[str, str], alone: Alignment) -> None:
    """In the same store; the agents count restarts each for itself."""
    run = Run(tmp_path, nodes, lost_s=math.inf)
    run.hold(1)
    begun = [run.starts(node, *static(node, "--max-restarts", "1")) for node in (0, 1)]
    process, kept = run.held(begun[1]), run.parts()
    kill(process)
    ends(*begun)
    assert run.restarts() == ["0", "0", "1"]
    assert kept.items() < run.parts().items(), "what was measured stays"
    assert run.is_as_alone(alone)
    assert sum(run.parts().values()) == len(alone.records), "nothing is measured twice"


@pytest.mark.cluster
def test_a_node_is_lost(tmp_path: Path, nodes: tuple[str, str], alone: Alignment) -> None:
    run = Run(tmp_path, nodes, lost_s=8)
    run.hold(1)
    begun = [run.starts(node, *static(node)) for node in (0, 1)]
    process, kept = run.held(begun[1]), run.parts()
    kill(begun[1].pid)
    kill(process)
    until(lambda: (tmp_path / "run/summary.json").exists())
    kill(begun[0].pid)  # which waits for the other
    assert kept.items() < run.parts().items() and run.is_as_alone(alone)


@pytest.mark.cluster
def test_a_node_joins(tmp_path: Path, nodes: tuple[str, str], alone: Alignment) -> None:
    """torchrun starts all anew and counts no restart; who was killed seems to hold its share, and has another rank.

    The new node leads and has a store of its own, so that some examples may be measured by both; a new node that does
    not lead finds no store and ends the run, as of torch 2.14.
    """
    run = Run(tmp_path, nodes, lost_s=8)
    run.hold(0)
    first = run.starts(0, *elastic(0))
    process, kept = run.held(first), run.parts()
    said = ends(first, run.starts(1, *elastic(1)))
    assert not alive(process) and run.restarts() == ["0"] * 3
    assert not said[0] and json.loads(said[1]), "the first of them says it, once"
    assert kept.items() < run.parts().items() and run.is_as_alone(alone)
