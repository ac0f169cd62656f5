"""Which of several processes this is, when a launcher (torchrun, accelerate launch) has started it with others."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mmerank.errors import UsageError


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that do a job together.

    Attributes:
        index: From 0; the first one says what came out.
        count: How many there are.
        local: Which one on its machine, from 0: the number of its GPU.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether it is the first one."""
        return self.index == 0


def rank() -> Rank:
    """This process, by RANK, WORLD_SIZE and LOCAL_RANK, which launchers set; the only one where they are not set.

    Returns:
        Its place among the others.

    Raises:
        UsageError: They are no numbers, or RANK is not below WORLD_SIZE.
    """
    if not os.environ.get("RANK") or not os.environ.get("WORLD_SIZE"):
        return Rank()
    try:
        found = Rank(*(int(os.environ.get(name) or 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except ValueError:
        found = Rank(-1)
    if not 0 <= found.index < found.count or found.local < 0:
        stated = ", ".join(f"{name}={os.environ.get(name)}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        raise UsageError(f"{stated} in the environment: expected numbers, RANK below WORLD_SIZE")
    return found
