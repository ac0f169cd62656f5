"""A study file that was edited since its folder was begun: what changed by cell, what stays, what is run anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mmerank.durable import own_folder
from mmerank.errors import RunFolderError
from mmerank.jobs.cells import CELLS, Cell, Measured, is_taken, measured, read_cell

ABSENT = "-"


@dataclass(frozen=True)
class Earlier:
    """A cell of an earlier form of the file, as its folder knows it.

    Attributes:
        name: Of its run folder.
        asked: Job, model, data and options, as `Cell.asked` has them; empty where its file cannot be read.
        state: What there is of it: `done`, `begun` (some of it measured), `left` (nothing), or `running`.
    """

    name: str
    asked: Mapping[str, Any]
    state: Measured


@dataclass(frozen=True)
class Edit:
    """What an edit of the file means for a cell: it is new, it is gone, or another stands in its place.

    Attributes:
        earlier: The cell that is no longer in the file, or None.
        now: The cell that is run anew, or None.
        changed: By option, what it was and is; `ABSENT` where it was not or is not stated.
    """

    earlier: Earlier | None
    now: Cell | None
    changed: Mapping[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "earlier": None
            if self.earlier is None
            else {"name": self.earlier.name, "state": self.earlier.state, **self.earlier.asked},
            "now": None if self.now is None else {"name": self.now.name, **self.now.asked()},
            "changed": {key: {"from": old, "to": new} for key, (old, new) in self.changed.items()},
        }


def edits(cells: Sequence[Cell], folder: Path) -> list[Edit]:
    """What an edited study file changed; before `write_cells`, which makes new cells known.

    A cell that is gone and a new one belong together where they measure the same model on the same data by the same
    job; of several such, those that differ in the fewest options.

    Args:
        cells: Those of the study now.
        folder: Of the study.

    Returns:
        Changed, new and gone cells, in this order; none where the folder is new or the file is as it was.

    Raises:
        RunFolderError: The file system has no locks.
    """
    known = {path.stem: path for path in sorted((folder / CELLS).glob("*.yaml"))}
    if not known:
        return []
    current = {cell.name for cell in cells}
    gone = [_earlier(path, folder) for name, path in known.items() if name not in current]
    new = [cell for cell in cells if cell.name not in known]
    pairs = [(old, cell, _changed(old, cell)) for old, cell in product(gone, new) if _same(old, cell)]
    found: list[Edit] = []
    for old, cell, changed in sorted(pairs, key=lambda pair: len(pair[2])):
        if old in gone and cell in new:
            found.append(Edit(old, cell, changed))
            gone.remove(old)
            new.remove(cell)
    return [*found, *(Edit(None, cell, {}) for cell in new), *(Edit(old, None, {}) for old in gone)]


def set_aside(found: Sequence[Edit], folder: Path) -> list[str]:
    """Move what is no longer in the file to a folder of its own, so that no report takes it for part of the study.

    Args:
        found: From `edits`.
        folder: Of the study.

    Returns:
        Names of the run folders that were moved; one that a process is at stays.

    Raises:
        RunFolderError: It cannot be moved.
    """
    moved = []
    for old in (edit.earlier for edit in found if edit.earlier is not None):
        if old.state != "running":
            _move(old.name, folder, earlier_folder(folder))
            moved += [old.name] if old.state != "left" else []
    return moved


def to_take_back(cells: Sequence[Cell], folder: Path) -> list[str]:
    """Cells that are in the file again and were set aside.

    Args:
        cells: Those of the study now.
        folder: Of the study.

    Returns:
        Names of their run folders.
    """
    there = earlier_folder(folder)
    return [cell.name for cell in cells if (there / cell.name).is_dir() and not (folder / cell.name).exists()]


def take_back(names: Sequence[str], folder: Path) -> None:
    """Bring back what was set aside.

    Args:
        names: From `to_take_back`.
        folder: Of the study.

    Raises:
        RunFolderError: It cannot be moved.
    """
    for name in names:
        _move(name, earlier_folder(folder), folder)


def earlier_folder(folder: Path) -> Path:
    """Where what was set aside lies: beside the study's folder, since what reads that reads all in it.

    Args:
        folder: Of the study.

    Returns:
        A folder that is laid out as that of a study.
    """
    there = folder if folder.name else folder.resolve()
    return there.with_name(f"{there.name}-earlier")


def _move(name: str, source: Path, target: Path) -> None:
    try:
        own_folder(target / CELLS)
        for file in sorted((source / CELLS).glob(f"{name}.*")):
            file.replace(target / CELLS / file.name)
        if (source / name).is_dir():
            (source / name).rename(target / name)
    except OSError as error:
        raise RunFolderError(f"{source / name}: cannot be moved to {target} ({error.strerror or error})") from error


def _earlier(path: Path, folder: Path) -> Earlier:
    name = path.stem
    # Who is at a run that is done may still write there, and it must not be moved.
    return Earlier(name, read_cell(path), "running" if is_taken(folder, name) else measured(name, folder))


def _same(old: Earlier, cell: Cell) -> bool:
    now = cell.asked()
    return bool(old.asked) and all(old.asked[key] == now[key] for key in ("job", "model", "data"))


def _changed(old: Earlier, cell: Cell) -> dict[str, tuple[Any, Any]]:
    before, now = old.asked["options"], dict(cell.options)
    names = dict.fromkeys([*before, *now])
    return {
        name: (before.get(name, ABSENT), now.get(name, ABSENT))
        for name in names
        if before.get(name, ABSENT) != now.get(name, ABSENT)
    }
