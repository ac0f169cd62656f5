"""A Slurm of two nodes on this machine, in a folder of its own, on ports that are free."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.places.studies import LIMIT_S, alive, until

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol", "scancel", "sinfo")
_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=15
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=5
KillWait=5
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """What is running of it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        for name, command in (
            ("slurmctld", ["slurmctld", "-f", self.environment["SLURM_CONF"]]),
            *((node, ["slurmd", "-N", node, "-f", self.environment["SLURM_CONF"]]) for node in ("n1", "n2")),
        ):
            if not self.process(name):
                environment = {**os.environ, **self.environment}
                subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S, env=environment)
                until(partial(self.process, name))
        until(lambda: self.says("sinfo", "--noheader", "--format=%T").split() == ["idle"])

    def process(self, name: str) -> int:
        """`slurmctld`, or a node's slurmd; 0 where there is none."""
        with suppress(OSError, ValueError):
            number = int((self.folder / f"{name}.pid").read_text())
            return number if alive(number) else 0
        return 0

    def kill(self, name: str) -> None:
        number = self.process(name)
        os.kill(number, signal.SIGKILL)
        until(lambda: not alive(number))

    def lose_the_node_of(self, job: str) -> None:
        """Kill what of Slurm is on the node of a job, and all jobs there, before any of it can say that it ended."""
        node = self.says("squeue", "--noheader", "--format=%N", f"--jobs={job}")
        self.kill(node)
        jobs = self.says("squeue", "--noheader", f"--nodelist={node}", "--states=running", "--format=%A").split()
        lost: set[int] = set()
        while more := set(_processes_of(jobs, self.environment["SLURM_CONF"])) - lost:
            for process in more:
                os.kill(process, signal.SIGSTOP)
            lost |= more
        for process in lost:
            os.kill(process, signal.SIGKILL)
        until(lambda: not any(map(alive, lost)))

    def empty(self) -> None:
        """Of jobs."""
        self.says("scancel", "--user=root")
        until(lambda: not self.says("squeue", "--noheader"))

    def says(self, *command: str) -> str:
        """What a command of Slurm puts out; empty where it fails."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, **self.environment}
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> dict[str, str]:
        """By number, states of those that there are or were."""
        lines = self.says("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)


def _processes_of(jobs: Sequence[str], conf: str) -> Iterator[int]:
    """Those of jobs, and Slurm's own that keep them."""
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            number = int(process.name)
            said = {*(process / "environ").read_text().split("\0")}
            if f"SLURM_CONF={conf}" in said and any(f"SLURM_JOB_ID={job}" in said for job in jobs):
                yield number
                parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if Path(f"/proc/{parent}/cmdline").read_text().startswith("slurmstepd"):
                    yield parent


def started(folder: Path) -> Cluster:
    """Start one, or skip the test that asks for it."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"needs Slurm (Debian: slurm-wlm, munge); there is no {', '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("needs root, as whom Slurm starts jobs")
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(_CONF.format(folder=folder, ports=_free_ports(3)))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    paths: dict[str, str | Path] = {
        "key-file": key,
        "socket": "munge.sock",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
    }
    options = [f"--{name}={folder / path}" for name, path in {**paths, "seed-file": "seed"}.items()]
    done = subprocess.run(["munged", "--force", *options], capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        pytest.skip(f"munged does not start: {done.stderr}")
    cluster = Cluster(folder)
    cluster.start()
    return cluster


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
