"""Run folder: settings, Parquet parts of records, summary. What is in it is whole, and can be continued."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmerank.durable import UNFINISHED, own_folder, remove_unfinished, whole
from mmerank.errors import RunFolderError
from mmerank.files import require_local
from mmerank.inputs.contents import Content
from mmerank.inputs.example import Example, Skipped, fingerprint, name_of
from mmerank.inputs.selection import Selection
from mmerank.processes import rank
from mmerank.runs.cache import reason
from mmerank.runs.columns import DamagedPart
from mmerank.runs.locks import Who, locked
from mmerank.runs.parts import FOLDER, examples_of, next_number, part_files, read_part, read_records, write_part
from mmerank.runs.record import Record, contents_of
from mmerank.runs.rules import Rules
from mmerank.runs.settings import STATED, SUMMARY, read_settings, record_fingerprint

# Of run.json. Before the second it did not state all that model and data are known by.
FORMAT = 2
# No process takes that long to write a file.
UNFINISHED_FOR_S = 600.0


class RunFolder:
    """A folder that holds one run: `run.json`, `records/*.parquet`, `summary.json`.

    Opening a folder that exists continues it, if the settings are the same. A new one is made when the first model
    is stated, so that a model that cannot be loaded leaves nothing behind, and a run that died before it had measured
    anything makes room for one with other settings. Processes that a launcher started together
    (`mmerank.processes`) fill one folder together: each adds parts of its own.

    Args:
        path: Created when missing.
        settings: JSON values by name: what a run must share with an earlier one to continue it.
        waits: Wait for another process that writes here, in place of an error: others fill it at the same time.

    Raises:
        RunFolderError: The folder holds another run, or something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, waits: bool = False):
        require_local(path, "run folder")
        self.path = path
        self._records = path / FOLDER
        self._stated = path / STATED
        self._waits = waits
        self._who: Who = "apart" if waits else "all"
        self._asked = {**settings, "versions": versions(), "format": FORMAT}
        self._done: dict[str, set[tuple[str, str]]] = {}  # by part, of those that are sound
        self._contents: dict[str, Content] = {}  # by example
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
            with locked(self.path, ".lock-settings", wait=True, who=self._who):
                self.settings = self._read()
                if self._stated.is_file() and self.settings != read_settings(self.path):
                    self._require_nobody_writes()
                known = self.settings["models"]
                if name in known and known[name] != source and self._is_blank():
                    self._require_nobody_writes()
                    del known[name]
                if name in known:
                    self._require(
                        known[name],
                        source,
                        f"models.{name}",
                        "name another folder, or measure the model under another name, if it is to be another one",
                    )
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
        return read_records(self.path, model=model)

    def done(self, model: str) -> set[str]:
        """Ids of the examples that have records of a model by now, whoever wrote them.

        Args:
            model: Its name.

        Returns:
            The ids.
        """
        self._look()  # the first process may be setting a damaged part aside at this moment
        return {example for found in self._done.values() for by, example in found if by == model}

    def contents(self) -> dict[str, Content]:
        """What the examples that have records are known by, whichever model they are of.

        Returns:
            By id.
        """
        self._look()  # a part that is damaged is set aside when writing begins
        return dict(self._contents)

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
        with locked(self.path, ".lock", wait=self._waits, who=self._who) as is_ours:
            if not is_ours:
                raise self._others_write()
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
            RunFolderError: The file system has no locks, and the launcher keeps no store.
        """
        who: Who = "apart" if self._waits else "launch"
        with locked(self.path, f".locks/{name}", wait=wait, who=who) as is_ours:
            yield is_ours

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
            own = "" if rank().count == 1 else f"-{rank().index}"
            path = self._records / f"{next_number(part_files(self.path)):06d}{own}.parquet"
            rules = Rules(self.path, self.settings)
            write_part(path, records, rules.metrics, of=rules.of)

    def adopt(self, model: str, records: list[Record]) -> None:
        """Add what is lacking of a model's records that were measured elsewhere; of several processes the first does.

        They must be what this run would have measured; they become known by its convention.

        Args:
            model: Its name.
            records: All of them.
        """
        if rank().leads:
            with self.writing():
                have = self.done(model)
                known = record_fingerprint(self.settings["models"][model], self.settings.get("convention", {}))
                self.write([replace(r, fingerprint=known) for r in records if r.example not in have])

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`; of several processes the first one does.

        Args:
            summary: As `--json` prints it.
        """
        if rank().leads:
            with self._explained("written"):
                _write_json(self.path / SUMMARY, summary)

    def _read(self) -> dict[str, Any]:
        """What `run.json` states, if it is this run; what it will state where there is none."""
        if not self._stated.is_file():
            return {**self._asked, "models": {}}
        stated = read_settings(self.path)
        if stated.get("format") != FORMAT:
            raise RunFolderError(
                f"{self.path}: was begun by an earlier version of mmerank, which did not state all that decides the "
                "numbers of a model, so it cannot be told whether this is the same one; `mmerank report` reads the "
                "folder, and to measure, name another"
            )
        settings = {key: value for key, value in stated.items() if key != "models"}
        if settings != self._asked and self._is_blank():
            return {**self._asked, "models": {}}
        self._require(settings, self._asked)
        return stated

    def _is_blank(self) -> bool:
        """Whether nothing was ever measured here."""
        return not (self.path / SUMMARY).exists() and not (self._records.is_dir() and any(self._records.iterdir()))

    def _require_nobody_writes(self) -> None:
        """Whose run is only beginning keeps the folder."""
        with locked(self.path, ".lock", wait=False, who=self._who) as is_ours:
            if not is_ours:
                raise self._others_write()

    def _others_write(self) -> RunFolderError:
        return RunFolderError(f"{self.path}: another process is writing to this run folder")

    def _look(self) -> dict[Path, str]:
        """Look at the parts that are new; what is wrong with damaged ones."""
        damaged: dict[Path, str] = {}
        with self._explained("read"):
            new = [part for part in part_files(self.path) if part.name not in self._done]
            # Behind the list: a model is stated before there are records of it.
            rules = Rules(self.path, self._read()) if new else None
            for part in new:
                assert rules is not None
                try:
                    table = read_part(part, rules)
                    self._done[part.name] = examples_of(table)
                    known = {example: Content(*of) for example, of in contents_of(table).items()}
                    self._contents = known | self._contents
                except DamagedPart as error:
                    damaged[part] = str(error)
                except FileNotFoundError:
                    pass
        return damaged

    def _set_damaged_parts_aside(self) -> None:
        for part, why in self._look().items():
            aside = part.with_name(f"{part.name}.damaged")
            with self._explained("written"):
                part.replace(aside)
            warnings.warn(
                f"{part} is damaged ({why}); it is set aside as {aside.name}, and what it held is measured again",
                stacklevel=5,
            )

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Name folder and cause where the system refuses."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise RunFolderError(
                f"{self.path}: cannot be {what} ({reason(error)}); what is written stays, and the same command "
                "continues"
            ) from error

    def _require(
        self,
        stated: dict[str, Any],
        asked: dict[str, Any],
        where: str = "",
        remedy: str = "name another folder, or use the same settings",
    ) -> None:
        if differences := _differences(stated, asked, where):
            raise RunFolderError(f"{self.path}: holds another run ({'; '.join(differences)}); {remedy}")


def open_run(
    out: str | Path,
    job: str,
    examples: Iterable[Example | Skipped],
    settings: dict[str, Any],
    *,
    selection: Selection,
) -> RunFolder:
    """The run folder of a job on a data set, new or continued.

    Args:
        out: The folder.
        job: `align` or `diff`.
        examples: The data.
        settings: What else a run must share to be continued.
        selection: Which of it are measured.

    Returns:
        The folder.

    Raises:
        RunFolderError: It holds another run, or something else, or cannot be written.
    """
    data = {"name": name_of(examples), "fingerprint": fingerprint(examples)}
    if source := getattr(examples, "source", ""):
        data["source"] = source
    return RunFolder(Path(out), {"job": job, "data": {**data, **selection.to_dict()}, **settings})


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


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Each value that differs, by its path in the settings."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted({*there, *here})
        return [
            line for key in keys for line in _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{name}: {json.dumps(there)} there, {json.dumps(here)} here"]
