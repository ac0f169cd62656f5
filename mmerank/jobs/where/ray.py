"""Cells as tasks of a Ray cluster, each with what it takes of a node.

Ray starts a task again whose node, or whose process, was lost; it goes on with what is in the run folder.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mmerank.errors import SchedulerError, UsageError, did_you_mean, first_line
from mmerank.jobs.cells import Cell, beside, last_lines, run_cell, standing

ANSWER_S = 20.0
LEASE_S = 120  # until a shared disk lets go of the locks of a node that was lost
RETRIES = 3
# Of `ray.remote`; `address` is that of the cluster, as of `ray.init`.
_TAKEN = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "max_retries", "scheduling_strategy")
_KNOWN = ("address", *_TAKEN)
_AMOUNTS = ("num_cpus", "num_gpus", "memory", "max_retries")
# What of the environment here decides what a cell finds there.
_HANDED_ON = ("HF_", "MMERANK_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_NUM_THREADS", "PYTHONPATH")


class Ray:
    """A place for cells.

    Args:
        options: Of `ray.remote` and, as `address`, of `ray.init`. Memory is in bytes.
        said: Where they are said, for messages.

    Raises:
        UsageError: Ray is missing, or an option is not known or cannot be.
    """

    def __init__(self, options: Mapping[str, Any], *, said: str):
        try:
            import ray  # noqa: F401
        except ImportError:
            raise UsageError("--on ray needs Ray: pip install 'mmerank[ray]'") from None
        for name, value in options.items():
            if name not in _KNOWN:
                meant = did_you_mean(name, _KNOWN)
                raise UsageError(f"{said}: no option {name!r}{meant} (there are {', '.join(_KNOWN)})")
            if name == "address" and not isinstance(value, str):
                raise UsageError(f"{said}: address: expected HOST:PORT, got {value!r}")
            if name in _AMOUNTS and (not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0):
                raise UsageError(f"{said}: {name}: expected a number from 0, got {value!r}")
        self._address: str = options.get("address") or os.environ.get("RAY_ADDRESS") or "auto"
        self._taken = {"max_retries": RETRIES} | {key: value for key, value in options.items() if key in _TAKEN}

    def __call__(self, cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
        """Run what is not done, as much at a time as the cluster has room for.

        Args:
            cells: They.
            folder: Of the study.

        Yields:
            Each cell as it ends, and why it has no result.

        Raises:
            SchedulerError: There is no cluster, or it was lost.
        """
        folder = folder.resolve()
        left = [cell for cell in cells if standing(cell, folder).state != "done"]
        yield from ((cell, "") for cell in cells if cell not in left)
        if left:
            # Ray prints what became of nodes, up to its end, where results go.
            with redirect_stdout(sys.stderr):
                yield from self._as_tasks(left, folder)

    def _as_tasks(self, cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
        import ray

        try:
            _look_for(self._address)
            ray.init(address=self._address, log_to_driver=False, configure_logging=False)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            raise SchedulerError(
                f"no Ray cluster answers at {self._address!r} ({first_line(error)}); `ray start --head` starts one, "
                "RAY_ADDRESS or `address` says where another is"
            ) from None
        try:
            _tell_what_no_node_has(ray.nodes(), self._taken)
            task = ray.remote(max_calls=1, **self._taken)(_run)
            for cell in cells:
                beside(folder, cell, "failed").unlink(missing_ok=True)
            here = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
            waiting = {task.remote(cell, folder, Path.cwd(), here): cell for cell in cells}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done)
                try:
                    why = ray.get(done)
                except ray.exceptions.RayError as error:
                    why = f"Ray gave it up ({first_line(error)}){last_lines(beside(folder, cell, 'log'))}"
                yield cell, why
        except ray.exceptions.RaySystemError as error:
            raise SchedulerError(f"the Ray cluster was lost ({first_line(error)}); what is measured stays") from None
        finally:
            ray.shutdown()


def _look_for(address: str) -> None:
    """Ray itself asks an address where nothing is for a quarter of an hour."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


def _run(cell: Cell, folder: Path, directory: Path, environment: Mapping[str, str]) -> str:
    os.chdir(directory)  # what paths in the study file are relative to
    return run_cell(cell, folder, environment=environment, patience_s=LEASE_S)


def _tell_what_no_node_has(nodes: Sequence[Mapping[str, Any]], taken: Mapping[str, Any]) -> None:
    """A task that fits no node waits for one that does, for ever where none joins."""
    asked = {"CPU": taken.get("num_cpus", 1), "GPU": taken.get("num_gpus", 0), "memory": taken.get("memory", 0)}
    asked |= taken.get("resources") or {}
    has = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(of.get(name, 0) >= amount for name, amount in asked.items()) for of in has):
        wanted = ", ".join(f"{name} {amount:g}" for name, amount in asked.items() if amount)
        warnings.warn(f"no node of this Ray cluster has {wanted}: cells wait until one joins", stacklevel=2)
