"""Which of several processes this is, when a launcher (torchrun, accelerate launch, srun) started it with others."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from mmerank.errors import UsageError

# The variables that launchers set, each with its value where it is not set.
LAUNCHED = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
# Set by torchrun where its agents keep a store of torch.distributed, which outlives the processes.
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
# For a process that is started by one of several, and is not one of them.
ALONE = {"RANK": "0", "WORLD_SIZE": "1", AGENT_STORE: "False"}
INTERRUPTED = 130  # exit status of a command that was told to stop
TAKEN = 75  # of a cell of a study that another process is at
# Those of a step of Slurm (https://slurm.schedmd.com/srun.html). A batch script has SLURM_PROCID and SLURM_NTASKS as
# well, and is no task of a step.
_SLURM = {"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 1, "SLURM_LOCALID": 0}
_TASKS = "SLURM_STEP_TASKS_PER_NODE"  # of each node of the step, as in 4(x2),3


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that do a job together.

    Attributes:
        index: From 0; the first one says what came out.
        count: How many there are.
        local: Which one on its machine, from 0: the number of its GPU.
        beside: How many there are on its machine, itself included.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the first one."""
        return self.index == 0


def rank() -> Rank:
    """This process, by RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which launchers set, else by Slurm's step.

    Returns:
        Its place among the others; the only one where neither RANK and WORLD_SIZE nor SLURM_PROCID and
        SLURM_STEP_NUM_TASKS are set.

    Raises:
        UsageError: They are no numbers, or the first of two is not below the second.
    """
    if os.environ.get("RANK") and os.environ.get("WORLD_SIZE"):
        return _stated(LAUNCHED)
    if os.environ.get("SLURM_PROCID") and os.environ.get("SLURM_STEP_NUM_TASKS"):
        return replace(_stated(_SLURM), beside=_tasks_here())
    return Rank()


def by_slurm() -> bool:
    """Whether it is Slurm that says which process this is."""
    return rank().count > 1 and not (os.environ.get("RANK") and os.environ.get("WORLD_SIZE"))


def _stated(names: dict[str, int]) -> Rank:
    try:
        found = Rank(*(int(os.environ.get(name) or least) for name, least in names.items()))
    except ValueError:
        found = Rank(-1)
    if not 0 <= found.index < found.count or found.local < 0 or found.beside < 1:
        stated = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        index, count, *_ = names
        raise UsageError(f"{stated} in the environment: expected numbers, {index} below {count}")
    return found


def _tasks_here() -> int:
    """Tasks of Slurm's step on this node; 1 where it does not say."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get(_TASKS, "")):
        counts += [int(count)] * min(int(times or 1), 1 << 20)
    node = os.environ.get("SLURM_NODEID", "0")
    here = counts[int(node)] if node.isdecimal() and int(node) < len(counts) else 1
    return max(here, 1)
