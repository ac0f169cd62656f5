"""Run folder: settings, Parquet parts of records, summary. What is in it is whole, and can be continued."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from mmerank.errors import RunFolderError
from mmerank.inputs import DataSet, Example, Skipped, fingerprint
from mmerank.records import Record, read_parts, write_part


class RunFolder:
    """A folder that holds one run: `run.json`, `records/*.parquet`, `summary.json`.

    Opening a folder that exists continues it, if the settings are the same. A new one is made when the first model
    is stated, so that a model that cannot be loaded leaves nothing behind.

    Args:
        path: Created when missing.
        settings: JSON values by name: what a run must share with an earlier one to continue it.

    Raises:
        RunFolderError: The folder holds another run, or something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self._records = path / "records"
        self._stated = path / "run.json"
        settings = {**settings, "versions": versions()}
        try:
            if self._stated.is_file():
                stated = json.loads(self._stated.read_text())
                if not isinstance(stated, dict) or not isinstance(stated.get("models"), dict):
                    raise RunFolderError(f"{self._stated}: not the settings of a run; name another folder")
                self.settings: dict[str, Any] = stated
                self._require({key: value for key, value in self.settings.items() if key != "models"}, settings)
            elif path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunFolderError(f"{path}: not empty, and not a run folder (no run.json); name another")
            else:
                self.settings = {**settings, "models": {}}
        except json.JSONDecodeError as error:
            raise RunFolderError(f"{self._stated}: not valid JSON ({error}); name another folder") from None
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be used as a run folder ({error.strerror})") from None

    def add_model(self, name: str, source: dict[str, Any]) -> None:
        """State a model of this run.

        Args:
            name: As in the records.
            source: What was loaded from where.

        Raises:
            RunFolderError: The folder has another model of that name, or cannot be written.
        """
        known = self.settings["models"]
        if name in known:
            self._require(known[name], json.loads(json.dumps(source)))
        else:
            known[name] = source
            try:
                self._records.mkdir(parents=True, exist_ok=True)
                self._state()
            except OSError as error:
                raise RunFolderError(f"{self.path}: cannot be written ({error.strerror})") from None

    def records(self) -> list[Record]:
        """All records written so far.

        Returns:
            The records.

        Raises:
            RunFolderError: A part is damaged.
        """
        try:
            return read_parts(self._records)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RunFolderError(
                f"{self._records}: a part is damaged ({reason}); delete it, and the same command measures it again"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from writing here while the block runs; a process that dies lets go.

        Yields:
            Nothing.

        Raises:
            RunFolderError: Another process writes here.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(f"{self.path}: another process is writing to this run folder") from None
        try:
            yield
        finally:
            lock.release()

    def write(self, records: list[Record]) -> None:
        """Add records as a part of their own; nothing when there are none.

        Args:
            records: Complete measurements of some examples.
        """
        if records:
            taken = [int(part.stem) for part in self._records.glob("*.parquet") if part.stem.isdigit()]
            write_part(self._records / f"{max(taken, default=-1) + 1:06d}.parquet", records)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`.

        Args:
            summary: As `--json` prints it.
        """
        _write_json(self.path / "summary.json", summary)

    def _require(self, stated: dict[str, Any], asked: dict[str, Any]) -> None:
        if differences := _differences(stated, asked):
            raise RunFolderError(
                f"{self.path}: holds another run ({'; '.join(differences)}); "
                "name another folder, or use the same settings"
            )

    def _state(self) -> None:
        _write_json(self._stated, self.settings)


def open_run(
    out: str | Path,
    job: str,
    examples: Iterable[Example | Skipped],
    settings: dict[str, Any],
    *,
    limit: int | None,
    seed: int | None,
) -> RunFolder:
    """The run folder of a job on a data set, new or continued.

    Args:
        out: The folder.
        job: `align` or `diff`.
        examples: The data.
        settings: What else a run must share to be continued.
        limit: Number of examples.
        seed: Of their choice.

    Returns:
        The folder.

    Raises:
        RunFolderError: It holds another run, or something else, or cannot be written.
    """
    name = examples.name if isinstance(examples, DataSet) else "examples"
    data = {"name": name, "fingerprint": fingerprint(examples)}
    return RunFolder(Path(out), {"job": job, "data": {**data, "limit": limit, "seed": seed}, **settings})


def cache_folder() -> Path:
    """Where things are kept between runs: MMERANK_CACHE, else mmerank in the user's cache folder."""
    stated = os.environ.get("MMERANK_CACHE")
    if stated:
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmerank"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("mmerank", "torch", "transformers", "timm", "pillow", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Each value that differs, by its path in the settings."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted({*there, *here})
        return [
            line for key in keys for line in _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{name}: {json.dumps(there)} there, {json.dumps(here)} here"]
