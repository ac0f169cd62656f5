"""Which of several processes this is, when a launcher (torchrun, accelerate launch) has started it with others."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mmerank.errors import UsageError

# The variables that launchers set, each with its value where it is not set.
LAUNCHED = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}


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
    """This process, by RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which launchers set.

    Returns:
        Its place among the others; the only one where RANK or WORLD_SIZE is not set.

    Raises:
        UsageError: They are no numbers, or RANK is not below WORLD_SIZE.
    """
    if not os.environ.get("RANK") or not os.environ.get("WORLD_SIZE"):
        return Rank()
    try:
        found = Rank(*(int(os.environ.get(name) or least) for name, least in LAUNCHED.items()))
    except ValueError:
        found = Rank(-1)
    if not 0 <= found.index < found.count or found.local < 0 or found.beside < 1:
        stated = ", ".join(f"{name}={os.environ.get(name)}" for name in LAUNCHED)
        raise UsageError(f"{stated} in the environment: expected numbers, RANK below WORLD_SIZE")
    return found
