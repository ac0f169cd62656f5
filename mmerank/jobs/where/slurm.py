"""Cells as jobs of Slurm, an array of them, through submitit.

What has become of a job is asked of `squeue`, which needs no accounting. Job numbers lie beside the cells, so whoever
starts the study again waits for the jobs that there are.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mmerank.durable import whole
from mmerank.errors import RunFolderError, SchedulerError, UsageError, did_you_mean, first_line
from mmerank.jobs.cells import CELLS, Cell, beside, last_lines, run_cell, standing

LOOK_S = 5.0
SILENCE_S = 600.0  # that a controller may take to come back
LEASE_S = 120  # until a shared disk lets go of the locks of a node that was lost
LONGEST_ARRAY = 1000  # what Slurm allows where nothing else is configured
TIMEOUTS = 10  # of a cell, each of which is continued
TRIES = 3  # of a cell that was preempted, or whose node was lost, and that Slurm did not requeue itself
_NUMBERS = ("nodes", "ntasks_per_node", "array_parallelism", "signal_delay_s")
_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
_ENDED += ("REVOKED", "TIMEOUT", "")
_TO_TRY_AGAIN = ("COMPLETED", "NODE_FAIL", "PREEMPTED")  # a task that was told to stop, and did, has completed
_USUAL = ("None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Prolog")
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Slurm:
    """A place for cells.

    Args:
        options: Of `sbatch`, as submitit names them (`gpus_per_node`); `time` is needed.
        said: Where they are said, for messages.

    Raises:
        UsageError: submitit is missing, or an option is not known or cannot be.
    """

    def __init__(self, options: Mapping[str, Any], *, said: str):
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise UsageError("--on slurm needs submitit: pip install 'mmerank[slurm]'") from None
        known = sorted(SlurmExecutor._valid_parameters())
        for name, value in options.items():
            if name not in known:
                raise UsageError(
                    f"{said}: no option {name!r}{did_you_mean(name, known)} (there are {', '.join(known)})"
                )
            if name in _NUMBERS and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"{said}: {name}: expected a number from 1, got {value!r}")
        if "time" not in options:
            raise UsageError(f"{said}: says no time, the longest that a job may take (minutes, or '8:00:00')")
        self._options = {"job_name": "mmerank", **options, "time": _minutes(options["time"], said)}

    def __call__(self, cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
        """Submit the cells that have no job, and wait for all.

        Args:
            cells: They.
            folder: Of the study.

        Yields:
            Each cell as it ends, and why it has no result.

        Raises:
            SchedulerError: Slurm does not answer, or refuses the jobs.
            RunFolderError: The folder cannot be written.
        """
        folder = folder.resolve()
        jobs = self._submitted(cells, folder)
        unseen: Counter[Cell] = Counter()
        tried: Counter[Cell] = Counter()
        told: set[tuple[str, str]] = set()
        for cell in cells:
            if cell not in jobs:
                yield cell, ""
        silent_since: float | None = None
        while jobs:
            time.sleep(LOOK_S)
            try:
                states, silent_since = _states(), None
            except SchedulerError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > SILENCE_S:
                    raise
                continue
            again = []
            for cell, job in list(jobs.items()):
                state = states.get(job, _State("", ""))
                if (now := standing(cell, folder).state) != "done":
                    if state.name not in _ENDED:
                        unseen[cell] = 0
                        _tell(job, state, told)
                        continue
                    unseen[cell] += 1
                    if unseen[cell] < 2:  # a shared disk may show late what a node has written
                        continue
                del jobs[cell]
                if now in ("begun", "left") and state.name in _TO_TRY_AGAIN and tried[cell] < TRIES:
                    again.append(cell)
                    continue
                yield cell, _why(job, state, cell, folder)
            tried.update(again)
            if again:
                jobs |= self._submitted(again, folder)

    def _submitted(self, cells: Sequence[Cell], folder: Path) -> dict[Cell, str]:
        """By cell that is not done, its job; submitted now where there is none."""
        try:
            with FileLock(folder / CELLS / ".slurm.lock"):
                states = _states()
                jobs: dict[Cell, str] = {}
                left = []
                for cell in cells:
                    if standing(cell, folder).state == "done":
                        continue
                    job = _job_of(cell, folder)
                    if job and states.get(job, _State("", "")).name not in _ENDED:
                        jobs[cell] = job
                    else:
                        left.append(cell)
                for start in range(0, len(left), LONGEST_ARRAY):
                    jobs |= self._submit(left[start : start + LONGEST_ARRAY], folder)
                return jobs
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written ({error.strerror or first_line(error)})") from error

    def _submit(self, cells: Sequence[Cell], folder: Path) -> dict[Cell, str]:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        with _as_from_outside():
            try:
                executor = SlurmExecutor(folder / CELLS / "slurm", max_num_timeout=TIMEOUTS)
                executor.update_parameters(**self._options)
                for cell in cells:
                    beside(folder, cell, "failed").unlink(missing_ok=True)
                with executor.batch():
                    found = [executor.submit(_Task(cell, folder)) for cell in cells]
            except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
                raise SchedulerError(f"Slurm takes no jobs: {first_line(error)}") from None
        jobs = {cell: str(job.job_id) for cell, job in zip(cells, found, strict=True)}
        for cell, job in jobs.items():
            with whole(beside(folder, cell, "job")) as unfinished:
                unfinished.write_text(f"{job}\n")
        return jobs


class _Task:
    """What each task of a job does; submitit has it start again from the beginning where its time was over."""

    def __init__(self, cell: Cell, folder: Path):
        self._cell, self._folder = cell, folder

    def __call__(self) -> str:
        return run_cell(self._cell, self._folder, together=True, patience_s=LEASE_S)

    def checkpoint(self) -> Any:
        """All is in the run folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class _State:
    name: str  # empty where Slurm does not know the job any more
    reason: str


