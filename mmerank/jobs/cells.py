"""The cells of a study, and what lies of each in its folder: the run, what was asked for, what it said."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mmerank.durable import own_folder, whole
from mmerank.errors import RunFolderError, first_line
from mmerank.processes import ALONE, INTERRUPTED, PACE, TAKEN, TOO_LARGE, rank
from mmerank.runs.cache import folder_name
from mmerank.runs.settings import SUMMARY

CELLS = "cells"  # beside the run folders: what each was asked for, and what it said
LAST_LINES = 3
NO_RESULT: tuple[Literal["failed", "skipped"], ...] = ("failed", "skipped")
WRITING_S = 60.0  # until a cell that is told to stop has written what it measured
Measured = Literal["done", "running", "begun", "left"]
State = Measured | Literal["failed", "skipped"]
_ARGUMENTS = ("models", "model")  # what commands call their model


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        job: The command.
        model: MODEL argument.
        data: DATA argument.
        options: Of the command, by their names on the command line.
        varied: Those of them that tell it from others of its job, model and data, for its name.
    """

    job: str
    model: str
    data: str
    options: Mapping[str, Any]
    varied: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        """Of its run folder: readable, and another one for whatever is asked for otherwise."""
        known = json.dumps([self.job, self.model, self.data, self.options], sort_keys=True, default=str)
        apart = [_readable(str(self.options[key]).replace("?", "-")) for key in self.varied]
        readable = "-".join([self.job, _readable(self.model), _readable(self.data), *apart])
        return f"{readable}-{hashlib.sha256(known.encode()).hexdigest()[:6]}"

    def asked(self) -> dict[str, Any]:
        """Job, model, data and options, for tables and JSON."""
        return {"job": self.job, "model": self.model, "data": self.data, "options": dict(self.options)}


@dataclass(frozen=True)
class Standing:
    """What has become of a cell: its state (`running` is one that another study is at), and why it has no result.

    `skipped` is one whose model does not fit in the device's memory.
    """

    cell: Cell
    state: State
    reason: str = ""


def standing(cell: Cell, folder: Path) -> Standing:
    """What has become of a cell.

    Args:
        cell: It.
        folder: Of the study.

    Returns:
        `done` with a summary, `running` where a process is at it, `failed` and `skipped` with what was said, `begun`
        where there are records.

    Raises:
        RunFolderError: The file system has no locks.
    """
    there = measured(cell.name, folder)
    if there in ("begun", "left"):
        for state in NO_RESULT:
            if (why := beside(folder, cell, state)).is_file():
                return Standing(cell, state, why.read_text(encoding="utf-8", errors="replace").strip())
    return Standing(cell, there)


def measured(name: str, folder: Path) -> Measured:
    """What there is of a cell's run folder.

    Args:
        name: Of the cell.
        folder: Of the study.

    Returns:
        `done` with a summary, `running` where a process is at it, `begun` where there are records, or `left`.

    Raises:
        RunFolderError: The file system has no locks.
    """
    if (folder / name / SUMMARY).is_file():
        return "done"
    if is_taken(folder, name):
        return "running"
    return "begun" if (folder / name).is_dir() else "left"


def ended(cell: Cell, folder: Path, why: str) -> Standing:
    """What has become of a cell that came to an end.

    Args:
        cell: It.
        folder: Of the study.
        why: It has no result; what it said itself comes first.

    Returns:
        As of `standing`; `failed` instead of `begun` and `left` where there is a reason.
    """
    found = standing(cell, folder)
    if not why or found.state not in ("begun", "left"):
        return found
    _note(cell, folder, why, "failed")
    return Standing(cell, "failed", why)


