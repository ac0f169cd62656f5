"""A study: models x data sets x jobs from one file, each cell a run folder, resumed until all of them are done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mmerank.errors import UsageError, did_you_mean, first_line
from mmerank.jobs.cells import Cell, Standing, ended
from mmerank.yaml_files import yaml_file

# What the file says elsewhere, or the study does itself: no options of a cell.
_NO_OPTIONS = {
    **dict.fromkeys(("model", "models"), "models stand in the list `models`, of the file or of a job"),
    "data": "data stand in the list `data`, of the file or of a job",
    "revision": "it stands with a model, {model: NAME, revision: NAME}, or behind its name, NAME@REVISION",
    "each": "stands in a job, as OPTION: [VALUE, ...]",
    "command": "the command of a cell is its job",
    **dict.fromkeys(("out", "json", "config"), "each cell is a run folder in that of the study"),
}
_ANCHORS = "x-"  # begins a key of the file that is a place for anchors alone
PLACES = ("slurm", "ray")  # keys of the file that say what each cell takes there
# Takes cells and the folder of the study; gives each cell as it ends, and why, where it has left no word itself.
Place = Callable[[Sequence[Cell], Path], Iterator[tuple[Cell, str]]]


def read_study(path: Path, known: Mapping[str, Collection[str]]) -> list[Cell]:
    """The cells of a study file.

    `models` and `data` are lists, of which each job takes all; `jobs` a list of `JOB` or `JOB: {OPTION: VALUE}`, with
    `models` and `data` of its own where it measures others, and `each: {OPTION: [VALUE, ...]}` for a run with each
    value. A model may be `{model: NAME, OPTION: VALUE}`, with `revision` among them. What else stands in the file is
    an option of every job that has it, but for keys that begin with `x-`, which are a place for anchors.

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
    apart = ("models", "data", "jobs", *PLACES)
    common = {key: of for key, of in content.items() if key not in apart and not key.startswith(_ANCHORS)}
    names = {name for job in known.values() for name in job}
    for key in common:
        if str(key) not in names:
            meant = did_you_mean(str(key), [*names, *apart])
            if isinstance(common[key], (dict, list)):
                meant = meant or f"; what only has anchors begins with {_ANCHORS}"
            raise UsageError(f"{path}: no job has {key!r}{meant}")
    found: dict[str, Cell] = {}
    for entry in jobs:
        job, stated = _job(path, entry, known)
        own = {**content, **stated}
        options = {key: value for key, value in common.items() if key in known[job]}
        options |= {key: value for key, value in stated.items() if key not in ("models", "data", "each")}
        for model, data in product(_list(path, own, "models"), _list(path, own, "data")):
            name, of_model = _model(path, model)
            for one in _each(path, job, stated.get("each", {})):
                _check_free(path, job, {**options, **of_model, **one})
                cell = Cell(job, name, str(data), {**options, **of_model, **one}, tuple(one))
                found.setdefault(cell.name, cell)
    return list(found.values())


def taken_by_each(path: Path, place: str) -> dict[str, Any]:
    """What a study file says that each cell takes of a scheduler.

    Args:
        path: YAML.
        place: `slurm` or `ray`: the key.

    Returns:
        Options of the scheduler; empty where nothing is said.

    Raises:
        UsageError: The file cannot be read, or the key holds no options.
    """
    options = _content(path).get(place) or {}
    if not isinstance(options, dict):
        raise UsageError(f"{path}: {place}: expected OPTION: VALUE, got {options!r}")
    return {str(key): value for key, value in options.items()}


def run_study(cells: Sequence[Cell], folder: Path, place: Place) -> Iterator[Standing]:
    """Run what is not done; a cell that fails stops no other.

    Several studies in one folder, on as many GPUs or nodes, share the cells: none runs one that another is at.

    Args:
        cells: Those of the study, whose files lie in the folder already (`write_cells`).
        folder: Of the study.
        place: Where they run: a function of one of the files in `mmerank.jobs.where`.

    Yields:
        What became of each cell, in the order in which they end; `running` where another study is at it.

    Raises:
        RunFolderError: The file system has no locks, or is full.
        SchedulerError: What runs the cells does not answer.
    """
    for cell, why in place(cells, folder):
        yield ended(cell, folder, why)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml_file(path, words=True)
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
    if isinstance(value, dict) and value:
        raise UsageError(f"{path}: {key}: expected a list, got keys; put a - in front of each")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: {key}: expected a list of at least one, got {value!r}")
    return entries


def _job(path: Path, entry: Any, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    name, stated = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
    if name not in known:
        meant = did_you_mean(str(name), known) if isinstance(name, str) else ""
        raise UsageError(
            f"{path}: jobs: expected one of {', '.join(known)}, or one with its options, got {name!r}{meant}"
        )
    stated = {} if stated is None else stated
    if not isinstance(stated, dict):
        raise UsageError(f"{path}: jobs: {name}: expected OPTION: VALUE, got {stated!r}")
    return name, {str(key): value for key, value in stated.items()}


def _model(path: Path, entry: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, dict) and isinstance(entry.get("model"), str):
        options = {str(key): value for key, value in entry.items() if key != "model"}
        revision = options.pop("revision", None)
        if isinstance(revision, (bool, dict, list)):
            raise UsageError(f"{path}: models: {entry['model']}: revision: expected one, as text, got {revision!r}")
        return entry["model"] if revision is None else f"{entry['model']}@{revision}", options
    if not isinstance(entry, str):
        raise UsageError(f"{path}: models: expected a MODEL or {{model: MODEL, OPTION: VALUE}}, got {entry!r}")
    return entry, {}


def _check_free(path: Path, job: str, options: Mapping[str, Any]) -> None:
    for key in options:
        if key in _NO_OPTIONS:
            raise UsageError(f"{path}: {job}: {key} is no option here: {_NO_OPTIONS[key]}; leave it out")


def _each(path: Path, job: str, stated: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(stated, dict) or not all(isinstance(of, list) and of for of in stated.values()):
        raise UsageError(f"{path}: jobs: {job}: each: expected OPTION: [VALUE, ...], got {stated!r}")
    for values in product(*stated.values()):
        yield dict(zip(map(str, stated), values, strict=True))
