"""A study: models x data sets x jobs from one file, each cell a run folder, resumed until all of them are done."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mmerank.durable import own_folder, whole
from mmerank.errors import RunFolderError, UsageError, did_you_mean, first_line
from mmerank.files import regular_bytes
from mmerank.processes import rank
from mmerank.runs.cache import folder_name
from mmerank.runs.settings import SUMMARY

JOBS = ("align", "perturb", "diff", "encode", "generate", "score")
CELLS = "cells"  # beside the run folders: what each was asked for, and what it said
State = Literal["done", "failed", "running", "begun", "left"]


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

    @property
    def name(self) -> str:
        """Of its run folder: readable, and another one for whatever is asked for otherwise."""
        known = json.dumps([self.job, self.model, self.data, self.options], sort_keys=True, default=str)
        apart = [_readable(str(self.options[key])) for key in self.varied]
        readable = "-".join([self.job, _readable(self.model), _readable(self.data), *apart])
        return f"{readable}-{hashlib.sha256(known.encode()).hexdigest()[:6]}"

    def asked(self) -> dict[str, Any]:
        """Job, model, data and options, for tables and JSON."""
        return {"job": self.job, "model": self.model, "data": self.data, "options": dict(self.options)}


@dataclass(frozen=True)
class Standing:
    """What has become of a cell: its state (`running` is one that another study is at), and why it failed."""

    cell: Cell
    state: State
    reason: str = ""


def read_study(path: Path, known: Mapping[str, Collection[str]]) -> list[Cell]:
    """The cells of a study file.

    `models` and `data` are lists, of which each job takes all; `jobs` a list of `JOB` or `JOB: {OPTION: VALUE}`, with
    `models` and `data` of its own where it measures others, and `each: {OPTION: [VALUE, ...]}` for a run with each
    value. A model may be `{model: NAME, OPTION: VALUE}`. What else stands in the file is an option of every job that
    has it.

    Args:
        path: YAML.
        known: By job, the options that it has.

    Returns:
        Each cell once, in the order of the file.

    Raises:
        UsageError: The file cannot be read, or says what is not understood.
    """
    content = _content(path)
    jobs = _list(path, content, "jobs")
    common = {key: value for key, value in content.items() if key not in ("models", "data", "jobs")}
    names = {name for job in known.values() for name in job}
    for key in common:
        if str(key) not in names:
            raise UsageError(
                f"{path}: no job has {key!r}{did_you_mean(str(key), [*names, 'models', 'data', 'jobs'])}"
            )
    found: dict[str, Cell] = {}
    for entry in jobs:
        job, stated = _job(path, entry)
        own = {**content, **stated}
        options = {key: value for key, value in common.items() if key in known[job]}
        options |= {key: value for key, value in stated.items() if key not in ("models", "data", "each")}
        for model, data in product(_list(path, own, "models"), _list(path, own, "data")):
            name, of_model = _model(path, model)
            for one in _each(path, job, stated.get("each", {})):
                cell = Cell(job, name, str(data), {**options, **of_model, **one}, tuple(one))
                found.setdefault(cell.name, cell)
    return list(found.values())


def standing(cell: Cell, folder: Path) -> Standing:
    """What has become of a cell.

    Args:
        cell: It.
        folder: Of the study.

    Returns:
        `done` with a summary, `failed` with what was said, `begun` where there are records.
    """
    failed = folder / CELLS / f"{cell.name}.failed"
    if (folder / cell.name / SUMMARY).is_file():
        return Standing(cell, "done")
    if failed.is_file():
        return Standing(cell, "failed", failed.read_text(encoding="utf-8", errors="replace").strip())
    return Standing(cell, "begun" if (folder / cell.name).is_dir() else "left")


def run_study(cells: list[Cell], folder: Path) -> Iterator[Standing]:
    """Run what is not done, one cell after the other, each in a process of its own; one that fails stops no other.

    Several studies in one folder, on as many GPUs or nodes, share the cells: none runs one that another is at.

    Args:
        cells: Those of the study, whose files lie in the folder already (`write_cells`).
        folder: Of the study.

    Yields:
        What became of each cell; `running` where another study is at it.

    Raises:
        RunFolderError: The file system has no locks.
    """
    for cell in cells:
        with _taken(folder, cell) as taken:
            if taken and standing(cell, folder).state != "done":
                _run(cell, folder)
            found = standing(cell, folder) if taken else Standing(cell, "running")
        yield found


def _run(cell: Cell, folder: Path) -> None:
    failed = folder / CELLS / f"{cell.name}.failed"
    failed.unlink(missing_ok=True)
    # Of several tasks that a launcher started, each runs cells of its own.
    alone = {"RANK": "0", "WORLD_SIZE": "1"} if rank().count > 1 else {}
    with (folder / CELLS / f"{cell.name}.log").open("wb") as log:
        command = [sys.executable, "-m", "mmerank", cell.job, "--config", str(_file(folder, cell))]
        command += ["--out", str(folder / cell.name)]
        done = subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **alone})
    if done.returncode:
        with whole(failed) as unfinished:
            unfinished.write_text(_said(Path(log.name), done.returncode) + "\n", encoding="utf-8")


def write_cells(cells: list[Cell], folder: Path, argument: Mapping[str, str]) -> None:
    """Write what `--config` takes, for each cell.

    Args:
        cells: They.
        folder: Of the study; made where it is missing.
        argument: By job, what the command calls its model.
    """
    import yaml

    own_folder(folder / CELLS)
    for cell in cells:
        content = {"command": cell.job, argument[cell.job]: cell.model, "data": cell.data, **cell.options}
        with whole(_file(folder, cell)) as unfinished:
            unfinished.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def no_longer(cells: list[Cell], folder: Path) -> list[str]:
    """Run folders of an earlier form of the study file: they stay, and are not part of it.

    Args:
        cells: Those of the study now.
        folder: Of the study.

    Returns:
        Their names.
    """
    known = {cell.name for cell in cells}
    there = sorted(path.stem for path in (folder / CELLS).glob("*.yaml")) if folder.is_dir() else []
    return [name for name in there if name not in known and (folder / name).is_dir()]


def _file(folder: Path, cell: Cell) -> Path:
    return folder / CELLS / f"{cell.name}.yaml"


@contextmanager
def _taken(folder: Path, cell: Cell) -> Iterator[bool]:
    """Have a cell for this process alone while the block runs, if no other has it; a process that dies lets go."""
    lock = FileLock(folder / CELLS / f".{cell.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise RunFolderError(f"{folder}: cannot be locked ({first_line(error)})") from None
    try:
        yield True
    finally:
        lock.release()


def _said(log: Path, status: int) -> str:
    """The error that a command ended with, as it said it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"{how}; {log} has what it said"


