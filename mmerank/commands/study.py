"""`mmerank study`."""

from __future__ import annotations

from collections.abc import Callable
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
    "align": align,
    "perturb": perturb,
    "diff": diff,
    "encode": encode,
    "generate": generate,
    "score": score,
}
_ARGUMENTS = ("models", "model")


def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The grid.", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the runs lie; default: a folder beside the file, of its name."),
    ] = None,
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

    from mmerank.jobs.study import no_longer, read_study, run_study, standing, write_cells
    from mmerank.report.terminal.study import study_table

    check_writable(json_file)
    commands = {job: _command(job) for job in _JOBS}
    known = {job: list(keys_of(command)) for job, command in commands.items()}
    cells = read_study(study, known)
    folder = _folder(out or study.with_suffix(""))
    arguments = {job: next(name for name in _ARGUMENTS if name in names) for job, names in known.items()}
    for cell in cells:
        _check(study, cell, commands[cell.job], arguments[cell.job])
    found = [standing(cell, folder) for cell in cells]
    if not dry_run:
        write_cells(cells, folder, arguments)
        found = []
        with Console(stderr=True).status("") as status:
            status.update(f"{len(found) + 1} of {len(cells)}: {cells[0].name}")
            for done in run_study(cells, folder):
                found.append(done)
                if len(found) < len(cells):
                    status.update(f"{len(found) + 1} of {len(cells)}: {cells[len(found)].name}")
        for i, of in enumerate(found):  # others have gone on meanwhile
            if of.state == "running" and (now := standing(of.cell, folder)).state in ("done", "failed"):
                found[i] = now
    _say(found, folder, json_file, study_table(found, folder, no_longer(cells, folder)))
    if not dry_run:
        _end(found)


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file, not the folder of a study")
    return path


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