def _states() -> dict[str, _State]:
    """By job number, the user's jobs, those that ended a moment ago included."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise SchedulerError(
            "--on slurm: there is no squeue here; start the study where sbatch and squeue are"
        ) from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"squeue ended with status {done.returncode}"
        raise SchedulerError(f"Slurm does not answer ({said}); jobs that run go on, and the same command finds them")
    lines = (line.split("|", 2) for line in done.stdout.splitlines())
    return {parts[0]: _State(parts[1], parts[2]) for parts in lines if len(parts) == 3}


def _job_of(cell: Cell, folder: Path) -> str:
    try:
        return beside(folder, cell, "job").read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _tell(job: str, state: _State, told: set[tuple[str, str]]) -> None:
    """Say once why a job waits, if it is not that others come first."""
    if state.name == "PENDING" and state.reason not in _USUAL and (job, state.reason) not in told:
        told.add((job, state.reason))
        warnings.warn(f"job {job} waits: {state.reason}", stacklevel=2)


def _why(job: str, state: _State, cell: Cell, folder: Path) -> str:
    how = f"ended as {state.name} ({state.reason})" if state.name else "is not known to Slurm any more"
    of_slurm = folder / CELLS / "slurm" / f"{job}_0_log.err"
    said = last_lines(beside(folder, cell, "log")) or last_lines(of_slurm)
    return f"job {job} {how}, without a result{said}"


def _minutes(stated: Any, said: str) -> int:
    """Minutes, of what sbatch takes as `--time`: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    text = str(stated)
    if re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text) and not isinstance(stated, bool):
        days, _, rest = text.rpartition("-")
        parts = [int(part) for part in rest.split(":")]
        hours, minutes, seconds = ([0, *parts, 0] if not days and len(parts) < 3 else [*parts, 0, 0])[:3]
        if total := (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0):
            return total
    raise UsageError(f"{said}: time: expected minutes, or 'H:M:S' or 'D-H:M:S' in quotes, got {stated!r}")


@contextmanager
def _as_from_outside() -> Iterator[None]:
    """Submit as from outside of a job: what Slurm or a launcher says of this process is not for its jobs."""
    own = [name for name in os.environ if name.startswith(("SLURM_", "SLURMD_", "SUBMITIT_")) or name in _LAUNCHED]
    kept = {name: os.environ.pop(name) for name in own if name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(kept)
