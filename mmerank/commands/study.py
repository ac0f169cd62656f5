"""`mmerank study`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmerank.commands import options
from mmerank.commands.align import align
from mmerank.commands.cell import Checks
from mmerank.commands.config import keys_of
from mmerank.commands.diff import diff
from mmerank.commands.encode import encode
from mmerank.commands.generate import generate
from mmerank.commands.groups import with_groups
from mmerank.commands.parsing import Command
from mmerank.commands.perturb import perturb
from mmerank.commands.prune_study import prune_study
from mmerank.commands.results import check_writable, write_json
from mmerank.commands.score import score
from mmerank.errors import UsageError

_JOBS: dict[str, Callable[..., None]] = {
    command.__name__.replace("_", "-"): command
    for command in (align, perturb, diff, encode, generate, prune_study, score)
}
_ARGUMENTS = ("models", "model")


class On(StrEnum):
    """Where cells run."""

    local = "local"
    gpus = "gpus"
    slurm = "slurm"
    ray = "ray"


def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The grid.", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the runs lie; default: a folder beside the file, of its name."),
    ] = None,
    on: Annotated[
        On,
        typer.Option(
            help="Where cells run: one after the other here, one on each GPU here, as jobs of Slurm, or as tasks of "
            "Ray. What each takes there stands in the file, under `slurm:` or `ray:`."
        ),
    ] = On.local,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check all, and say what would run, what it would download, what memory, disk and time it would "
            "take; run nothing.",
        ),
    ] = False,
    set_aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="Move runs that are no longer in the file to DIR-earlier, where no report of DIR reads them.",
        ),
    ] = False,
    json_file: options.Json = None,
    debug: options.Debug = False,
) -> None:
    """A grid of runs from one file: models, data and jobs.

    Each cell is a run folder; `mmerank report DIR` reads them all. What is done stays, what failed is tried again.
    The same command on several GPUs or nodes at once shares the cells.
    """
    from rich.console import Console

    from mmerank.jobs import edited
    from mmerank.jobs.cells import standing, write_cells
    from mmerank.jobs.study import read_study, run_study
    from mmerank.report.terminal.study import edits_text

    check_writable(json_file)
    commands = {job: _command(job) for job in _JOBS}
    known = {job: list(keys_of(command)) for job, command in commands.items()}
    cells = read_study(study, known)
    folder = _folder(out or study.with_suffix(""))
    arguments = {job: next(name for name in _ARGUMENTS if name in names) for job, names in known.items()}
    checks = Checks(study, commands, arguments)
    missing = {cell: why for cell in cells if (why := checks.check(cell))}
    place = _place(on, study)
    changes, back = edited.edits(cells, folder), edited.to_take_back(cells, folder)
    said = edits_text(changes, back, folder, edited.earlier_folder(folder), study=study, aside=set_aside)
    if said:
        print(said, file=sys.stderr, flush=True)
    if dry_run:
        found = [standing(cell, folder) for cell in cells]
        _say(found, folder, json_file, changes, _ahead(found, folder, on, missing))
        return
    edited.take_back(back, folder)
    if set_aside:
        edited.set_aside(changes, folder)
    write_cells(cells, folder, arguments)
    ended: dict[Any, Any] = {}
    with Console(stderr=True).status(f"{len(cells)} to do") as status:
        for done in run_study(cells, folder, place):
            ended[done.cell] = done
            _tell(done, len(ended), len(cells))
            status.update(f"{len(ended)} of {len(cells)}; {done.state}: {done.cell.name}")
    found = [standing(cell, folder) for cell in cells]
    # On a full disk the reason of a failure may be known to this process alone.
    found = [ended.get(of.cell, of) if of.state in ("begun", "left") else of for of in found]
    _say(found, folder, json_file, changes)
    _end(found)


def _ahead(found: list[Any], folder: Path, on: On, missing: dict[Any, str]) -> Any:
    from mmerank.commands.results import quiet
    from mmerank.jobs.ahead import ahead

    quiet()
    return ahead(found, folder, elsewhere=on in (On.slurm, On.ray), missing=missing)


def _place(on: On, study: Path) -> Any:
    """The function that runs cells there; what it needs is looked at before any of them runs."""
    from mmerank.jobs.study import taken_by_each

    if on == On.slurm:
        from mmerank.jobs.where.slurm import Slurm

        return Slurm(taken_by_each(study, "slurm"), said=f"{study}: slurm")
    if on == On.ray:
        from mmerank.jobs.where.ray import Ray

        return Ray(taken_by_each(study, "ray"), said=f"{study}: ray")
    from mmerank.jobs.where.local import one_a_gpu, one_by_one

    return one_a_gpu if on == On.gpus else one_by_one


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, not the folder of a study")
    return path


def _tell(done: Any, ended: int, cells: int) -> None:
    """A plain line for a cell that is through, for logs; a terminal has a line that moves."""
    if not sys.stderr.isatty():
        print(f"{ended} of {cells}: {done.state}: {done.cell.name}", file=sys.stderr, flush=True)


def _say(found: list[Any], folder: Path, json_file: str | None, changes: list[Any], ahead: Any = None) -> None:
    from rich.console import Console

    from mmerank.report.terminal.study import study_table

    cells = [{**of.cell.asked(), "state": of.state, "reason": of.reason} for of in found]
    content = {"folder": str(folder), "cells": cells, "edits": [edit.to_dict() for edit in changes]}
    if ahead is not None:
        content["ahead"] = ahead.to_dict()
    if not (json_file and write_json(content, json_file)):
        Console().print(study_table(found, folder, ahead))


def _end(found: list[Any]) -> None:
    if any(of.state not in ("done", "running") for of in found):
        raise typer.Exit(1)


def _command(job: str) -> Any:
    """What typer makes of a job's command."""
    app = typer.Typer(add_completion=False)
    app.command(job, cls=Command)(with_groups(_JOBS[job]))
    return typer.main.get_command(app)