def _readable(argument: str) -> str:
    return folder_name(argument).rsplit("-", 1)[0][:40]


def _content(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(regular_bytes(path).decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # what int(), float() and others raise comes through, and RecursionError
        raise UsageError(f"{path}: not valid YAML ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected keys, among them models, data and jobs, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _list(path: Path, content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: {key}: expected a list of at least one, got {value!r}")
    return entries


def _job(path: Path, entry: Any) -> tuple[str, dict[str, Any]]:
    name, stated = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
    if name not in JOBS:
        meant = did_you_mean(str(name), JOBS) if isinstance(name, str) else ""
        raise UsageError(
            f"{path}: jobs: expected one of {', '.join(JOBS)}, or one with its options, got {name!r}{meant}"
        )
    stated = {} if stated is None else stated
    if not isinstance(stated, dict):
        raise UsageError(f"{path}: jobs: {name}: expected OPTION: VALUE, got {stated!r}")
    return name, {str(key): value for key, value in stated.items()}


def _model(path: Path, entry: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, dict) and isinstance(entry.get("model"), str):
        return entry["model"], {str(key): value for key, value in entry.items() if key != "model"}
    if not isinstance(entry, str):
        raise UsageError(f"{path}: models: expected a MODEL or {{model: MODEL, OPTION: VALUE}}, got {entry!r}")
    return entry, {}


def _each(path: Path, job: str, stated: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(stated, dict) or not all(isinstance(of, list) and of for of in stated.values()):
        raise UsageError(f"{path}: jobs: {job}: each: expected OPTION: [VALUE, ...], got {stated!r}")
    for values in product(*stated.values()):
        yield dict(zip(map(str, stated), values, strict=True))
