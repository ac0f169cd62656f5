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
from mmerank.commands.config import keys_of
from mmerank.commands.diff import diff
from mmerank.commands.encode import encode
from mmerank.commands.generate import generate
from mmerank.commands.groups import with_groups
from mmerank.commands.perturb import perturb
from mmerank.commands.results import check_writable, write_json
from mmerank.commands.score import score
from mmerank.errors import MmerankError, UsageError

_JOBS: dict[str, Callable[..., None]] = {
    command.__name__: command for command in (align, perturb, diff, encode, generate, score)
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
        bool, typer.Option("--dry-run", help="Check all, say what would run, and run nothing.")
    ] = False,
    json_file: options.Json = None,
    debug: options.Debug = False,
) -> None:
    """A grid of runs from one file: models, data and jobs.

    Each cell is a run folder; `mmerank report DIR` reads them all. What is done stays, what failed is tried again.
    The same command on several GPUs or nodes at once shares the cells.
    """
    from rich.console import Console

    from mmerank.jobs.cells import no_longer, standing, write_cells
    from mmerank.jobs.study import read_study, run_study
    from mmerank.report.terminal.study import study_table

    check_writable(json_file)
    commands = {job: _command(job) for job in _JOBS}
    known = {job: list(keys_of(command)) for job, command in commands.items()}
    cells = read_study(study, known)
    folder = _folder(out or study.with_suffix(""))
    arguments = {job: next(name for name in _ARGUMENTS if name in names) for job, names in known.items()}
    for cell in cells:
        _check(study, cell, commands[cell.job], arguments[cell.job])
    place = _place(on, study)
    ended: dict[Any, Any] = {}
    if not dry_run:
        write_cells(cells, folder, arguments)
        with Console(stderr=True).status(f"{len(cells)} to do") as status:
            for done in run_study(cells, folder, place):
                ended[done.cell] = done
                _tell(done, len(ended), len(cells))
                status.update(f"{len(ended)} of {len(cells)}; {done.state}: {done.cell.name}")
    found = [standing(cell, folder) for cell in cells]
    # On a full disk the reason of a failure may be known to this process alone.
    found = [ended.get(of.cell, of) if of.state in ("begun", "left") else of for of in found]
    _say(found, folder, json_file, study_table(found, folder, no_longer(cells, folder)))
    if not dry_run:
        _end(found)


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


def _say(found: list[Any], folder: Path, json_file: str | None, table: Any) -> None:
    from rich.console import Console

    cells = [{**of.cell.asked(), "state": of.state, "reason": of.reason} for of in found]
    if not (json_file and write_json({"folder": str(folder), "cells": cells}, json_file)):
        Console().print(table)


def _end(found: list[Any]) -> None:
    if any(of.state not in ("done", "running") for of in found):
        raise typer.Exit(1)


def _command(job: str) -> Any:
    """What typer makes of a job's command."""
    app = typer.Typer(add_completion=False)
    app.command(job)(with_groups(_JOBS[job]))
    return typer.main.get_command(app)


def _check(study: Path, cell: Any, command: Any, argument: str) -> None:
    """Refuse a cell as its command would, before any of them runs."""
    from tempfile import TemporaryDirectory

    import yaml

    with TemporaryDirectory() as there:
        file = Path(there) / "cell.yaml"
        content = {"command": cell.job, argument: cell.model, "data": cell.data, **cell.options}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            command.make_context(cell.job, ["--config", str(file)])
        except MmerankError as error:
            said = str(error).replace(f"--config {file}", f"{study}: {cell.job}")
            raise UsageError(said) from None
        except Exception as error:  # of click, whose classes typer has in one place or another
            if not hasattr(error, "format_message"):
                raise
            raise UsageError(f"{study}: {cell.job} of {cell.model}: {error.format_message()}") from None