def run_cell(
    cell: Cell, folder: Path, *, environment: Mapping[str, str] = {}, together: bool = False, patience_s: int = 0
) -> str:
    """Run a cell that is not done and that no process is at, in a process of its own, until it ends.

    The process ends with this one, and has the cell to itself as long as it lives.

    Args:
        cell: It.
        folder: Of the study, where the cell's file lies.
        environment: Variables of the process, beside those of this one.
        together: Whether the tasks that a launcher started with this one are at the same cell; else each has its own.
        patience_s: How long to wait for a process that has the cell, as one of a node that was just lost.

    Returns:
        Why it failed, which is also written beside the cell; nothing where it did not, or was interrupted.
    """
    if (folder / cell.name / SUMMARY).is_file() or (not patience_s and is_taken(folder, cell.name)):
        return ""
    if rank().count > 1 and not together:
        environment = {**ALONE, **environment}
    own = f"{rank().index}.log" if together and not rank().leads else "log"
    command = [sys.executable, "-m", "mmerank.jobs.where.process", str(os.getpid()), str(patience_s)]
    command += [str(_lock(folder, cell.name)), cell.job, "--config", str(beside(folder, cell, "yaml"))]
    command += ["--out", str(folder / cell.name)]
    environment = {PACE: str(beside(folder, cell, "pace").resolve()), **environment}
    state: Literal["failed", "skipped"] = "failed"
    try:
        for name in NO_RESULT:
            beside(folder, cell, name).unlink(missing_ok=True)
        with beside(folder, cell, own).open("ab") as log:
            status = _status(command, log, {**os.environ, **environment})
        why = "" if status in (0, INTERRUPTED, TAKEN) else _said(Path(log.name), status)
        state = "skipped" if status == TOO_LARGE else "failed"
    except OSError as error:  # a full disk
        why = f"{folder}: {error.strerror or first_line(error)}"
    if why:
        _note(cell, folder, why, state)
    return why


def _status(command: list[str], log: Any, environment: Mapping[str, str]) -> int:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as child:
        try:
            return child.wait()
        except BaseException:  # whoever ends this process ends the cell, which has what it measured to write
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(WRITING_S)
            child.kill()
            raise


def _note(cell: Cell, folder: Path, why: str, state: Literal["failed", "skipped"]) -> None:
    with suppress(OSError), whole(beside(folder, cell, state)) as unfinished:
        unfinished.write_text(why + "\n", encoding="utf-8")


def write_cells(cells: list[Cell], folder: Path, argument: Mapping[str, str]) -> None:
    """Write what `--config` takes, for each cell.

    Args:
        cells: They.
        folder: Of the study; made where it is missing.
        argument: By job, what the command calls its model.

    Raises:
        RunFolderError: The folder cannot be written, as on a full disk.
    """
    import yaml

    try:
        own_folder(folder / CELLS)
        for cell in cells:
            content = {"command": cell.job, argument[cell.job]: cell.model, "data": cell.data, **cell.options}
            with whole(beside(folder, cell, "yaml")) as unfinished:
                unfinished.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def read_cell(file: Path) -> dict[str, Any]:
    """What a cell was asked for, from the file that `write_cells` wrote.

    Args:
        file: It.

    Returns:
        As `Cell.asked` has it; empty where it cannot be read.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        job, data = content.pop("command"), content.pop("data")
        model = next(content.pop(key) for key in _ARGUMENTS if key in content)
    except (OSError, ValueError, AttributeError, LookupError, StopIteration, yaml.YAMLError):
        return {}
    return {"job": job, "model": model, "data": data, "options": content}


def last_lines(log: Path) -> str:
    """How a log ends, in one line; nothing where there is none.

    Args:
        log: Any file.

    Returns:
        `; its last lines: ...`.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    said = " / ".join([line.strip() for line in lines if line.strip()][-LAST_LINES:])
    return f"; its last lines: {said}" if said else ""


def beside(folder: Path, cell: Cell, kind: str) -> Path:
    """A file of a cell.

    Args:
        folder: Of the study.
        cell: The cell.
        kind: `yaml`, what was asked for; `log`; `failed` or `skipped`, why; `job`, the number that a scheduler gave
            it; `pace`, how long it took.

    Returns:
        The file, which may not be there.
    """
    return folder / CELLS / f"{cell.name}.{kind}"


def _lock(folder: Path, name: str) -> Path:
    return folder / CELLS / f".{name}.lock"


def is_taken(folder: Path, name: str) -> bool:
    """Whether a process is at a cell; one that dies lets go.

    Args:
        folder: Of the study.
        name: Of the cell.

    Returns:
        Whether its lock is held.

    Raises:
        RunFolderError: The file system has no locks.
    """
    if not _lock(folder, name).exists():
        return False
    lock = FileLock(_lock(folder, name))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) == errno.EROFS:  # which no process can write to
            return False
        raise RunFolderError(f"{folder}: cannot be locked ({first_line(error)})") from None
    lock.release()
    return False


def _said(log: Path, status: int) -> str:
    """The error that a command ended with, as it said it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
    with log.open("a", encoding="utf-8") as out:  # on a full disk this fails too, and that is the reason
        out.write(f"{how}\n")
    return f"{how}; {log} has what it said"


def _readable(argument: str) -> str:
    return folder_name(argument).rsplit("-", 1)[0][:40]
