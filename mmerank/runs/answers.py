"""The folder of a scored benchmark: settings, answers a line each, scores; continued where it was left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmerank.durable import own_folder, whole
from mmerank.errors import RunFolderError
from mmerank.files import regular_bytes, require_local
from mmerank.processes import rank
from mmerank.runs.cache import folder_name, reason
from mmerank.runs.locks import locked
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
                there = _object(stated)
                differing = sorted(key for key in {*there, *asked} if there.get(key) != asked.get(key))
                if differing:
                    known = "; ".join(
                        f"{key}: {there.get(key)!r} there, {asked.get(key)!r} here" for key in differing
                    )
                    raise RunFolderError(f"{path}: holds other scores ({known}); name another folder")
            else:
                own_folder(path)
                _write(stated, json.dumps(asked, indent=1) + "\n")
            own_folder(path / _ANSWERS)

    def entries(self, model: str, source: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What is known of a model's questions so far, from whichever process.

        Args:
            model: Its name.
            source: What it is known by.

        Returns:
            JSON values by id of the question, of several the last answer; a line that a killed process left
            unfinished does not count.

        Raises:
            RunFolderError: They are of another model of that name.
        """
        found: dict[str, dict[str, Any]] = {}
        known = json.loads(json.dumps(source))
        for file in sorted((self.path / _ANSWERS).glob(f"{folder_name(model)}.*.jsonl")):
            with self._explained():
                head, *lines = regular_bytes(file).split(b"\n")[:-1] or [b"{}"]
            if _parsed(head).get("source") != known:
                raise RunFolderError(
                    f"{self.path}: {model} is another model there (other weights, configuration or versions); name "
                    "another folder"
                )
            for name, entry in (of for line in lines for of in _parsed(line).items()):
                if "skipped" not in entry or name not in found:
                    found[name] = entry
        return found

    @contextmanager
    def writing(self, model: str, source: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """What adds answers, a line each, while the block runs; a process that dies lets go.

        Args:
            model: Its name.
            source: What it is known by.

        Yields:
            Takes the JSON values of a question, by its id.

        Raises:
            RunFolderError: Another process writes there.
        """
        file = self.path / _ANSWERS / f"{folder_name(model)}.{rank().index}.jsonl"
        with locked(self.path, f"{_ANSWERS}/{file.stem}.lock", wait=False) as is_ours:
            if not is_ours:
                raise RunFolderError(f"{self.path}: another process is answering here")
            with self._explained():
                content = regular_bytes(file) if file.exists() else b""
                if not content.endswith(b"\n"):  # new, or by a process that was killed
                    head = json.dumps({"model": model, "source": source}) + "\n"
                    _write(file, content[: content.rfind(b"\n") + 1].decode() or head)
                out = file.open("a", encoding="utf-8")
            with out:

                def add(answer: Mapping[str, Any]) -> None:
                    with self._explained():
                        out.write(json.dumps(answer) + "\n")
                        out.flush()

                yield add

    def results(self) -> list[dict[str, Any]]:
        """The results in `summary.json`, of models that were scored here before; none where there is none."""
        path = self.path / SUMMARY
        with self._explained():
            found = _object(path).get("results") if path.is_file() else None
        return found if isinstance(found, list) else []

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


def read_scores(path: Path) -> dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]]:
    """What a folder of scores holds of each model.

    Args:
        path: The folder.

    Returns:
        By model its settings, the entries as from `AnswerFolder.entries`, and what it was loaded from.

    Raises:
        RunFolderError: It is no such folder, or damaged.
    """
    if not (path / STATED).is_file():
        raise RunFolderError(
            f"{path}: not a folder of scores (no {STATED}); name what --out of mmerank score was given"
        )
    settings = _object(path / STATED)
    folder = AnswerFolder(path, settings)
    heads = [_parsed(regular_bytes(file).partition(b"\n")[0]) for file in sorted((path / _ANSWERS).glob("*.jsonl"))]
    sources = {str(head["model"]): head["source"] for head in heads if head.keys() >= {"model", "source"}}
    return {model: (settings, folder.entries(model, source), source) for model, source in sources.items()}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(regular_bytes(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: damaged, so it is not known what the folder holds; name another")
    return content


def _write(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
