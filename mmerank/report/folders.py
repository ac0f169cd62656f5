"""Which run folders a person means who names some folders."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from mmerank.errors import RunFolderError, did_you_mean
from mmerank.runs.answers import STATED as SCORED
from mmerank.runs.fetched import fetched_runs, is_on_hub
from mmerank.runs.settings import SUMMARY

SETTINGS = "run.json"
_NAMED = 8


def run_folders(folders: Iterable[str | Path]) -> list[Path]:
    """The run folders that are named, and those in folders of run folders, as `mmerank demo` or a study makes one.

    Of a folder of runs, one that was begun and has nothing to report yet, as a cell that failed, is left out with a
    warning.

    Args:
        folders: Of either kind; or `hub:OWNER/NAME[/RUN][@REVISION]`, which is fetched.

    Returns:
        Run folders, in the order given, those of one folder by name.

    Raises:
        RunFolderError: One is neither, or cannot be fetched.
        TypeError: Something else than a path is among them.
    """
    if isinstance(folders, (str, Path)) or not isinstance(folders, Iterable):
        raise TypeError(f"expected a list of run folders, got {type(folders).__name__}; what --out was given is one")
    found: list[Path] = []
    for folder in folders:
        if not isinstance(folder, (str, Path)):
            raise TypeError(
                f"expected paths of run folders, got {type(folder).__name__} among them; a result is kept in one by "
                "out=FOLDER, and results in memory are compared by mmerank.compare"
            )
        found += fetched_runs(folder) if is_on_hub(folder) else _runs_of(Path(folder))
    return found


def _not_yet(folder: Path) -> str:
    """Why a run that is not finished cannot be reported; empty if it can."""
    from mmerank.analysis.finished import read_runs

    try:
        read_runs([folder])
    except RunFolderError as error:
        return str(error)
    return ""


def _runs_of(folder: Path) -> list[Path]:
    if (folder / SETTINGS).is_file():
        return [folder]
    if not folder.is_dir():
        what = "a file, not a run folder" if folder.exists() else f"no such folder{_meant(folder)}"
        raise RunFolderError(f"{folder}: {what}; name what --out was given")
    if within := sorted(path.parent for path in folder.glob(f"*/{SETTINGS}") if path.is_file()):
        left_out = {path: why for path in within if not (path / SUMMARY).exists() and (why := _not_yet(path))}
        if len(left_out) < len(within):
            for why in left_out.values():
                warnings.warn(f"left out, since it is not finished: {why}", stacklevel=3)
            return [path for path in within if path not in left_out]
        return within
    if (folder / SCORED).is_file():
        raise RunFolderError(
            f"{folder}: scores on a benchmark; mmerank report RUN... --scores {folder} sets runs beside"
        )
    deeper = sorted({path.parent.parent for path in islice(folder.glob(f"*/*/{SETTINGS}"), 1000)})
    named = f"; there are some in {', '.join(map(str, deeper[:_NAMED]))}" if deeper else ""
    raise RunFolderError(
        f"{folder}: not a run folder (no {SETTINGS}), and none is in it{named}; name what --out was given"
    )


def _meant(folder: Path) -> str:
    try:
        return did_you_mean(folder.name, [path.name for path in folder.parent.iterdir() if path.is_dir()])
    except OSError:
        return ""
