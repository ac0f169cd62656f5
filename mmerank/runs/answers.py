"""The folder of a scored benchmark: settings, answers a line each, scores; continued where it was left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from mmerank.durable import own_folder, whole
from mmerank.errors import RunFolderError
from mmerank.files import regular_bytes, require_local
from mmerank.processes import rank
from mmerank.runs.cache import folder_name, reason
from mmerank.runs.settings import SUMMARY

STATED = "score.json"
SCORES = "scores.csv"
_ANSWERS = "answers"


class AnswerFolder:
    """A folder with `score.json`, `answers/MODEL.jsonl`, `scores.csv` and `summary.json`.

    Processes that a launcher started together each answer a part of the questions, into files of their own.

    Args:
        path: Created when missing.
        settings: JSON values by name: what a run must share with an earlier one to continue it.

    Raises:
        RunFolderError: The folder holds another run, or something else, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        require_local(path, "run folder")
        self.path = path
        asked = json.loads(json.dumps(settings))
        with self._explained():
            stated = path / STATED
            if not stated.is_file() and path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunFolderError(f"{path}: not empty, and not a folder of scores (no {STATED}); name another")
            if stated.is_file():
                there = json.loads(regular_bytes(stated))
                differing = sorted(key for key in {*there, *asked} if there.get(key) != asked.get(key))
                if differing:
                    known = "; ".join(f"{key}: {there.get(key)!r} there, {asked.get(key)!r} here" for key in differing)
                    raise RunFolderError(f"{path}: holds other scores ({known}); name another folder")
            else:
                own_folder(path)
                _write(stated, json.dumps(asked, indent=1) + "\n")
            own_folder(path / _ANSWERS)

    def done(self, model: str, source: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What a model answered so far, in whichever process.

        Args:
            model: Its name.
            source: What it is known by.

        Returns:
            JSON values by id of the question; a line that a killed process left unfinished does not count.

        Raises:
            RunFolderError: They are of another model of that name.
        """
        found: dict[str, dict[str, Any]] = {}
        known = json.loads(json.dumps(source))
        for file in sorted((self.path / _ANSWERS).glob(f"{folder_name(model)}.*.jsonl")):
            with self._explained():
                lines = regular_bytes(file).split(b"\n")
            for place, line in enumerate(lines[:-1]):
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if place == 0 and entry.get("source") != known:
                    raise RunFolderError(
                        f"{self.path}: {model} is another model there (other weights, configuration or versions); "
                        "name another folder"
                    )
                if place:
                    found[entry["id"]] = entry
        return found

    @contextmanager
    def writing(self, model: str, source: Mapping[str, Any]) -> Iterator[IO[str]]:
        """A file to add answers to, a line each, while the block runs; a process that dies lets go.

        Args:
            model: Its name.
            source: What it is known by.

        Yields:
            The file.

        Raises:
            RunFolderError: Another process writes there.
        """
        file = self.path / _ANSWERS / f"{folder_name(model)}.{rank().index}.jsonl"
        with self._explained():
            try:
                lock = FileLock(file.with_suffix(".lock")).acquire(timeout=0)
            except Timeout:
                raise RunFolderError(f"{self.path}: another process is answering here") from None
        with lock, self._explained():
            torn = file.exists() and not regular_bytes(file).endswith(b"\n")
            with file.open("a", encoding="utf-8") as out:
                if torn:  # by a process that was killed
                    out.write("\n")
                if file.stat().st_size == 0:
                    out.write(json.dumps({"model": model, "source": source}) + "\n")
                yield out

    def write_scores(self, csv: str, summary: Mapping[str, Any]) -> None:
        """Write `scores.csv` and `summary.json`.

        Args:
            csv: The scores of all models so far.
            summary: As `--json` prints it.
        """
        with self._explained():
            _write(self.path / SCORES, csv)
            _write(self.path / SUMMARY, json.dumps(summary, indent=1) + "\n")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot be written ({reason(error)}); what is written stays, and the same command "
                "continues"
            ) from error
        except ValueError as error:
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(f"{self.path}: {STATED} is damaged ({error})") from error


def _write(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
