"""Run folder: settings, Parquet parts of records, summary. What is in it is whole, and can be continued."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from mmerank.durable import UNFINISHED, own_folder, remove_unfinished, whole
from mmerank.errors import RunFolderError
from mmerank.files import json_of, require_local
from mmerank.inputs import DataSet, Example, Skipped, fingerprint
from mmerank.processes import rank
from mmerank.records import Record, read_examples, read_part, read_parts, write_part

# No process takes that long to write a file.
UNFINISHED_FOR_S = 600.0


class RunFolder:
    """A folder that holds one run: `run.json`, `records/*.parquet`, `summary.json`.

    Opening a folder that exists continues it, if the settings are the same. A new one is made when the first model
    is stated, so that a model that cannot be loaded leaves nothing behind. Processes that a launcher started together
    (`mmerank.processes`) fill one folder together: each adds parts of its own.

    Args:
        path: Created when missing.
        settings: JSON values by name: what a run must share with an earlier one to continue it.
        waits: Wait for another process that writes here, in place of an error.

    Raises:
        RunFolderError: The folder holds another run, or something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, waits: bool = False):
        require_local(path, "run folder")
        self.path = path
        self._records = path / "records"
        self._stated = path / "run.json"
        self._waits = waits
        self._asked = {**settings, "versions": versions()}
        self._done: dict[str, set[tuple[str, str]]] = {}  # by part
        self._sound: set[str] = set()  # parts
        with self._explained("used as a run folder"):
            if not self._stated.is_file() and path.exists() and (not path.is_dir() or _foreign(path)):
                raise RunFolderError(f"{path}: not empty, and not a run folder (no run.json); name another")
            self.settings = self._read()

    def add_model(self, name: str, source: dict[str, Any]) -> None:
        """State a model of this run.

        Args:
            name: As in the records.
            source: What was loaded from where.

        Raises:
            RunFolderError: The folder has another model of that name, or cannot be written.
        """
        source = json.loads(json.dumps(source))
        with self._explained("written"):
            self.path.mkdir(parents=True, exist_ok=True)
            # Others may state theirs at the same moment.
            with self._locked(".lock-settings", timeout=-1):
                self.settings = self._read()
                known = self.settings["models"]
                if name in known:
                    self._require(known[name], source)
                else:
                    known[name] = source
                    _write_json(self._stated, self.settings)
            own_folder(self._records)

    def records(self, model: str | None = None) -> list[Record]:
        """All records written so far, those of an example and model once.

        Args:
            model: Only this one's.

        Returns:
            The records.

        Raises:
            RunFolderError: A part is damaged.
        """
        try:
            return read_parts(self._records, model=model)
        except (pa.ArrowException, OSError) as error:
            raise RunFolderError(
                f"{self._records}: a part is damaged ({_reason(error)}); the command that wrote it sets it aside and "
                "measures it again"
            ) from error

    def done(self, model: str) -> set[str]:
        """Ids of the examples that have records of a model by now, whoever wrote them.

        Args:
            model: Its name.

        Returns:
            The ids.
        """
        with self._explained("read"):
            for part in sorted(self._records.glob("*.parquet")):
                if part.name not in self._done:
                    # The first process may be setting it aside at this moment.
                    with suppress(pa.ArrowException, FileNotFoundError):
                        self._done[part.name] = read_examples(part)
        return {example for found in self._done.values() for by, example in found if by == model}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep others from writing here while the block runs; a process that dies lets go.

        Processes that were started together count as one. What killed processes left unfinished is removed, and
        damaged parts are set aside, so that what they held is measured again.

        Yields:
            Nothing.

        Raises:
            RunFolderError: Another process writes here.
        """
        if not rank().leads:
            yield
            return
        with self._locked(".lock", timeout=-1 if self._waits else 0):
            # Others of this launch may be writing already; whoever wrote something that old is dead.
            age = 0.0 if rank().count == 1 else UNFINISHED_FOR_S
            for folder in (self.path, self._records):
                remove_unfinished(folder, older_than=age)
            self._set_damaged_parts_aside()
            yield

    @contextmanager
    def share(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Have one share of the work for this process alone while the block runs; a process that dies lets go.

        Args:
            name: Of the share; letters, digits and dashes.
            wait: Wait until nobody else has it.

        Yields:
            Whether this process has it.

        Raises:
            RunFolderError: The file system has no locks.
        """
        with self._explained("written"):
            own_folder(self.path / ".locks")
        lock = self._lock(f".locks/{name}")
        if not self._take(lock, -1 if wait else 0):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def write(self, records: list[Record]) -> None:
        """Add records as a part of their own; nothing when there are none.

        Args:
            records: Complete measurements of some examples.

        Raises:
            RunFolderError: The part cannot be written, as on a full disk.
        """
        if not records:
            return
        with self._explained("written"):
            taken = [
                int(n) for part in self._records.glob("*.parquet") if (n := part.stem.partition("-")[0]).isdigit()
            ]
            own = "" if rank().count == 1 else f"-{rank().index}-{secrets.token_hex(4)}"
            write_part(self._records / f"{max(taken, default=-1) + 1:06d}{own}.parquet", records)

    def adopt(self, model: str, records: list[Record]) -> None:
        """Add what is lacking of a model's records that were measured elsewhere; of several processes the first does.

        Args:
            model: Its name.
            records: All of them.
        """
        if rank().leads:
            with self.writing():
                have = self.done(model)
                self.write([record for record in records if record.example not in have])

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`; of several processes the first one does.

        Args:
            summary: As `--json` prints it.
        """
        if rank().leads:
            with self._explained("written"):
                _write_json(self.path / "summary.json", summary)

    def _read(self) -> dict[str, Any]:
        """What `run.json` states, if it is this run; what it will state where there is none."""
        if not self._stated.is_file():
            return {**self._asked, "models": {}}
        try:
            stated = json_of(self._stated)
        except ValueError as error:
            raise RunFolderError(f"{self._stated}: {error}; name another folder") from None
        if not isinstance(stated, dict) or not isinstance(stated.get("models"), dict):
            raise RunFolderError(f"{self._stated}: not the settings of a run; name another folder")
        self._require({key: value for key, value in stated.items() if key != "models"}, self._asked)
        return stated

    def _set_damaged_parts_aside(self) -> None:
        with self._explained("read"):
            for part in sorted(self._records.glob("*.parquet")):
                if part.name in self._sound:
                    continue
                try:
                    read_part(part)
                    self._sound.add(part.name)
                except (pa.ArrowException, OSError) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise  # of the disk or the network; what the part holds may be well
                    aside = part.with_name(f"{part.name}.damaged")
                    part.replace(aside)
                    reason = f"{part} is damaged ({_reason(error)}); it is set aside as {aside.name}"
                    warnings.warn(f"{reason}, and what it held is measured again", stacklevel=5)

    @contextmanager
    def _locked(self, name: str, timeout: float) -> Iterator[None]:
        lock = self._lock(name)
        if not self._take(lock, timeout):
            raise RunFolderError(f"{self.path}: another process is writing to this run folder")
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        path = self.path / name
        if path.is_symlink():  # what it leads to would be opened for writing, by some versions emptied
            raise RunFolderError(f"{path}: is a link; remove it")
        return FileLock(path)

    def _take(self, lock: FileLock, timeout: float) -> bool:
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            raise RunFolderError(f"{self.path}: cannot be locked ({_reason(error)})") from None
        return True

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Name folder and cause where the system refuses."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise RunFolderError(
                f"{self.path}: cannot be {what} ({_reason(error)}); what is written stays, and the same command "
                "continues"
            ) from error

    def _require(self, stated: dict[str, Any], asked: dict[str, Any]) -> None:
        if differences := _differences(stated, asked):
            raise RunFolderError(
                f"{self.path}: holds another run ({'; '.join(differences)}); "
                "name another folder, or use the same settings"
            )


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


def folder_name(argument: str) -> str:
    """A readable name for a folder, made of a MODEL or DATA argument.

    Args:
        argument: Any text.

    Returns:
        Letters, digits, dots and dashes; it differs for arguments that differ.

    Example:
        >>> folder_name("llava:/data/detail_23k.json?images=x")
        'detail_23k.json-cd793e'
    """
    last = re.sub(r"[^\w.-]+", "-", argument.partition("?")[0].rstrip("/").split("/")[-1])
    return f"{last}-{hashlib.sha256(argument.encode()).hexdigest()[:6]}"


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
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def _foreign(folder: Path) -> bool:
    """Whether there is more in a folder than what a run leaves that died before it had written anything."""
    return any(not (p.name.startswith(".lock") or p.name.endswith(UNFINISHED)) for p in folder.iterdir())


def _reason(error: Exception) -> str:
    # The system's own words: pyarrow puts more around them.
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return (reason.strip() or type(error).__name__).split("\n")[0]


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Each value that differs, by its path in the settings."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted({*there, *here})
        return [
            line for key in keys for line in _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{name}: {json.dumps(there)} there, {json.dumps(here)} here"]
